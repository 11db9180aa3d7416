"""AILBoost: an explicit list of copied learners, samples drawn by their weights, and the ensemble that matches the expert."""

from __future__ import annotations

import functools

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.data.dataset import Dataset
from palaestra.data.task import DatasetTask
from palaestra.methods.imitation.ailboost import AILBoost
from palaestra.nets.actors import SquashedGaussianActor
from palaestra.nets.ensemble import Ensemble
from palaestra.objectives.imitation import boosted_weights

from ..datasets import random_dataset
from ..environments import Counting
from .tiny import SMALL, noise

ROUNDS = {"boost_every": 6, "learner_samples": 5, "max_learners": 3, "discriminator_steps": 2}


@pytest.fixture(scope="module")
def shown() -> Dataset:
    return random_dataset("Pendulum-v1", 450)


def bound(dataset: Dataset, env=None, **settings) -> AILBoost:
    method = AILBoost(**{**SMALL, "discriminator_network": (8,), **ROUNDS, **settings})
    return method.bind(DatasetTask(dataset, env), 0, Budget(steps=1000))


def after(rounds: int, dataset: Dataset, **settings) -> AILBoost:
    method = bound(dataset, **settings)
    while method.rounds < rounds:
        method.step()
    return method


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"boosting_rate": 0.0}, "boosting_rate"),
        ({"boosting_rate": 1.0}, "boosting_rate"),
        ({"max_learners": 0}, "max_learners"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"learner_samples": 40}, "must hold 3 learners' samples"),
        ({"deploys": "best"}, "deploys"),
    ],
)
def test_settings_out_of_range_are_refused(shown, settings, words):
    with pytest.raises(BadSetting, match=words):
        bound(shown, **settings)


def test_a_learner_is_a_copy_that_later_training_leaves_alone(shown):
    method = after(1, shown)
    kept = method.learners[0].clone()
    for _ in range(2):
        method.step()
    assert torch.equal(method.learners[0], kept)
    present = torch.nn.utils.parameters_to_vector(method.actor.parameters())
    assert not torch.equal(present, kept)
    obs = torch.randn(4, 3)
    acting = method.policy().act(obs, torch.zeros(4, dtype=torch.int64), greedy=True).action
    assert not torch.equal(acting, method.actor.act(obs, greedy=True).action)


def test_weights_are_those_of_functional_gradient_descent(shown):
    assert after(2, shown, boosting_rate=0.05).weights.tolist() == pytest.approx([0.95, 0.05])
    assert after(3, shown, boosting_rate=0.05).weights.tolist() == pytest.approx([0.9025, 0.0475, 0.05])


@pytest.mark.parametrize("rounds", [1, 3, 4, 7])
def test_the_discriminator_sees_each_learners_samples_as_often_as_it_weighs(shown, rounds):
    method = bound(shown, boosting_rate=0.3)
    played = method.played
    # every step of round r is marked by the observation r
    method.played = lambda: played().replace(obs=torch.full((5, 3), float(method.rounds)))
    while method.rounds < rounds:
        method.step()
    rows = method.learner_pairs(40_000, noise()).obs[:, 0]
    kept = min(rounds, 3)
    shares = [float((rows == rounds - kept + i).float().mean()) for i in range(kept)]
    assert shares == pytest.approx(method.weights.tolist(), abs=0.01)
    assert sum(shares) == pytest.approx(1)


def test_within_a_learner_all_samples_are_alike(shown):
    method = after(2, shown)
    drawn = method.learner_pairs(50_000, noise()).obs
    counts = torch.stack([(drawn == row).all(-1).float().mean() for row in method.samples.storage.obs[:10]])
    assert counts.tolist() == pytest.approx([0.95 / 5] * 5 + [0.05 / 5] * 5, abs=0.01)


def test_rounds_come_after_so_many_training_steps_and_their_samples_are_counted(shown):
    method = bound(shown, steps_per_round=2)  # a warm-up of 8, then 5 samples and 6 training steps a round
    clock = []
    while method.rounds < 4:
        before = method.rounds
        method.step()
        if method.rounds > before:
            clock.append(method.counters.steps)
    assert clock == [8 + 5 + 2 + 11 * i for i in range(4)]


def test_the_next_learner_starts_from_the_ensembles_samples_alone(shown):
    method = bound(shown)
    while method.counters.steps < 8:
        method.step()
    assert len(method.replay) == 8
    method.boost()
    assert len(method.replay) == 5
    torch.testing.assert_close(method.replay.storage.obs[:5], method.samples.storage.obs[:5])
    method.step()
    assert len(method.replay) == 7 and method.counters.updates == 1, "no second warm-up"


