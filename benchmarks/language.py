"""Speed of language methods against trl: each library in turn, several rounds, medians and ratios.

    python benchmarks/language.py --threads 2 --rounds 5 --peer-python PEERS/bin/python

`PEERS` is an environment with `pip install torch==2.13.0`, then `pip install trl==1.16.0`. Both libraries train the same folder
of random weights (Qwen2's shape, 4 layers, 128 wide, 512 tokens) on the same prompts with a trivial reward: 4 prompts of 16
tokens, 8 answers to each, 64 new tokens, one update a step, no reference. At equal lengths no answer ends before 64 tokens; at
mixed lengths the end has a chance of some 5% at every token. Writes results/language-speed.json and prints a table.

`grpo-*` is a whole step of each library's trainer, `generate-*` its sampling alone (against `model.generate`), `pack` the forward
and backward pass over answers of mixed length, packed against a transformers model's own over padded ones, `pairs` the same over
32 pairs of 97 tokens each, with nothing to pad and a shared prompt of 16, and `memory` the peak of a step with a vocabulary of
50,000. Measures that are left out (`--measures`) stay in the file as they were.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROMPTS, GROUP, PROMPT, NEW = 4, 8, 16, 64
STEPS, SETTLE = 12, 3
"""Steps of a run, and how many of them go before the clock starts."""
MEASURES = {
    "grpo-equal": ("palaestra", "trl"),
    "grpo-mixed": ("palaestra", "trl"),
    "generate-equal": ("palaestra", "transformers"),
    "generate-mixed": ("palaestra", "transformers"),
    "pack": ("palaestra", "transformers"),
    "pairs": ("palaestra", "transformers"),
    "memory": ("palaestra", "trl"),
}
"""What is compared, and who takes part."""


def make_model(folder: str, vocabulary: int, ends: bool) -> None:
    """A folder with random weights and a tokeniser of one word a token; with `ends`, the end has a chance of some 5%."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, vocabulary)}}
    core = Tokenizer(WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = WhitespaceSplit()
    tokeniser = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():  # a direction that every state has, along which the head reads the end, or never does
        direction = torch.nn.functional.normalize(torch.randn(128), dim=0)
        model.model.embed_tokens.weight += direction
        model.lm_head.weight[1] = direction * (0.41 if ends else -4.0)
        model.lm_head.weight[0] = direction * -4.0
    model.save_pretrained(folder)
    tokeniser.save_pretrained(folder)


def prompts(vocabulary: int) -> list[str]:
    import torch

    ids = torch.randint(2, vocabulary, (64, PROMPT), generator=torch.Generator().manual_seed(1))
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]


def share_of_first_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A trivial reward: how many tokens come from the first half of the vocabulary."""
    return [sum(i < 256 for i in ids) / len(ids) for ids in completion_ids]


def palaestra_grpo(folder: str, vocabulary: int) -> tuple[list[float], float]:
    """When each step ended, and how many tokens an answer had."""
    import palaestra as pal

    ticks: list[float] = []

    class Timed(pal.GRPO):
        def step(self) -> Any:
            metrics = super().step()
            ticks.append(time.perf_counter())
            return metrics

    rows = [{"prompt": p} for p in prompts(vocabulary)]
    task = pal.PromptTask(rows, share_of_first_tokens, held_out=0)
    method = Timed(model=folder, prompts=PROMPTS, group=GROUP, max_tokens=NEW, lr=1e-5)
    options = {"checkpoint_every": 0, "tensorboard": False, "quiet": True, "evaluate_every": 0}
    with tempfile.TemporaryDirectory() as out:
        run = pal.train(method, task, updates=STEPS, out=f"{out}/run", log_every=1, **options)
        lengths = [row["answers/length"] for row in run.metrics if "answers/length" in row]
    return ticks, sum(lengths) / len(lengths)


def trl_grpo(folder: str, vocabulary: int) -> tuple[list[float], float]:
    """The same with trl's trainer."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    ticks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=NEW,
            max_steps=STEPS,
            beta=0.0,
            learning_rate=1e-5,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            top_k=0,
        )
        trainer = GRPOTrainer(
            model=folder,
            processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
            reward_funcs=share_of_first_tokens,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": p} for p in prompts(vocabulary)]),
            callbacks=[Clock()],
        )
        trainer.train()
        lengths = [
            row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row
        ]
    return ticks, sum(lengths) / len(lengths)


def seconds_per_call(call: Any) -> float:
    """The median over some calls, after some."""
    times = []
    for _ in range(STEPS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times[SETTLE:])


