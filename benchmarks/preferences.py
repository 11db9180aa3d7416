"""Speed of direct alignment against trl: each library in turn, several rounds, medians and ratios.

    python -m benchmarks.preferences --threads 2 --rounds 5 --peer-python PEERS/bin/python

`PEERS` is the environment of `benchmarks/language.py`. Both libraries take DPO steps on 32 pairs, every pair for the first time,
with the same folder of random weights (Qwen2's shape, 4 layers, 128 wide, 512 tokens): prompts of 32 tokens, answers of 64 at
equal lengths, of 1 to 127 as sampled ones spread at mixed lengths. The reference's log-probabilities are part of a step.
`dpo-memory` is what the steps add to a process's memory with a vocabulary of 50,000. Writes results/preferences-speed.json.
"""

from __future__ import annotations

import resource
import tempfile
import time
from typing import Any

from benchmarks.language import SETTLE, STEPS, compared, make_model

PAIRS, PROMPT, ANSWER = 32, 32, 64
MEASURES = dict.fromkeys(("dpo-equal", "dpo-mixed", "dpo-memory"), ("palaestra", "trl"))


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


if __name__ == "__main__":
    compared(["-m", "benchmarks.preferences"], MEASURES, work, "preferences-speed.json", __doc__)
