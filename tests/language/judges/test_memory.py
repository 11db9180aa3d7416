"""Judges that remember: a run begins with them fresh, and goes on with what they remembered."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.judges.contests import QueueWinRate
from palaestra.language.judges.kinds import BothOrders, Sign, as_reward
from palaestra.language.judges.memory import Memory, within
from palaestra.language.judges.wrappers import Guarded, NoisyScores
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.rloo import RLOO


@pytest.fixture(autouse=True)
def _model():
    """A model of digits in the folder `model`."""
    torch.manual_seed(0)
    pal.LanguagePolicy.make("tiny-16x1", as_task("sorting")).save("model")


def odd(rows, answers):
    return torch.tensor([float(sum(map(ord, answer)) % 97) for answer in answers])


def task() -> PromptTask:
    queue = as_reward(QueueWinRate(Sign(odd), 8), "queue")
    return PromptTask([{"prompt": f"{i}="} for i in range(3)], queue, limit=4, held_out=0.0)


def bound(task: PromptTask) -> RLOO:
    return RLOO(model="model", prompts=2, group=2, lr=1e-3).bind(task, 0, Budget(updates=8))


def weights(method) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in method.language_policy.model.parameters()])


def test_a_run_goes_on_with_what_its_judge_remembered():
    own = task()
    whole = bound(own)
    for _ in range(2):
        whole.step()
    kept, halfway = copy.deepcopy(whole.state_dict()), weights(whole)
    for _ in range(2):
        whole.step()
    resumed = bound(own)
    resumed.load_state_dict(kept)
    assert torch.equal(weights(resumed), halfway)
    for _ in range(2):
        resumed.step()
    assert torch.equal(weights(whole), weights(resumed))
    assert resumed.state_dict()["memory"] == whole.state_dict()["memory"] != kept["memory"]


def test_a_run_begins_with_its_judge_as_it_was_made():
    own = task()
    found = []
    for _ in range(2):
        method = bound(own)
        for _ in range(3):
            method.step()
        found.append(weights(method))
    assert torch.equal(*found)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(monkeypatch):
    queue = as_reward(QueueWinRate(Sign(odd), 8), "queue")
    own = PromptTask([{"prompt": f"{i}="} for i in range(6)], queue, limit=4)
    engine = pal.Engine(quiet=True, tensorboard=False, checkpoint_every=1, evaluate_every=1, evaluate_episodes=1)
    step, calls = RLOO.step, []

    def mortal(self):
        calls.append(None)
        if len(calls) == 3:
            raise SystemExit
        return step(self)

    def run(folder: str) -> pal.Run:
        method = RLOO(model="model", prompts=2, group=2, lr=1e-3)
        return pal.Run(method, own, updates=4, folder=folder, engine=engine)

    run("whole").train()
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(RLOO, "step", mortal)
        run("cut").train()
    run("cut").train(resume=True)
    for name in ("policy/model.safetensors", "metrics.jsonl"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes()


def test_what_remembers_is_found_within_other_judges():
    queue = QueueWinRate(Sign(odd))
    for judge in (queue, queue.__call__, as_reward(NoisyScores(queue, 0.1)), Guarded(BothOrders(Sign(queue)))):
        assert within(judge) is queue
    for judge in (odd, len, as_reward(odd), Sign(odd), nn.Linear(1, 1), None):
        assert within(judge) is None
    assert (
        not Memory({"odd": odd}).judges
        and "memory" not in bound(PromptTask([{"prompt": "7="}], odd_reward)).state_dict()
    )


def odd_reward(completions):
    return [float(len(completion)) for completion in completions]


def test_a_judge_that_remembers_is_refused_in_several_processes():
    with pytest.raises(BadSetting, match="a judge that remembers"):
        bound(task()).shard()


def test_a_plain_pair_judge_that_gives_something_to_await_is_awaited_without_a_limit_too():
    async def said(count: int) -> torch.Tensor:
        return torch.full((count,), 0.75)

    judge = Guarded(lambda rows, first, second: said(len(rows)), None)
    assert judge([{"prompt": "1="}] * 2, ["1", "2"], ["2", "1"]).tolist() == [0.75, 0.75]
