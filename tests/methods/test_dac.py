"""DAC: rewards come from the present discriminator alone, and an end of an episode is judged as what follows it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget, Counters
from palaestra.core.seeding import Streams
from palaestra.data.dataset import Dataset
from palaestra.data.episodes import assemble, cut
from palaestra.data.task import DatasetTask
from palaestra.envs.rollout import Rollout
from palaestra.envs.task import EnvTask
from palaestra.methods.imitation.dac import DAC
from palaestra.methods.online.sac import SAC

from ..datasets import random_dataset
from ..environments import Spaces
from .tiny import SMALL, noise, pendulum_batch

ENDS = torch.tensor([0.0, 1.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def shown() -> Dataset:
    return random_dataset("Pendulum-v1", 650)


def bound(dataset: Dataset, **settings) -> DAC:
    method = DAC(**{**SMALL, "discriminator_network": (8,), **settings})
    return method.bind(DatasetTask(dataset), 0, Budget(steps=100))


def test_it_needs_demonstrations_and_something_to_act_in(shown):
    with pytest.raises(Unsupported, match="--dataset"):
        DAC().bind(EnvTask("Pendulum-v1"), 0, Budget(steps=100))
    homeless = Dataset("logs", shown.steps, shown.starts, shown.observation_space, shown.action_space)
    with pytest.raises(Unsupported, match="no environment"):
        bound(homeless)


def test_only_the_first_episodes_are_shown(shown):
    method = bound(shown, demonstrations=2)
    assert len(method.expert) == 400
    drawn = torch.cat([method.expert.rows(50) for _ in range(64)])
    assert int(drawn.max()) < 400
    assert set((drawn // 200).tolist()) == {0, 1}
    with pytest.raises(BadSetting, match=r"has \d episodes, so 40"):
        bound(shown, demonstrations=40)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"demonstrations": 0}, "demonstrations"),
        ({"penalty": -1.0}, "penalty"),
        ({"divergence": "kl"}, "divergence must be reverse_kl or js"),
        ({"reward": "logit"}, "reward must be airl or gail"),
        ({"absorbing": True, "gamma": 1.0}, "gamma < 1"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
def test_settings_out_of_range_are_refused(shown, settings, words):
    with pytest.raises(BadSetting, match=words):
        bound(shown, **settings)


def test_the_reward_is_what_the_discriminator_says_now(shown):
    method, batch = bound(shown), pendulum_batch()
    before = method.rewards(batch)
    torch.testing.assert_close(before, method.discriminator(batch.obs, batch.action).detach())
    method.step()
    method.discriminate(noise())
    assert not torch.equal(method.rewards(batch), before)
    method.reward = "gail"
    torch.testing.assert_close(
        method.rewards(batch), torch.nn.functional.softplus(method.discriminator(batch.obs, batch.action)).detach()
    )


def test_the_tasks_own_reward_has_no_part(shown):
    states = []
    for factor in (1.0, -50.0):
        method = bound(shown)
        method.step()
        batch = pendulum_batch()
        method.update(batch.replace(reward=factor * batch.reward), noise())
        states.append([p.clone() for p in (*method.actor.parameters(), *method.critics.parameters())])
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b)


def test_the_policy_learns_as_soft_actor_critic_does_from_those_rewards(shown):
    method = bound(shown)
    host = SAC(**SMALL).bind(EnvTask("Pendulum-v1"), 0, Budget(steps=100))
    batch = pendulum_batch()
    rewards = method.rewards(batch)
    method.improve(batch, noise())
    host.update(host.scaled(batch.replace(reward=rewards)), noise())
    for a, b in zip(method.actor.parameters(), host.actor.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_end_is_worth_staying_in_the_absorbing_state_for_ever(shown):
    method = bound(shown, absorbing=True, gamma=0.9)
    batch = pendulum_batch(terminated=ENDS, truncated=torch.tensor([1.0, 0.0, 0.0, 0.0]))
    plain = method.discriminator(batch.obs, batch.action).detach()
    stay = float(method.discriminator.at_absorbing().detach())
    series = sum(0.9**k * stay for k in range(1, 400))
    torch.testing.assert_close(method.rewards(batch), plain + series * ENDS)


def test_without_absorbing_states_an_end_is_worth_nothing(shown):
    method = bound(shown)
    ended, going = (method.rewards(pendulum_batch(terminated=x)) for x in (ENDS, torch.zeros(4)))
    assert torch.equal(ended, going)


def test_one_absorbing_step_is_seen_for_every_end(shown):
    method = bound(shown, absorbing=True)
    rows = Experience(obs=torch.ones(40_000, 3), action=torch.ones(40_000, 1), terminated=ENDS.repeat(10_000))
    pairs = method.judged(rows, noise())
    assert float(pairs.weight.sum()) == 60_000, "every step, and one more for every end"
    assert float((pairs.weight * (1 - pairs.mask)).sum()) == pytest.approx(20_000, rel=0.03)
    assert bool((pairs.mask[rows.terminated == 0] == 1).all()), "nothing absorbs where nothing ended"
    assert bound(shown).judged(rows, noise()).mask is None


def test_the_discriminators_loss_worked_by_hand(shown):
    method = bound(shown, discriminator_network=(), divergence="reverse_kl", penalty=10.0)
    net = method.discriminator.net
    with torch.no_grad():
        net.weights[0].copy_(torch.tensor([[0.0], [3.0], [0.0], [4.0]]))
        net.biases[0].fill_(1.0)
    expert = Experience(obs=torch.tensor([[5.0, 0.0, 5.0]]), action=torch.tensor([[0.5]]))  # D = 3
    learner = Experience(obs=torch.tensor([[5.0, 1.0, 5.0]]), action=torch.tensor([[0.0]]))  # D = 4
    loss, said = method.discriminator_loss(expert, learner, torch.tensor([[0.3]]))
    assert said["imitation/gradient_penalty"].item() == pytest.approx((5 - 1) ** 2)
    assert said["imitation/divergence"].item() == pytest.approx(1 - np.exp(-3) - 4)
    assert loss.item() == pytest.approx(160 - (1 - np.exp(-3) - 4))


def test_it_comes_to_prefer_the_experts_pairs(shown):
    always_right = Dataset(
        "right", shown.steps.replace(action=torch.full_like(shown.steps.action, 0.8)), shown.starts,
        shown.observation_space, shown.action_space, "Pendulum-v1",
    )  # fmt: skip
    method = bound(always_right, batch_size=64, discriminator_lr=1e-2)
    for _ in range(60):
        method.step()
    for i in range(200):
        method.discriminate(noise().manual_seed(i))
    expert, learner = method.expert.sample(64), method.replay.sample(64)
    assert float(method.rewards(expert).mean() - method.rewards(learner).mean()) > 0.3


def test_observations_are_standardised_by_the_demonstrations_if_so_wanted(shown):
    method = bound(shown, normalise_obs=True, demonstrations=2)
    features = method.discriminator.features(shown.steps.obs[:400], shown.steps.action[:400])[:, :3]
    torch.testing.assert_close(features.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(3), atol=0.02, rtol=0)
    assert bound(shown).discriminator.encoder.standardise is False


@pytest.mark.parametrize("observations", ["dict", "discrete", "image"])
def test_observations_may_be_of_any_kind(observations):
    task = EnvTask(functools.partial(Spaces, observations, "box"))
    actor = SAC(**SMALL).bind(task, 0, Budget(steps=1)).policy()
    rollout = Rollout(task.envs(1, Streams(0), "data"), Streams(0), Counters())
    *episodes, _ = cut(rollout.collect(actor, 40, random=True).map(lambda x: x[:, 0]))
    dataset = assemble("shown", episodes, task)
    method = DAC(**SMALL, discriminator_network=(8,), absorbing=True).bind(
        DatasetTask(dataset, task), 0, Budget(steps=100)
    )
    metrics = {}
    for _ in range(10):
        metrics |= method.step()
    assert bool(torch.isfinite(metrics["loss/discriminator"])) and bool(torch.isfinite(metrics["loss/critic"]))


def test_a_network_of_the_users_own_is_penalised_too(shown):
    def network(inputs: int, outputs: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(inputs, 4), torch.nn.Softplus(), torch.nn.Linear(4, outputs))

    method = bound(shown, discriminator_network=network)
    method.step()
    assert float(method.discriminate(noise())["imitation/gradient_penalty"]) > 0


def test_it_is_trained_by_its_name():
    random_dataset("Pendulum-v1", 250).save("shown")
    settings = {**SMALL, "discriminator_network": (8,)}
    run = pal.train(DAC(**settings), "shown", steps=40, out="run", quiet=True, tensorboard=False, evaluate_episodes=1)
    assert run.record["counters"]["steps"] == 40
    assert {"imitation/divergence", "imitation/reward", "loss/discriminator"} <= set(run.metrics[-2] | run.metrics[-1])