def test_a_learner_plays_fresh_episodes(shown):
    method = bound(shown, learner_samples=20)
    for _ in range(2):
        first = method.played().obs[0]
        assert abs(float(first[2])) <= 1, "a pendulum starts no faster than that"
        method.rounds += 1
    assert not torch.equal(first, bound(shown, learner_samples=20).played().obs[0]), "every round has its own"


def test_resets_of_a_vector_environment_are_no_samples():
    def make(num_envs):
        return SyncVectorEnv([functools.partial(Counting, (2, 3))] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)

    method = bound(counting_dataset(), env=make, learner_samples=7)
    steps = method.played()
    assert len(steps) == 7 == method.counters.steps
    assert bool((steps.mask == 1).all())


def counting_dataset() -> Dataset:
    from palaestra.core.experience import Experience

    rows = torch.arange(4.0)
    end = torch.tensor([0.0, 0.0, 0.0, 1.0])
    steps = Experience(
        obs=rows[:, None].expand(4, 2).contiguous(),
        action=torch.zeros(4, Counting.action_space.shape[0]),
        reward=rows,
        next_obs=rows[:, None].expand(4, 2).contiguous(),
        terminated=end,
        truncated=torch.zeros(4),
    )
    return Dataset(
        "counted", steps, torch.zeros(1, dtype=torch.int64), Counting.observation_space, Counting.action_space
    )


def test_what_is_deployed_is_the_ensemble_once_there_is_one_or_the_last_policy(shown):
    method = bound(shown)
    assert isinstance(method.policy(), SquashedGaussianActor)
    method = after(2, shown)
    policy = method.policy()
    assert isinstance(policy, Ensemble) and len(policy.actors) == 2
    assert method.behaviour() is method.actor
    assert after(2, shown, deploys="last").policy() is not None
    method.deploys = "last"
    assert method.policy() is method.actor


def test_the_ensemble_of_a_run_loads():
    random_dataset("Pendulum-v1", 250).save("shown")
    settings = {**SMALL, "discriminator_network": (8,), **ROUNDS}
    run = pal.train(
        AILBoost(**settings), "shown", steps=60, out="run", quiet=True, tensorboard=False, evaluate_episodes=2
    )
    loaded = pal.load_policy("run")
    assert isinstance(loaded, Ensemble) and len(loaded.actors) == 3
    assert run.evaluate(3, seed=1).returns == run.task.evaluate(loaded, 3, 1).returns


# A decision process small enough for exact ratios and exact best responses.

S, A, GAMMA = 8, 3, 0.9


def occupancy(transition: torch.Tensor, policy: torch.Tensor) -> torch.Tensor:
    """Discounted frequencies of state-action pairs `(S, A)` from a uniform start; they sum to 1."""
    moves = torch.einsum("sa,sat->st", policy, transition)
    start = torch.full((S,), (1 - GAMMA) / S, dtype=torch.float64)
    visits = torch.linalg.solve(torch.eye(S, dtype=torch.float64) - GAMMA * moves.T, start)
    return visits[:, None] * policy


def best_response(transition: torch.Tensor, reward: torch.Tensor) -> torch.Tensor:
    """The optimal deterministic policy `(S, A)` for rewards `(S, A)`, by value iteration."""
    value = torch.zeros(S, dtype=torch.float64)
    for _ in range(400):
        q = reward + GAMMA * transition @ value
        value = q.amax(-1)
    return torch.nn.functional.one_hot(q.argmax(-1), A).double()


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """KL(p || q) where q is positive."""
    return float(torch.special.xlogy(p, p / q).sum())


@pytest.mark.parametrize("seed", range(3))
def test_with_exact_ratios_and_best_responses_the_ensemble_matches_the_expert_and_no_learner_does(seed):
    g = torch.Generator().manual_seed(seed)
    transition = torch.rand(S, A, S, generator=g, dtype=torch.float64).pow(3)
    transition = transition / transition.sum(-1, keepdim=True)
    expert = occupancy(transition, torch.randn(S, A, generator=g, dtype=torch.float64).softmax(-1))
    learners = [occupancy(transition, torch.full((S, A), 1 / A, dtype=torch.float64))]
    weights, far = boosted_weights(torch.zeros(0, dtype=torch.float64), 0.05, 1000), []
    for _ in range(50):
        mixture = sum(w * d for w, d in zip(weights, learners, strict=True))
        far.append(kl(mixture, expert))
        learners.append(occupancy(transition, best_response(transition, (expert / mixture).log())))
        weights = boosted_weights(weights, 0.05, 1000)
    assert far[10] < 0.6 * far[0]
    assert far[49] < 0.05 * far[0]
    assert min(kl(d, expert) for d in learners[1:]) > far[0] > 10 * far[49]
