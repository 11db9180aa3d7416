"""A2PR: the guiding action, the gate, the autoencoder that proposes, and one whole update against a plain one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.objectives.offline import normalised_value
from palaestra.objectives.returns import rewards_to_go

from .tiny import SMALL_DATA, bind_offline, noise

TINY = {**SMALL_DATA, "critic_network": (8, 8, 8), "vae_network": (16,)}


def drawn(method, size: int = 32):
    """A minibatch, and noise for the codes of its actions."""
    return method.data.sample(size), method.vae.normal_noise(size, noise())


def actor_gradient(method, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(method.actor.parameters())))


def analytic(method, best: float, proposed: list[float], chosen: list[float]) -> None:
    """The critic -(a - best)^2, an autoencoder that proposes these actions, a policy that does those."""
    method.critics.q = lambda obs, action, frozen=False: -((action - best).square()).squeeze(1).expand(2, -1)
    method.vae.forward = lambda obs, action, noise, frozen=False: (torch.tensor(proposed).unsqueeze(1), None, None)
    method.actor.forward = lambda obs: torch.tensor(chosen).unsqueeze(1)


def test_guide_and_gate_in_a_case_worked_out_by_hand():
    """The best action is 0.5 and V is Q at 0, -0.25. Advantages of recorded / proposed actions, and the guide:
    0.25 / 0.16 recorded; 0 / 0.24 proposed; -2 / -0.75 proposed but gated; 0.24 / -0.11 recorded."""
    method = bind_offline(pal.A2PR(**TINY, mask=0.5, alpha=2.5))
    analytic(method, 0.5, proposed=[0.2, 0.4, -0.5, 1.1], chosen=[0.0, 0.0, 0.0, 1.0])
    recorded, value = torch.tensor([[0.5], [0.0], [-1.0], [0.6]]), torch.full((4,), -0.25)
    loss, outputs = method.guided_loss(torch.zeros(4, 3), recorded, value, torch.zeros(4, 2))
    distance = (0.5**2 + 0.4**2 + 0.0 + 0.4**2) / 4
    # Q of what the policy does is -0.25 everywhere, so the value in units of its size is -1.
    torch.testing.assert_close(loss, torch.tensor(0.5 * distance + 2.5))
    expected = {"policy/distance": distance, "guide/gated": 0.75, "guide/proposed": 0.5}
    expected |= {"guide/advantage": (0.25 + 0.24 - 0.75 + 0.24) / 4, "value/policy": -0.25}
    for name, number in expected.items():
        torch.testing.assert_close(outputs[name], torch.tensor(number))


@pytest.mark.parametrize("move_guide", [False, True])
def test_with_the_gate_closed_everywhere_the_actor_climbs_the_critic_alone(move_guide):
    method = bind_offline(pal.A2PR(**TINY, move_guide=move_guide))
    batch, code = drawn(method)
    loss, outputs = method.guided_loss(batch.obs, batch.action, torch.full((32,), 1e6), code)
    q = method.critics.q(batch.obs, method.actor(batch.obs), frozen=True)[0]
    assert float(outputs["guide/gated"]) == 0.0
    torch.testing.assert_close(
        actor_gradient(method, loss), actor_gradient(method, -method.alpha * normalised_value(q)), rtol=0, atol=0
    )


def test_where_the_recorded_action_is_better_and_the_gate_open_the_loss_is_that_of_td3_bc():
    method = bind_offline(pal.A2PR(**TINY))
    batch, code = drawn(method)
    q = method.critics.q

    def at(obs: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        return q(obs, action, frozen) + 1e3 * torch.equal(action, batch.action)

    method.critics.q = at
    loss, outputs = method.guided_loss(batch.obs, batch.action, torch.zeros(32), code)
    plain, _ = method.actor_loss(batch.obs, batch.action)
    assert (float(outputs["guide/gated"]), float(outputs["guide/proposed"])) == (1.0, 0.0)
    torch.testing.assert_close(actor_gradient(method, loss), actor_gradient(method, plain), rtol=0, atol=0)


def test_the_guide_is_constant_unless_it_is_to_move():
    gradients = []
    for move_guide in (False, True):
        method = bind_offline(pal.A2PR(**TINY, move_guide=move_guide, alpha=0.0))
        batch, code = drawn(method)
        loss, _ = method.guided_loss(batch.obs, batch.action, torch.full((32,), -1e6), code)
        gradients.append(actor_gradient(method, loss))
        chosen = method.actor(batch.obs)
        proposed, _, _ = method.vae(batch.obs, chosen if move_guide else chosen.detach(), code)
        better = method.critics.q(batch.obs, proposed)[0] >= method.critics.q(batch.obs, batch.action)[0]
        guide = torch.where(better.unsqueeze(1), proposed, batch.action)
        expected = actor_gradient(method, (chosen - guide).square().mean())
        torch.testing.assert_close(gradients[-1], expected)
    assert not torch.equal(gradients[0][0], gradients[1][0])


def test_the_autoencoder_learns_nothing_from_actions_without_advantage():
    method = bind_offline(pal.A2PR(**TINY, vae_weight=3.0))
    batch, code = drawn(method)
    with torch.no_grad():
        value = method.critics.q(batch.obs, batch.action)[0] - torch.where(torch.arange(32) < 20, 1.0, -1.0)
        reconstruction, mean, log_std = method.vae(batch.obs, batch.action, code)
        loss, outputs = method.vae_loss(batch.obs, batch.action, value, code)
        distance = (reconstruction[:20] - batch.action[:20]).square().sum() / 32
        divergence = 0.5 * (mean**2 + log_std.exp() ** 2 - 1 - 2 * log_std).mean()
    torch.testing.assert_close(outputs["vae/reconstruction"], distance)
    torch.testing.assert_close(loss, 3.0 * distance + 0.5 * divergence)


def test_the_code_of_the_autoencoder_is_drawn_around_its_mean():
    vae = bind_offline(pal.A2PR(**TINY)).vae
    obs, action = torch.randn(5, 3, generator=noise()), torch.zeros(5, 1)
    still, mean, _ = vae(obs, action, torch.zeros(5, 2))
    features = vae.encoder(obs)
    torch.testing.assert_close(still, torch.tanh(vae.outwards(torch.cat([features, mean], 1))))
    shaken, _, _ = vae(obs, action, torch.ones(5, 2))
    assert not torch.equal(still, shaken)


def test_the_target_of_v_is_the_smaller_of_two_bootstraps():
    method = bind_offline(pal.A2PR(**TINY, gamma=0.5))
    batch, _ = drawn(method, 4)
    batch = batch.replace(terminated=torch.tensor([0.0, 0.0, 0.0, 1.0]))
    targets, online = torch.tensor([[1.0, 4, 3, 9], [2, 5, 7, 9]]), torch.tensor([[3.0, 3, 4, 9], [4, 6, 5, 9]])
    method.target_critics.q = lambda obs, action: targets
    method.critics.q = lambda obs, action: online
    y = batch.reward + 0.5 * torch.tensor([1.0, 3.0, 3.0, 0.0])
    _, outputs = method.value_loss(batch, torch.zeros(4, 1))
    torch.testing.assert_close(outputs["loss/value"], 0.5 * (outputs["value"] - y).square().mean())


def test_the_log_compares_critics_with_the_discounted_returns_of_the_data():
    method = bind_offline(pal.A2PR(**TINY, gamma=0.9, reward_scale=0.5, policy_delay=1))
    batch, _ = drawn(method)
    dataset = method.data.dataset
    returns = rewards_to_go(0.5 * dataset.steps.reward, dataset.starts, 0.9)
    torch.testing.assert_close(dataset.steps.target, returns)
    torch.testing.assert_close(method.update(batch, noise())["value/recorded"], batch.target.mean())


class Plain:
    """One update as the method's description has it, step by step, by torch's own autograd and optimisers."""

    def __init__(self, method):
        self.m = method
        for name in ("actor", "critics", "target_actor", "target_critics", "value", "vae"):
            setattr(self, name, copy.deepcopy(getattr(method, name)))
        rates = {"actor": method.lr, "critics": method.lr, "value": method.lr, "vae": method.vae_lr}
        self.optimisers = {k: torch.optim.Adam(getattr(self, k).parameters(), lr=rate) for k, rate in rates.items()}

    def descend(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        loss.backward()
        self.optimisers[name].step()

    def update(self, batch, generator: torch.Generator, second: bool) -> None:
        m, (s, a) = self.m, (batch.obs, batch.action)
        shake = (0.2 * torch.randn(a.shape, generator=generator)).clamp(-0.5, 0.5)
        with torch.no_grad():
            next_action = (self.target_actor(batch.next_obs) + shake).clamp(-1, 1)
            discount = m.gamma * (1 - batch.terminated)
            y = batch.reward + discount * self.target_critics.q(batch.next_obs, next_action).min(0).values
        self.descend("critics", sum(0.5 * nn.functional.mse_loss(q, y) for q in self.critics.q(s, a)))
        with torch.no_grad():
            online = batch.reward + discount * self.critics.q(batch.next_obs, next_action).min(0).values
        v = self.value(s)
        old = v.detach().clone()
        self.descend("value", 0.5 * nn.functional.mse_loss(v, torch.minimum(y, online)))
        decoded, mean, log_std = self.vae(s, a, torch.randn(len(s), 2 * a.shape[1], generator=generator))
        good = (self.critics.q(s, a)[0].detach() > old).float()[:, None]
        kl = -0.5 * (1 + 2 * log_std - mean**2 - (2 * log_std).exp()).mean()
        self.descend("vae", m.vae_weight * (good * (decoded - a) ** 2).mean() + 0.5 * kl)
        if not second:
            return
        pi = self.actor(s)
        q = self.critics.q(s, pi)[0]
        proposed = self.vae(s, pi.detach(), torch.randn(len(s), 2 * a.shape[1], generator=generator))[0].detach()
        with torch.no_grad():
            q_proposed, q_recorded = self.critics.q(s, proposed)[0], self.critics.q(s, a)[0]
        guide = torch.where((q_proposed >= q_recorded)[:, None], proposed, a)
        gate = (torch.maximum(q_proposed, q_recorded) > old).float()[:, None]
        loss = -m.alpha / q.detach().abs().mean() * q.mean() + (m.mask * gate * (pi - guide) ** 2).mean()
        self.descend("actor", loss)
        with torch.no_grad():
            for target, online_net in ((self.target_critics, self.critics), (self.target_actor, self.actor)):
                for p, new in zip(target.parameters(), online_net.parameters(), strict=True):
                    p.lerp_(new, m.tau)


def test_whole_updates_are_those_of_plain_autograd():
    method = bind_offline(pal.A2PR(**TINY, lr=1e-2, mask=0.4, vae_weight=1.5))
    plain = Plain(method)
    for method.counters.updates in range(6):
        batch = method.data.sample(64)
        method.update(batch, torch.Generator().manual_seed(method.counters.updates))
        again = torch.Generator().manual_seed(method.counters.updates)
        plain.update(batch, again, second=method.counters.updates % 2 == 1)
    for name in ("actor", "critics", "target_actor", "target_critics", "value", "vae"):
        ours, theirs = getattr(method, name), getattr(plain, name)
        for p, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("mask", -1.0), ("vae_weight", -0.1)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(BadSetting, match=f"{name} must not be negative"):
        bind_offline(pal.A2PR(**TINY, **{name: value}))
