"""Mirror descent: the exactness checks of tabular policies, and what its two variants promise."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.methods.online.mdpo import annealed
from palaestra.nets.distributions import Categorical, DiagGaussian, SquashedGaussian
from palaestra.nets.tabular import Tabular
from palaestra.objectives.policy import entropy_regularised, mirror_descent, mirror_descent_off_policy, policy_gradient

S, A, GAMMA = 10, 4, 0.9


@pytest.fixture
def mdp() -> tuple[torch.Tensor, torch.Tensor]:
    """Transition probabilities [S, A, S] and rewards [S, A] of a random decision process."""
    g = torch.Generator().manual_seed(0)
    transition = torch.rand(S, A, S, generator=g, dtype=torch.float64).pow(4)
    return transition / transition.sum(-1, keepdim=True), torch.randn(S, A, generator=g, dtype=torch.float64)


def evaluate(mdp, policy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact values `(S,)` and advantages `(S, A)` of a policy `(S, A)`."""
    transition, reward = mdp
    moves, gains = torch.einsum("sa,sat->st", policy, transition), (policy * reward).sum(-1)
    value = torch.linalg.solve(torch.eye(S, dtype=torch.float64) - GAMMA * moves, gains)
    return value, reward + GAMMA * transition @ value - value[:, None]


def inner_problem(table: Tabular, old: torch.Tensor, advantage: torch.Tensor, t: float) -> torch.Tensor:
    """The mirror-descent loss with every state and action once, actions weighted by the old policy."""
    obs, action = torch.arange(S).repeat_interleave(A), torch.arange(A).repeat(S)
    new = table.distribution(obs)
    weight = S * A * old.flatten()  # the loss averages over rows; the weight makes that an expectation over actions
    divergence = new.kl(Categorical(old.log()[obs]))
    return mirror_descent(new.logp(action), old.flatten().log(), weight * advantage.flatten() / S, divergence, t)


def table_of(policy: torch.Tensor) -> Tabular:
    table = Tabular(spaces.Discrete(S), spaces.Discrete(A)).double()
    with torch.no_grad():
        table.logits.copy_(policy.log())
    return table


def random_policy() -> torch.Tensor:
    return torch.randn(S, A, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)