def generation(library: str, folder: str, vocabulary: int) -> float:
    """Seconds to answer 4 prompts 8 times each."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    asked = prompts(vocabulary)[:PROMPTS]
    if library == "palaestra":
        from palaestra.language.policy import LanguagePolicy

        policy = LanguagePolicy.make(folder)
        seeds = iter(range(10_000))
        rows = [{"prompt": p} for p in asked]
        return seconds_per_call(lambda: policy.answer(rows, copies=GROUP, max_tokens=NEW, seed=next(seeds)))
    model, tokeniser = AutoModelForCausalLM.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)
    inputs = tokeniser([p for p in asked for _ in range(GROUP)], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return seconds_per_call(lambda: model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=NEW))


def packing(library: str, folder: str, pairs: bool) -> float:
    """Seconds of a forward and backward pass over 32 answers, whose lengths spread from 1 to 128 as sampled ones do, or pairs."""
    import torch
    from transformers import AutoModelForCausalLM

    g = torch.Generator().manual_seed(3)
    lengths = (PROMPT + 1 + torch.empty(32).exponential_(1 / 24, generator=g).clamp(max=127)).long().tolist()
    lengths = [97] * 64 if pairs else lengths
    ids = [torch.randint(2, 512, (n,), generator=g) for n in lengths]
    for first, second in zip(ids[::2], ids[1::2], strict=True) if pairs else ():
        second[:PROMPT] = first[:PROMPT]
    if library == "palaestra":
        from palaestra.core.experience import Experience
        from palaestra.language.packing import bins
        from palaestra.language.policy import LanguagePolicy

        policy = LanguagePolicy.make(folder)
        parts = [
            Experience(
                action=x,
                mask=torch.arange(len(x)) >= PROMPT,
                segment=torch.full((len(x),), i),
                group=torch.full((len(x),), i // 2 if pairs else i),
            )
            for i, x in enumerate(ids)
        ]

        def packed() -> None:
            for group in bins(lengths, 16_384):
                batch = Experience.cat([parts[i] for i in group])
                loss = -policy.score(batch).logp.sum()
                torch.autograd.grad(loss, policy.trainable())

        return seconds_per_call(packed)
    model = AutoModelForCausalLM.from_pretrained(folder)
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = (torch.arange(padded.shape[1]) < torch.tensor(lengths).unsqueeze(1)).long()

    def plain() -> None:
        logits = model(input_ids=padded, attention_mask=mask).logits[:, PROMPT - 1 : -1]
        logp = logits.log_softmax(-1).gather(-1, padded[:, PROMPT:].unsqueeze(-1)).squeeze(-1)
        loss = -(logp * mask[:, PROMPT:]).sum()
        torch.autograd.grad(loss, list(model.parameters()))

    return seconds_per_call(plain)


def work(measure: str, library: str, threads: int) -> None:
    """One measurement in this process: seconds, or bytes."""
    import torch

    torch.set_num_threads(threads)
    kind, _, lengths = measure.partition("-")
    vocabulary = 50_000 if kind == "memory" else 512
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, vocabulary, lengths == "mixed")
        if kind in ("grpo", "memory"):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            ticks, length = (palaestra_grpo if library == "palaestra" else trl_grpo)(folder, vocabulary)
            if kind == "memory":
                value = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            else:
                value = (ticks[-1] - ticks[SETTLE - 1]) / (len(ticks) - SETTLE)
            print(f"length {length:.1f}", file=sys.stderr)
        elif kind == "generate":
            value = generation(library, folder, vocabulary)
        else:
            value = packing(library, folder, kind == "pairs")
    print(f"value {value:.5f}")


def run(script: list[str], python: str, *arguments: Any) -> float:
    """A measurement in a process of its own."""
    command = [python, *script, "--work", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    for line in done.stdout.splitlines():
        if line.startswith("value "):
            return float(line.split()[1])
    raise SystemExit(f"{arguments} failed:\n{done.stderr[-3000:]}")


def compared(
    script: list[str],
    measures: Mapping[str, tuple[str, str]],
    work: Callable[[str, str, int], None],
    out: str,
    about: str | None,
) -> None:
    """The command line of a benchmark that takes two libraries in turn; what it is not asked to measure stays in its file.

    Each measure has the command, commit and machine that it is of, which may not be those of the others.
    """
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--measures", nargs="*", default=list(measures), choices=list(measures))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--out", default=str(HERE.parent / "results" / out))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work[0], args.work[1], int(args.work[2]))
    from palaestra.runs.origin import versions  # which workers of other environments may not have

    command = " ".join(["python", *script, *sys.argv[1:]]).replace(args.peer_python, "PEERS/bin/python")
    measured = json.loads(Path(args.out).read_text())["measures"] if Path(args.out).exists() else {}
    result = {"command": command, "threads": args.threads, "measures": measured}
    for measure in args.measures:
        ours, theirs = measures[measure]
        values: dict[str, list[float]] = {ours: [], theirs: []}
        for _ in range(args.rounds):
            for library, column in values.items():
                python = args.peer_python if library == "trl" else sys.executable
                column.append(run(script, python, measure, library, args.threads))
        ratio = statistics.median(b / a for a, b in zip(values[ours], values[theirs], strict=True))
        unit = "MB" if measure.endswith("memory") else "seconds"
        measured[measure] = {unit: values, "ratio": ratio, "command": command, "versions": versions()}
        Path(args.out).write_text(json.dumps(result, indent=2) + "\n")  # what is broken off keeps what it has measured
        shown = ", ".join(f"{library} {statistics.median(column):.3g} {unit}" for library, column in values.items())
        print(f"{measure:15s} {shown}: {ratio:.2f}x", flush=True)
    print(f"written to {args.out}")


if __name__ == "__main__":
    compared(["benchmarks/language.py"], MEASURES, work, "language-speed.json", __doc__)
