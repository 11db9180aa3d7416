"""A diffusion model of trajectories: what its rows hold, how it is guided, and what it does as a policy."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import torch

from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, load_policy
from palaestra.nets.actors import DeterministicActor, GaussianActor, SquashedGaussianActor
from palaestra.nets.diffusion import GuidanceStrength
from palaestra.nets.trajectory_diffusion import TrajectoryDiffusion, action_logp

OBS = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
ACTION = gymnasium.spaces.Box(-2.0, 2.0, (2,))


def model(**settings) -> TrajectoryDiffusion:
    torch.manual_seed(0)
    sizes = {"network": (16, 16), "window": 8, "sampling_steps": 4, "trajectories": 5, "rollout": 6, "churn": 0.0}
    made = TrajectoryDiffusion(OBS, ACTION, **{**sizes, **settings})
    made.mean.copy_(torch.linspace(-1, 1, 7))
    made.deviation.copy_(torch.linspace(0.5, 2, 7))
    return made


def steps(count: int = 40) -> Experience:
    g = torch.Generator().manual_seed(2)
    return Experience(
        obs=torch.randn(count, 3, generator=g),
        action=torch.rand(count, 2, generator=g) * 1.8 - 0.9,
        reward=torch.randn(count, generator=g),
        next_obs=torch.randn(count, 3, generator=g),
        terminated=torch.zeros(count),
        truncated=torch.zeros(count),
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


class Towards(Policy):
    """Always the same action, without a density."""

    def __init__(self, action):
        super().__init__(OBS, ACTION)
        self.action = torch.tensor(action)

    def act(self, obs, carry=None, **how):
        return Acted(self.action.expand(len(obs), -1), None, carry)


def test_columns_are_standardised_and_one_that_never_changes_keeps_its_scale():
    fitted, data = model(), steps()
    data.reward = torch.full((40,), 7.25)
    fitted.fit(data)
    rows = fitted.encode(data)
    torch.testing.assert_close(rows.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[:, :5].std(0, unbiased=False), torch.ones(5))
    assert (
        float(fitted.deviation[5]) == 1 and float(fitted.deviation[6]) == 1
    )  # the reward, and ends, of which there are none
    assert bool((rows[:, 5:] == 0).all())


def test_decoding_undoes_encoding():
    fitted, data = model(), steps()
    fitted.fit(data)
    found = fitted.decode(fitted.encode(data).unsqueeze(0))
    for name in ("obs", "action", "reward"):
        torch.testing.assert_close(getattr(found, name)[0], getattr(data, name)[:-1])
    torch.testing.assert_close(found.next_obs[0], data.obs[1:])


def test_a_step_terminates_above_a_half_and_the_clock_ends_what_has_not_ended():
    plain = model()
    plain.mean.zero_(), plain.deviation.fill_(1.0)
    x = torch.zeros(2, 4, 7)
    x[0, 1, 6], x[0, 2, 6], x[1, 2, 6] = 0.51, 0.49, 0.8
    found = plain.decode(x)
    assert found.terminated.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert found.truncated.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_actions_at_the_edge_stay_finite():
    data = steps()
    data.action[:20], data.action[20:] = 1.0, -1.0
    fitted = model()
    fitted.fit(data)
    assert bool(fitted.encode(data).isfinite().all())


@pytest.mark.parametrize("normalised", [True, False])
def test_the_gradient_of_a_unit_gaussian_by_hand(normalised):
    guided, goal = model(normalise_guidance=normalised), torch.tensor([0.4, -0.8])
    x = torch.randn(3, 4, 7, generator=generator())
    u = (x * guided.deviation + guided.mean)[..., 3:5]
    expected = -(u.tanh() - goal) * (1 - u.tanh().square()) * guided.deviation[3:5]
    if normalised:
        expected = expected / expected.flatten(1).norm(dim=1).view(-1, 1, 1)
    torch.testing.assert_close(guided.direction(Towards([0.4, -0.8]), x), expected)


@pytest.mark.parametrize("kind", [GaussianActor, SquashedGaussianActor])
def test_the_gradient_of_a_density_is_the_slope_of_its_logarithm(kind):
    actor = kind(OBS, ACTION, network=(8,)).double()
    guided = model(normalise_guidance=False).double()
    x = torch.randn(1, 3, 7, generator=generator(), dtype=torch.float64)

    def logp(x):
        rows = x * guided.deviation + guided.mean
        with torch.no_grad():
            return action_logp(actor, rows[0, :, :3], rows[0, :, 3:5].tanh()).sum()

    found = guided.direction(actor, x)
    for t in range(3):
        for j in range(2):
            ahead, behind = x.clone(), x.clone()
            ahead[0, t, 3 + j] += 1e-5
            behind[0, t, 3 + j] -= 1e-5
            slope = (logp(ahead) - logp(behind)) / 2e-5
            torch.testing.assert_close(found[0, t, j], slope, rtol=1e-4, atol=1e-6)


def test_no_gradient_reaches_the_policy_or_its_parameters():
    actor = DeterministicActor(OBS, ACTION, network=(8,))
    model().direction(actor, torch.randn(2, 4, 7))
    assert all(p.grad is None and p.requires_grad for p in actor.parameters())


@pytest.mark.parametrize("denoised", [True, False])
def test_guidance_shifts_actions_alone_by_its_strength(denoised):
    guided = model(denoised_guidance=denoised)
    intervene, x = guided.guidance(Towards([0.9, 0.9]), 1.5), torch.randn(3, 6, 7, generator=generator())
    for i in range(4):
        found = intervene(i, x, torch.full((3,), 2.0))
        shift = (found - x)[..., guided.actions].flatten(1).norm(dim=1)
        torch.testing.assert_close(shift, torch.full((3,), GuidanceStrength(1.5)(i, 4)))
        assert torch.equal(found[..., :3], x[..., :3]) and torch.equal(found[..., 5:], x[..., 5:])


def test_where_the_likelihood_is_flat_nothing_moves_and_nothing_is_nan():
    guided = model(denoised_guidance=False)
    guided.mean.zero_(), guided.deviation.fill_(1.0)
    x = torch.zeros(2, 4, 7)  # the action is 0, which the policy wants
    assert torch.equal(guided.guidance(Towards([0.0, 0.0]), 1.0)(0, x, torch.ones(2)), x)


def test_no_strength_is_no_guidance_bit_for_bit():
    plain = model(churn=4.0)
    unguided = plain.sample(generator=generator())
    without = plain.sample(Towards([0.9, 0.9]), 0.0, generator=generator())
    guided = plain.sample(Towards([0.9, 0.9]), 1.0, generator=generator())
    assert torch.equal(unguided.action, without.action) and torch.equal(unguided.obs, without.obs)
    assert float((guided.action - 0.9).square().mean()) < float((unguided.action - 0.9).square().mean())


def test_samples_are_as_many_trajectories_of_the_asked_length_and_fit_the_box():
    made = model(rollout=9, trajectories=3).sample(generator=generator())
    assert made.obs.shape == (3, 9, 3) and made.action.shape == (3, 9, 2) and made.reward.shape == (3, 9)
    assert float(made.action.abs().max()) <= 1
    torch.testing.assert_close(made.next_obs[:, :-1], made.obs[:, 1:])


def test_it_is_saved_and_loaded_whole_and_does_not_act(tmp_path):
    saved = model(normalise_guidance=False, heun=False)
    loaded = load_policy(saved.save(tmp_path / "model"))
    assert torch.equal(saved.sample(generator=generator()).obs, loaded.sample(generator=generator()).obs)
    assert loaded.settings() == saved.settings()
    with pytest.raises(Unsupported, match="generates trajectories and does not act"):
        loaded.predict(np.zeros(3, np.float32))


def test_a_unit_normal_stands_for_a_policy_without_a_density():
    found = action_logp(Towards([0.0, 1.0]), torch.zeros(1, 3), torch.tensor([[0.5, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([-0.125 - math.log(2 * math.pi)]))


def test_spaces_that_have_no_trajectories_of_vectors_are_refused():
    image, discrete = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8), gymnasium.spaces.Discrete(3)
    for space in (image, discrete):
        with pytest.raises(Unsupported, match="observations are float vectors"):
            TrajectoryDiffusion(space, ACTION, (16,), 8)
    with pytest.raises(Unsupported, match="needs continuous actions"):
        TrajectoryDiffusion(OBS, discrete, (16,), 8)


def test_trajectories_too_short_for_the_levels_are_refused():
    with pytest.raises(BadSetting, match="window must be at least 4 steps for 3 levels, got 3"):
        TrajectoryDiffusion(OBS, ACTION, (16, 16, 16), 3)
    with pytest.raises(BadSetting, match="rollout must be at least 4 steps"):
        TrajectoryDiffusion(OBS, ACTION, (16, 16, 16), 8, rollout=2)