def test_the_inner_problem_solved_to_convergence_multiplies_by_the_exponential_of_the_advantage(mdp):
    old, t = random_policy(), 0.7
    _, advantage = evaluate(mdp, old)
    table = table_of(old)
    optimiser = torch.optim.LBFGS(table.parameters(), max_iter=500, tolerance_grad=1e-12, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure():
        optimiser.zero_grad()
        loss = inner_problem(table, old, advantage, t)
        loss.backward()
        return loss

    optimiser.step(closure)
    expected = (old.log() + t * advantage).softmax(-1)
    torch.testing.assert_close(table.logits.softmax(-1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_at_the_previous_policy_the_gradient_is_the_policy_gradient(kind):
    g = torch.Generator().manual_seed(0)
    advantage = torch.randn(6, generator=g)
    if kind == "categorical":
        parameters = [torch.randn(6, 3, generator=g, requires_grad=True)]
        new, action = Categorical(*parameters), torch.tensor([0, 1, 2, 0, 1, 2])
    else:
        parameters = [torch.randn(6, 2, generator=g, requires_grad=True), torch.zeros(2, requires_grad=True)]
        new, action = DiagGaussian(*parameters), torch.randn(6, 2, generator=g)
    old, logp = new.detach(), new.logp(action)
    divergence = new.kl(old)
    loss = mirror_descent(logp, old.logp(action), advantage, divergence, step_size=0.01)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    expected = torch.autograd.grad(policy_gradient(logp, advantage), parameters, retain_graph=True)
    for gradient, plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, plain)
    if kind == "gaussian":
        assert all(bool((x == 0).all()) for x in torch.autograd.grad(divergence.sum(), parameters))


def test_exact_mirror_descent_improves_the_value_of_every_state_until_it_is_optimal(mdp):
    policy, t = torch.full((S, A), 1 / A, dtype=torch.float64), 1.0
    value, advantage = evaluate(mdp, policy)
    start = value
    for _ in range(200):
        policy = (policy.log() + t * advantage).softmax(-1)
        before = value
        value, advantage = evaluate(mdp, policy)
        assert bool((value >= before - 1e-12).all())
    assert bool((value > start).all())
    assert advantage.max() < 1e-3  # no action is better than the policy: it is optimal


def test_the_off_policy_loss_with_step_size_1_over_alpha_is_soft_actor_critics():
    g = torch.Generator().manual_seed(0)
    mean, noise, q = torch.randn(3, 64, 3, generator=g, dtype=torch.float64)
    std, alpha = torch.rand(64, 3, generator=g, dtype=torch.float64) + 0.1, 0.2
    _, logp, u = SquashedGaussian(mean, std).rsample_unsquashed(noise)
    previous = SquashedGaussian(mean + 0.3, 0.8 * std).logp_unsquashed(u)
    ours = mirror_descent_off_policy(logp, previous, q[:, 0], 1 / alpha, alpha)
    sac = entropy_regularised(logp, q[:, 0], torch.tensor(alpha, dtype=torch.float64))
    assert abs(float(ours - sac)) < 1e-12


def test_the_annealed_step_size_falls_linearly_from_t_to_t_over_k():
    k = 5
    sizes = [annealed(2.0, remaining=1 - i / k, iteration=i) for i in range(k)]
    assert sizes == pytest.approx([2.0, 1.6, 1.2, 0.8, 0.4])
    assert annealed(2.0, remaining=1e-9, iteration=k - 1) == pytest.approx(2.0 / k)  # a last, partial iteration


def bound(cls: type, task: str = "CartPole-v1", steps: int = 320, **settings) -> pal.Method:
    if cls is pal.MDPO:
        settings = {"network": (8,), "num_envs": 2, "rollout_steps": 32, **settings}
    else:
        settings = {"network": (8,), "batch_size": 8, "warmup_steps": 5, "buffer_size": 400, **settings}
    return cls(**settings).bind(pal.EnvTask(task), seed=0, budget=Budget(steps=steps))


def test_the_step_size_follows_the_budget_or_stays():
    falling, constant = bound(pal.MDPO), bound(pal.MDPO, anneal_step_size=False)
    assert [falling.step()["policy/step_size"].item() for _ in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert [constant.step()["policy/step_size"].item() for _ in range(5)] == [1.0] * 5
    off = bound(pal.MDPOOff, "Pendulum-v1", steps=40, refresh_steps=10, anneal_step_size=True)
    seen = []
    for _ in range(40):
        seen.append(off.present_step_size)
        off.step()
    assert seen == pytest.approx([1.0] * 10 + [0.75] * 10 + [0.5] * 10 + [0.25] * 10)


@pytest.mark.parametrize("settings", [{}, {"tsallis_q": 1.6}])
@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_a_smaller_step_size_keeps_the_policy_closer(task, settings):
    kl = {}
    for t in (1e-3, 10.0):
        method = bound(pal.MDPO, task, step_size=t, anneal_step_size=False, lr=1e-2, **settings)
        kl[t] = method.step()["policy/kl"].item()
    assert kl[1e-3] < 0.2 * kl[10.0]


def test_inner_steps_are_full_batch_and_counted():
    method = bound(pal.MDPO, inner_steps=3, value_epochs=2, value_minibatch=16)
    method.step()
    assert method.counters.updates == 3 + 2 * (64 // 16)


def test_the_previous_policy_is_refreshed_every_so_many_environment_steps_and_fixed_between():
    method = bound(pal.MDPOOff, "Pendulum-v1", refresh_steps=10)
    fixed = [p.clone() for p in method.previous.parameters()]
    changed = []
    for step in range(1, 31):
        method.step()
        now = list(method.previous.parameters())
        if not all(torch.equal(a, b) for a, b in zip(fixed, now, strict=True)):
            changed.append(step)
            fixed = [p.clone() for p in now]
            assert all(torch.equal(a, b) for a, b in zip(fixed, method.actor.parameters(), strict=True))
    assert changed == [10, 20, 30]


def test_the_actor_ascends_the_first_critic_while_the_value_takes_the_smaller(monkeypatch):
    method = bound(pal.MDPOOff, "Pendulum-v1", lr=0.02)
    for _ in range(20):
        method.step()

    def q(obs, action, frozen=False):
        """The first critic likes large actions, the second thinks ill of all."""
        zero = 0 * sum(p.sum() for p in method.critics.parameters())
        return torch.stack([10 * action[:, 0], 0 * action[:, 0] - 100]) + zero

    monkeypatch.setattr(method.critics, "q", q)
    batch = method.replay.sample(8)
    for i in range(100):
        method.update(batch, torch.Generator().manual_seed(i))
    assert method.actor.act(batch.obs, greedy=True).action.min() > 0.8
    assert method.values(batch.obs).max() < -10


def test_the_penalty_of_the_released_code_is_an_option_that_is_off_by_default():
    assert pal.MDPOOff().gaussian_penalty == 0
    losses = {}
    for weight in (0.0, 1e-3):
        method = bound(pal.MDPOOff, "Pendulum-v1", gaussian_penalty=weight)
        batch = method.rollout.collect(method.actor, 8).flatten()
        dist = method.actor.distribution(batch.obs)
        losses[weight] = method.update(batch, torch.Generator().manual_seed(0))["loss/actor"]
    penalty = dist.mean.square().mean() + dist.std.log().square().mean()
    torch.testing.assert_close(losses[1e-3] - losses[0.0], 1e-3 * penalty.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0.0}, "step_size .t. must be positive"),
        ({"inner_steps": 0}, "inner_steps .m. must be at least 1"),
        ({"tsallis_q": 0.0}, "tsallis_q must be positive"),
        ({"tsallis": "other"}, "tsallis must be 'bregman' or 'code'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bound(pal.MDPO, **settings)


@pytest.mark.parametrize("settings", [{"step_size": -1.0}, {"refresh_steps": 0}, {"tsallis_q": -1.0}, {"alpha": -0.1}])
def test_settings_out_of_range_are_refused_off_policy_too(settings):
    with pytest.raises(BadSetting):
        bound(pal.MDPOOff, "Pendulum-v1", **settings)
