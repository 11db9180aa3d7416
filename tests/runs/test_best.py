"""A run that keeps its best: the policy of the evaluation with the highest return, also where it was interrupted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import palaestra as pal
from palaestra.core.seeding import seed_for
from palaestra.core.task import Evaluation
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.methods.preference.dno import DNO

RETURNS = {2: 0.3, 4: 0.7, 6: 0.7, 8: 0.5}
"""What evaluations find, by updates."""
LIKELIEST = {2: 0.9, 4: 0.2, 6: 0.8, 8: 0.9}
"""What they find where they take the likeliest answers."""


class Greedy(NoisySort):
    sampled = False


def weights(folder: Path) -> str:
    (file,) = folder.glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def seen(monkeypatch):
    """What the policy was at each evaluation."""
    kept: dict[int, str] = {}

    def evaluate(self, policy, episodes, seed, video=None):
        (clock,) = (c for c in RETURNS if seed_for(0, "evaluate", c) == seed)
        kept[clock] = weights(policy.save(f"seen{clock}"))
        return Evaluation([(RETURNS if self.sampled else LIKELIEST)[clock]], [3], seed=seed)

    monkeypatch.setattr(NoisySort, "evaluate", evaluate)
    return kept


def run(folder: str, task: type[NoisySort] = NoisySort, **engine) -> pal.Run:
    method = DNO(model="tiny-16x1", prompts=4, group=2, minibatches=2, lr=1e-2)
    engine = pal.Engine(quiet=True, tensorboard=False, evaluate_every=2, checkpoint_every=2, **engine)
    return pal.Run(method, task(train_rows=150), updates=8, folder=folder, engine=engine)


def test_it_is_the_first_of_those_with_the_highest_return(seen):
    run("kept", keep_best=True).train()
    assert len(set(seen.values())) == 4
    assert weights(Path("kept/best")) == seen[4] and weights(Path("kept/policy")) == seen[8]
    assert pal.load_policy("kept/best").predict("5310=")


def test_where_evaluations_take_the_likeliest_answers_it_is_chosen_by_sampled_ones(seen):
    kept, plain = run("kept", Greedy, keep_best=True).train(), run("plain", Greedy).train()
    assert weights(Path("kept/best")) == seen[4]
    rows = [row for row in kept.metrics if "evaluation/return" in row]
    assert [(row["evaluation/return"], row["evaluation/sampled"]) for row in rows] == list(
        zip(LIKELIEST.values(), RETURNS.values(), strict=True)
    )
    assert not any("evaluation/sampled" in row for row in plain.metrics)
    assert [r.record["counters"]["evaluation_steps"] for r in (kept, plain)] == [4 * 6, 4 * 3]


def test_a_run_keeps_none_unless_it_is_asked_to(seen):
    run("plain").train()
    assert not Path("plain/best").exists()


def test_after_an_interruption_what_was_best_before_still_counts(seen, monkeypatch):
    step, calls = DNO.step, []

    def mortal(self):
        calls.append(None)
        if len(calls) == 3:
            raise SystemExit
        return step(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(DNO, "step", mortal)
        run("cut", keep_best=True).train()
    run("cut", keep_best=True).train(resume=True)
    assert weights(Path("cut/best")) == seen[4]
