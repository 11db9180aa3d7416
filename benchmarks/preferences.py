"""Speed of learning from preferences against trl: each library in turn, several rounds, medians and ratios.

    python -m benchmarks.preferences --threads 2 --rounds 5 --peer-python PEERS/bin/python

`PEERS` is the environment of `benchmarks/language.py`. Both libraries train the same folder of random weights (Qwen2's shape, 4
layers, 128 wide, 512 tokens). Writes results/preferences-speed.json.

`dpo-*` are DPO steps on 32 pairs, every pair for the first time: prompts of 32 tokens, answers of 64 at equal lengths, of 1 to
127 as sampled ones spread at mixed lengths. The reference's log-probabilities are part of a step.

`rlhf-*` are whole rounds of learning from a reward model: 4 prompts of 16 tokens, 8 answers to each of up to 64, which end
before only at mixed lengths; scores by a classifier of the same shape; the reference's log-probabilities; one update. Both are
RLOO, since trl 1.16 has no PPO.

`*-memory` is what the steps add to a process's memory at equal lengths with a vocabulary of 50,000.
"""

from __future__ import annotations

import resource
import tempfile
import time
from typing import Any

from benchmarks.language import GROUP, NEW, PROMPTS, SETTLE, STEPS, compared, make_model, prompts, share_of_first_tokens

PAIRS, PROMPT, ANSWER = 32, 32, 64
KL = 0.05
LR = 1e-5
MEASURES = dict.fromkeys(
    (f"{kind}-{how}" for kind in ("dpo", "rlhf") for how in ("equal", "mixed", "memory")), ("palaestra", "trl")
)


def pairs(vocabulary: int, mixed: bool) -> list[dict[str, str]]:
    """Rows of random words, as many as all steps need."""
    import torch

    g = torch.Generator().manual_seed(1)

    def words(length: int) -> str:
        return " ".join(f"w{i}" for i in torch.randint(2, vocabulary, (length,), generator=g).tolist())

    def answer() -> str:
        spread = 1 + torch.empty(1).exponential_(1 / 24, generator=g).clamp(max=126)
        return words(int(spread) if mixed else ANSWER)

    return [{"prompt": words(PROMPT), "chosen": answer(), "rejected": answer()} for _ in range(PAIRS * STEPS)]


def make_reward_model(folder: str) -> None:
    """A classifier with the weights of the model in a folder and a random head, in the folder `reward` inside."""
    import torch
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(1)
    model, inside = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1), f"{folder}/reward"
    model.save_pretrained(inside)
    PreTrainedTokenizerFast.from_pretrained(folder).save_pretrained(inside)


def palaestra_ticks(method: type, task: Any, **settings: Any) -> list[float]:
    """When each step of a method ended."""
    import torch

    import palaestra as pal

    ticks: list[float] = []

    class Timed(method):  # type: ignore[misc]
        def step(self) -> Any:
            metrics = super().step()
            ticks.append(time.perf_counter())
            return metrics

    options = {
        "checkpoint_every": 0,
        "tensorboard": False,
        "quiet": True,
        "evaluate_every": 0,
        "log_every": 1,
        "threads": torch.get_num_threads(),  # else a run chooses for itself
    }
    with tempfile.TemporaryDirectory() as out:
        pal.train(Timed(lr=LR, **settings), task, updates=STEPS, out=f"{out}/run", **options)
    return ticks


def trl_ticks(trainer: type, config: type, folder: str, rows: list[dict[str, str]], settings: Any, **more: Any) -> Any:
    """The same of a trainer of trl's, with `settings` of its config."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

    ticks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        args = config(
            output_dir=out,
            max_steps=STEPS,
            learning_rate=LR,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **settings,
        )
        trainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
            args=args,
            train_dataset=Dataset.from_list(rows),
            callbacks=[Clock()],
            **more,
        ).train()
    return ticks


def dpo(library: str, folder: str, vocabulary: int, mixed: bool) -> list[float]:
    """When each DPO step ended."""
    rows = pairs(vocabulary, mixed)
    if library == "palaestra":
        import palaestra as pal

        return palaestra_ticks(pal.DPO, pal.PromptTask(rows, held_out=0), model=folder, prompts=PAIRS)
    from trl import DPOConfig, DPOTrainer

    spaced = [{**r, "chosen": " " + r["chosen"], "rejected": " " + r["rejected"]} for r in rows]
    return trl_ticks(DPOTrainer, DPOConfig, folder, spaced, {"per_device_train_batch_size": PAIRS})


def rlhf(library: str, folder: str, vocabulary: int, mixed: bool) -> list[float]:
    """When each round ended."""
    reward_model = f"{folder}/reward"
    rows = [
        {"prompt": prompt + " "} for prompt in prompts(vocabulary)
    ]  # so that an answer's first word is one of its own
    if library == "palaestra":
        import palaestra as pal

        task = pal.PromptTask(rows, share_of_first_tokens, held_out=0)  # which the reward model stands in for
        sizes = {"prompts": PROMPTS, "group": GROUP, "max_tokens": NEW}
        return palaestra_ticks(pal.RLOO, task, model=folder, reward_model=reward_model, kl_weight=KL, **sizes)
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
    from trl import RLOOConfig, RLOOTrainer

    settings = {
        "per_device_train_batch_size": PROMPTS * GROUP,
        "num_generations": GROUP,
        "max_completion_length": NEW,
        "beta": KL,
        "top_k": 0,
    }
    return trl_ticks(
        RLOOTrainer,
        RLOOConfig,
        folder,
        rows,
        settings,
        reward_funcs=AutoModelForSequenceClassification.from_pretrained(reward_model),
        reward_processing_classes=PreTrainedTokenizerFast.from_pretrained(reward_model),
    )


def work(measure: str, library: str, threads: int) -> None:
    """One measurement in this process: seconds, or megabytes."""
    import torch

    torch.set_num_threads(threads)
    kind, _, how = measure.partition("-")
    vocabulary, mixed = 50_000 if how == "memory" else 512, how == "mixed"
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, vocabulary, ends=mixed)
        if kind == "rlhf":
            make_reward_model(folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ticks = {"dpo": dpo, "rlhf": rlhf}[kind](library, folder, vocabulary, mixed)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"value {added if how == 'memory' else (ticks[-1] - ticks[SETTLE - 1]) / (len(ticks) - SETTLE):.5f}")


if __name__ == "__main__":
    compared(["-m", "benchmarks.preferences"], MEASURES, work, "preferences-speed.json", __doc__)
