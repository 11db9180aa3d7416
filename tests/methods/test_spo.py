"""Self-play preference optimisation: scores against a queue by hand, what the learner may see, and what it costs."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from palaestra.core.errors import BadEnvironment, BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.envs.judged import JudgedTask
from palaestra.envs.judges import MaxReturn
from palaestra.envs.task import EnvTask
from palaestra.methods.online.sac import SAC
from palaestra.methods.preference.spo import SPO, SPOSAC
from palaestra.nets.ensemble import Ensemble

SMALL: dict[str, Any] = {"network": (8, 8), "num_envs": 4, "rollout_steps": 20, "minibatch": 40, "epochs": 2}
SMALL_SAC: dict[str, Any] = {"network": (8, 8), "batch_size": 4, "buffer_size": 400, "warmup_steps": 60}


def bound(method: Any, steps: int = 400, **task: Any) -> Any:
    return method.bind(as_task("judged", **task), 0, Budget(steps=steps))


def earning(*returns: float) -> Experience:
    """Trajectories of one step that earn this."""
    return Experience(
        obs=torch.zeros(1, len(returns), 4),
        action=torch.zeros(1, len(returns), 2),
        reward=torch.tensor([returns]),
        next_obs=torch.zeros(1, len(returns), 4),
        mask=torch.ones(1, len(returns)),
    )


def scored(new: list[float], queue: list[float], size: int = 4) -> list[float]:
    method = bound(SPO(**SMALL, queue=size))
    if queue:
        method.rivals.add(earning(*queue))
    return method.against_queue(earning(*new)).tolist()


def test_three_wins_and_a_loss_are_a_half():
    assert scored([2.5], [1.0, 2.0, 0.0, 3.0]) == [0.5]


def test_where_preferences_have_an_order_rewards_have_it_too():
    returns = torch.randn(20, generator=torch.Generator().manual_seed(0))
    found = torch.tensor(scored(returns.tolist(), returns[:7].add(0.01).tolist(), size=7))
    ordered = found[returns.argsort()]
    assert bool((ordered.diff() >= 0).all()) and found.max() > found.min()


def test_the_first_are_compared_with_each_other_and_never_with_themselves():
    calls = []

    def watched(first: Experience, second: Experience) -> torch.Tensor:
        calls.extend(zip(first.reward[0].tolist(), second.reward[0].tolist(), strict=True))
        return MaxReturn()(first, second)

    method = bound(SPO(**SMALL, queue=4))
    method.ask.judge, method.ask.checked = watched, True
    found = method.against_queue(earning(1.0, 2.0, 3.0, 4.0))
    assert all(a != b for a, b in calls) and len(calls) == 4 * 3 == method.counters.judge_calls
    assert found.tolist() == pytest.approx([-1.0, -1 / 3, 1 / 3, 1.0])
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-6), "what one wins another loses"


def test_those_that_came_with_the_first_but_not_into_the_queue_are_compared_with_all_of_it():
    assert scored([1.0, 2.0, 1.5], [], size=2) == [-1.0, 1.0, 0.0]


def test_a_queue_of_one_is_enough_and_one_of_none_is_refused():
    assert scored([1.0, 2.0], [], size=1) == [-1.0, 1.0]
    with pytest.raises(BadSetting, match="queue"):
        bound(SPO(queue=0))


def test_the_queue_holds_the_latest():
    method = bound(SPO(**SMALL, queue=3))
    for _ in range(4):
        method.step()
    assert len(method.rivals) == 3 and method.rivals.added == 16
    returns = method.rivals.held.reward.sum(0)
    torch.testing.assert_close(returns, torch.tensor(method.rollout.rollout.recent[-3:], dtype=torch.float32))


def test_each_trajectory_costs_as_many_questions_as_the_queue_is_long():
    method = bound(SPO(**SMALL, queue=3))
    method.step()
    before = method.counters.judge_calls
    method.step()
    assert method.counters.judge_calls - before == 4 * 3 and method.counters.steps == 160


@pytest.mark.parametrize("evenly", [True, False])
def test_the_agent_sees_the_score_and_not_the_reward(evenly):
    method = bound(SPO(**SMALL, queue=4, evenly=evenly, gamma=1.0))
    steps = method.rollout.collect(method.behaviour(), 20)
    assert steps.reward.shape == (20, 4)
    total = steps.reward.sum(0)
    torch.testing.assert_close(total.sort().values, torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0]))
    torch.testing.assert_close(steps.reward[-1], total / 20 if evenly else total)


class Scaled(gymnasium.Wrapper):
    """Another true reward with the same order of trajectories."""

    factor = 1.0

    def step(self, action):
        obs, reward, *rest = self.env.step(action)
        return obs, self.factor * reward, *rest


def test_a_true_reward_of_another_scale_changes_nothing_but_the_log(monkeypatch):
    def make() -> gymnasium.Env:
        return Scaled(gymnasium.make("Pendulum-v1", max_episode_steps=15))

    found, logged = [], []
    for factor in (1.0, 7.0):
        monkeypatch.setattr(Scaled, "factor", factor)
        method = SPO(**{**SMALL, "rollout_steps": 15}, queue=3).bind(JudgedTask(make), 0, Budget(steps=400))
        for _ in range(3):
            metrics = method.step()
        found.append(torch.cat([p.detach().flatten() for p in method.actor_critic.parameters()]))
        logged.append(float(metrics["rollout/return"]))
    assert torch.equal(*found) and logged[1] == pytest.approx(7 * logged[0])


class Mayfly(gymnasium.Env):
    """Lives as long as the first action says, a number of steps from 1 to 4 of 5."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(4)
    horizon = 5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.life, self.age = 0, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.age += 1
        self.life = self.life or int(action) + 1
        return np.full(2, self.age / 5, np.float32), 1.0, self.age >= self.life, False, {}


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_episodes_of_any_length_come_whole_and_in_the_order_of_their_ends(steps):
    method = SPO(**{**SMALL, "rollout_steps": steps}, queue=4, gamma=1.0).bind(JudgedTask(Mayfly), 0, Budget(steps=400))
    seen = 0
    for _ in range(12):
        found = method.rollout.collect(method.behaviour(), steps)
        length = found.mask.sum(0)
        assert bool((length >= 1).all()) and bool((found.terminated.sum(0) == 1).all())
        torch.testing.assert_close(found.terminated.argmax(0).float(), length - 1)
        torch.testing.assert_close(length.long(), found.action[0] + 1, msg="the first action says how long")
        held = method.rollout.open
        seen += int(length.sum())
        assert seen + sum(len(part) for parts in held for part in parts) == method.counters.steps
        torch.testing.assert_close(found.reward.sum(0) * 5 / 5, method_scores(found), msg="no length is worth anything")


