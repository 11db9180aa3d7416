"""Speed of direct alignment against trl: each library in turn, several rounds, medians and ratios.

    python -m benchmarks.preferences --threads 2 --rounds 5 --peer-python PEERS/bin/python

`PEERS` is the environment of `benchmarks/language.py`. Both libraries take DPO steps on 32 pairs, every pair for the first time,
with the same folder of random weights (Qwen2's shape, 4 layers, 128 wide, 512 tokens): prompts of 32 tokens, answers of 64 at
equal lengths, of 1 to 127 as sampled ones spread at mixed lengths. The reference's log-probabilities are part of a step.
`dpo-memory` is what the steps add to a process's memory with a vocabulary of 50,000. Writes results/preferences-speed.json.
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
from pathlib import Path
from typing import Any

from benchmarks.language import SETTLE, STEPS, make_model

ROOT = Path(__file__).parent.parent
PAIRS, PROMPT, ANSWER = 32, 32, 64
MEASURES = ("dpo-equal", "dpo-mixed", "dpo-memory")


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


def palaestra_dpo(folder: str, rows: list[dict[str, str]]) -> list[float]:
    """When each step ended."""
    import palaestra as pal
    from palaestra.methods.preference.dpo import DPO

    ticks: list[float] = []

    class Timed(DPO):
        def step(self) -> Any:
            metrics = super().step()
            ticks.append(time.perf_counter())
            return metrics

    method = Timed(model=folder, prompts=PAIRS, lr=1e-5)
    options = {"checkpoint_every": 0, "tensorboard": False, "quiet": True, "evaluate_every": 0, "log_every": 1}
    with tempfile.TemporaryDirectory() as out:
        pal.train(method, pal.PromptTask(rows, held_out=0), updates=STEPS, out=f"{out}/run", **options)
    return ticks


def trl_dpo(folder: str, rows: list[dict[str, str]]) -> list[float]:
    """The same with trl's trainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    ticks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ticks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        config = DPOConfig(
            output_dir=out,
            per_device_train_batch_size=PAIRS,
            max_steps=STEPS,
            learning_rate=1e-5,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        DPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
            args=config,
            train_dataset=Dataset.from_list(
                [{**r, "chosen": " " + r["chosen"], "rejected": " " + r["rejected"]} for r in rows]
            ),
            callbacks=[Clock()],
        ).train()
    return ticks


def work(measure: str, library: str, threads: int) -> None:
    """One measurement in this process: seconds, or megabytes."""
    import torch

    torch.set_num_threads(threads)
    memory = measure == "dpo-memory"
    vocabulary = 50_000 if memory else 512
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder, vocabulary, ends=False)
        rows = pairs(vocabulary, measure == "dpo-mixed")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ticks = (palaestra_dpo if library == "palaestra" else trl_dpo)(folder, rows)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"value {added if memory else (ticks[-1] - ticks[SETTLE - 1]) / (len(ticks) - SETTLE):.5f}")


def run(python: str, *arguments: Any) -> float:
    """The same in a process of its own."""
    command = [python, "-m", "benchmarks.preferences", "--work", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    for line in done.stdout.splitlines():
        if line.startswith("value "):
            return float(line.split()[1])
    raise SystemExit(f"{arguments} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--measures", nargs="*", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--out", default=str(ROOT / "results" / "preferences-speed.json"))
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work[0], args.work[1], int(args.work[2]))
    found = {}
    for measure in args.measures:
        values: dict[str, list[float]] = {"palaestra": [], "trl": []}
        for _ in range(args.rounds):
            for library, column in values.items():
                python = args.peer_python if library == "trl" else sys.executable
                column.append(run(python, measure, library, args.threads))
        ratio = statistics.median(b / a for a, b in zip(*values.values(), strict=True))
        unit = "MB" if measure == "dpo-memory" else "seconds"
        found[measure] = {unit: values, "ratio": ratio}
        shown = ", ".join(f"{library} {statistics.median(column):.3g} {unit}" for library, column in values.items())
        print(f"{measure:12s} {shown}: {ratio:.2f}x", flush=True)
    given = " ".join(sys.argv[1:]).replace(args.peer_python, "PEERS/bin/python")
    result = {"command": f"python -m benchmarks.preferences {given}", "threads": args.threads, "measures": found}
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