def method_scores(found: Experience) -> torch.Tensor:
    """The score of each trajectory, from what its first step was given: a fifth, unless it was the last."""
    return torch.where(found.mask.sum(0) > 1, 5 * found.reward[0], found.reward[0])


def test_an_episode_longer_than_the_horizon_is_refused():
    method = SPO(**SMALL).bind(JudgedTask("palaestra/PointGoal-v0", horizon=10), 0, Budget(steps=400))
    with pytest.raises(Unsupported, match="took 20 steps, and trajectories have at most 10"):
        method.step()


def test_answers_may_be_drawn_and_are_then_those_of_the_seed():
    found = []
    for _ in range(2):
        method = bound(SPO(**SMALL, queue=4), flip=0.5, sampled=True)
        method.step()
        found.append(method.ask(earning(*[1.0] * 500), earning(*[0.0] * 500)))
    assert torch.equal(*found) and set(found[0].tolist()) == {-1.0, 1.0}
    assert abs(float(found[0].mean())) < 0.2


def test_a_judge_that_depends_on_the_order_is_refused_at_the_first_question():
    def host(first: Experience, second: Experience) -> torch.Tensor:
        return torch.ones(first.mask.shape[1])

    method = SPO(**SMALL).bind(JudgedTask(judge=host), 0, Budget(steps=400))  # type: ignore[arg-type]
    with pytest.raises(BadEnvironment, match="the judge host depends on the order"):
        method.step()


def test_an_environment_without_a_judge_is_refused():
    with pytest.raises(Unsupported, match=r"--task judged --task\.env CartPole-v1"):
        SPO().bind(EnvTask("CartPole-v1"), 0, Budget(steps=10))
    with pytest.raises(BadSetting, match="normalise_reward"):
        bound(SPO(normalise_reward=True))
    with pytest.raises(BadSetting, match="normalise_obs"):
        bound(SPO(iterates=3, normalise_obs=True))


def test_soft_actor_critic_replays_whole_trajectories_with_their_scores():
    method = bound(SPOSAC(**SMALL_SAC, queue=3), steps=200)
    for _ in range(90):
        method.step()
    rewards = method.replay.storage.reward[: len(method.replay)]
    begun, later = 20 * rewards[:60].view(20, 3).T, 20 * rewards[60:].view(-1, 20)
    scores = torch.cat([begun, later])
    assert len(scores) == method.counters.episodes
    torch.testing.assert_close(scores, scores[:, :1].expand(-1, 20))
    assert begun[:, 0].sort().values.tolist() == pytest.approx([-1, 0, 1]), "the first three, among themselves"
    assert method.counters.updates > 0


def test_the_agents_own_update_is_not_touched():
    assert SPOSAC.update is SAC.update and SPOSAC.critic_loss is SAC.critic_loss


def test_past_policies_are_kept_evenly_and_deployed_as_their_mixture():
    method = bound(SPO(**SMALL, queue=3, iterates=5))
    assert not isinstance(method.policy(), Ensemble)
    while method.budget.spent(method.counters) < 1:
        method.step()
    mixture = method.policy()
    assert len(method.kept) == 5 and isinstance(mixture, Ensemble) and method.behaviour() is method.actor_critic
    obs = torch.randn(5, 4)
    acted = mixture.act(obs, torch.arange(5), greedy=True).action
    torch.testing.assert_close(acted[4], method.actor_critic.act(obs[4:], greedy=True).action[0])
    torch.testing.assert_close(acted[0], method.past(method.kept[0]).act(obs[:1], greedy=True).action[0])


def test_what_the_judge_prefers_is_learnt():
    method = bound(SPO(num_envs=32, rollout_steps=20, minibatch=160, gamma=1.0, lr=3e-3, network=(32, 32)), steps=9_600)
    first = float(method.step()["rollout/return"])
    while method.budget.spent(method.counters) < 1:
        metrics = method.step()
    assert float(metrics["rollout/return"]) > first + 8


def test_what_was_seen_of_episodes_under_way_is_part_of_the_state():
    def swinging() -> gymnasium.Env:
        return gymnasium.make("Pendulum-v1", max_episode_steps=15)

    whole, resumed = (SPOSAC(**SMALL_SAC, queue=2).bind(JudgedTask(swinging), 0, Budget(steps=200)) for _ in range(2))
    for _ in range(40):
        whole.step()
    assert any(whole.rollout.open)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(30):
        whole.step()
        resumed.step()
    for a, b in zip(whole.actor.parameters(), resumed.actor.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(
        whole.replay.storage.reward[: len(whole.replay)], resumed.replay.storage.reward[: len(whole.replay)]
    )
