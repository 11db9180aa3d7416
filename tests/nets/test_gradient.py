"""Compiled gradients are autograd's gradients, and what cannot be compiled goes on by autograd."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from palaestra.core.errors import PalaestraError
from palaestra.core.experience import Experience
from palaestra.nets import gradient
from palaestra.nets.adam import Adam
from palaestra.nets.distributions import Categorical
from palaestra.nets.gradient import Gradients, compiler, compiling
from palaestra.nets.mlp import MLP

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


def net_and_batch(rows: int = 8) -> tuple[MLP, Experience]:
    torch.manual_seed(0)
    obs = {"position": torch.randn(rows, 2), "speed": torch.randn(rows, 1)}
    return MLP(3, (4,), 2), Experience(obs=obs, action=torch.arange(rows) % 2, advantage=torch.randn(rows))


def loss_of(net: nn.Module):
    def loss(batch: Experience, old: Categorical, sizes: tuple[torch.Tensor, float]):
        new = Categorical(net(torch.cat(list(batch.obs.values()), -1)))
        each = sizes[0] * new.kl(old) - sizes[1] * batch.advantage * new.logp(batch.action)
        return each.mean(), {"entropy": new.entropy().mean()}

    return loss


def inputs_for(batch: Experience, weight: float = 0.5):
    return batch, Categorical(torch.randn(len(batch), 2)), (torch.tensor(2.0), weight)


def compiled_calls(gradients: Gradients) -> int:
    return sum(function.calls for function in gradients._functions.values() if function)


@needs_compiler
def test_a_compiled_gradient_is_autograds_for_inputs_nested_in_any_way():
    net, batch = net_and_batch()
    gradients, objective = Gradients(list(net.parameters()), max_norm=0.01), loss_of(net)
    with compiling(1):
        for seed in range(3):
            torch.manual_seed(seed)
            inputs = inputs_for(batch.replace(advantage=torch.randn(8)))
            ours, theirs = gradients(objective, inputs), gradients.by_autograd(objective, inputs)
            torch.testing.assert_close(list(ours.gradients), list(theirs.gradients))
            torch.testing.assert_close(ours.norm, theirs.norm)
            torch.testing.assert_close(ours.outputs, theirs.outputs)
    assert compiled_calls(gradients) == 3


@needs_compiler
@pytest.mark.parametrize("rows", [gradient.MANY + gradient.BLOCK, gradient.MANY + 1])
def test_it_is_so_for_very_many_rows(rows):
    net, batch = net_and_batch(rows)
    gradients = Gradients(list(net.parameters()))

    def loss(obs: torch.Tensor, weight: torch.Tensor):
        out = net(obs)
        return (weight * out.square()).mean(), {"columns": out.sum(0), "kept": out.sum(-2, keepdim=True)}

    given = torch.cat(list(batch.obs.values()), -1), batch.advantage.unsqueeze(1)
    with compiling(1):
        ours, theirs = gradients(loss, given), gradients.by_autograd(loss, given)
    assert compiled_calls(gradients) == 1
    torch.testing.assert_close(list(ours.gradients), list(theirs.gradients))
    torch.testing.assert_close(ours.outputs, theirs.outputs, rtol=1e-4, atol=1e-3)


@needs_compiler
def test_it_sees_the_parameters_as_they_are_now():
    net, batch = net_and_batch()
    gradients, objective, inputs = Gradients(list(net.parameters())), loss_of(net), inputs_for(batch)
    with compiling(1):
        before = gradients(objective, inputs)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(2.0)
        after = gradients(objective, inputs)
    assert not torch.equal(before.gradients[0], after.gradients[0])
    torch.testing.assert_close(list(after.gradients), list(gradients.by_autograd(objective, inputs).gradients))


@needs_compiler
def test_other_shapes_and_plain_values_are_compiled_anew_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(gradient, "VARIANTS", 2)
    net, batch = net_and_batch()
    gradients, objective = Gradients(list(net.parameters())), loss_of(net)
    with compiling(1):
        for rows, weight in ((8, 0.5), (4, 0.5), (8, 0.25)):
            inputs = inputs_for(batch[:rows], weight)
            expected = gradients.by_autograd(objective, inputs)
            torch.testing.assert_close(list(gradients(objective, inputs).gradients), list(expected.gradients))
    assert list(gradients.compiled.values()) == [True, True]
    assert compiled_calls(gradients) == 2


@needs_compiler
def test_an_objective_that_depends_on_more_than_its_inputs_is_left_to_autograd():
    weight = nn.Parameter(torch.ones(3))
    factors = iter(range(1, 100))

    def loss():
        return (weight * next(factors)).sum(), {}

    gradients = Gradients([weight])
    with (
        compiling(1),
        pytest.warns(UserWarning, match="loss is left to autograd, not compiled: it depends on something"),
    ):
        found = [float(gradients(loss, ()).gradients[0][0]) for _ in range(3)]
    assert found == sorted(found) and len(set(found)) == 3
    assert list(gradients.compiled.values()) == [False]


@needs_compiler
def test_one_that_changes_its_meaning_later_stops_the_run(monkeypatch):
    monkeypatch.setattr(gradient, "LOOK_EVERY", 5)
    weight, factor = nn.Parameter(torch.ones(3)), [1.0]

    def loss():
        return (weight * factor[0]).sum(), {}

    gradients = Gradients([weight])
    with compiling(1), pytest.raises(PalaestraError, match="the compiled loss no longer gives autograd's gradient"):
        for call in range(5):
            factor[0] = 2.0 if call >= 3 else 1.0
            gradients(loss, ())


@needs_compiler
def test_an_objective_that_cannot_be_traced_is_left_to_autograd():
    weight = nn.Parameter(torch.ones(3))

    def loss(x: torch.Tensor):
        total = (weight * x).sum()
        return (total if total.item() > 0 else -total), {}

    gradients = Gradients([weight])
    with compiling(1), pytest.warns(UserWarning, match="loss is left to autograd, not compiled"):
        assert torch.equal(gradients(loss, (-torch.ones(3),)).gradients[0], torch.ones(3))
    assert torch.equal(gradients(loss, (torch.ones(3),)).gradients[0], torch.ones(3))


@needs_compiler
def test_a_resumed_optimiser_compiles_what_was_compiled_before(monkeypatch):
    monkeypatch.setattr(gradient, "VARIANTS", 1)
    weight = nn.Parameter(torch.ones(3))

    def loss(x: torch.Tensor):
        return (weight * x).sum(), {}

    first, second = Adam([weight], 0.1), Adam([weight], 0.1)
    with compiling(1):
        first.descend(loss, torch.ones(3))
        second.load_state_dict(first.state_dict())
        second.descend(loss, torch.ones(1))  # another shape comes first this time
        second.descend(loss, torch.ones(3))
    assert second.gradients.compiled == first.gradients.compiled
    assert compiled_calls(second.gradients) == 1


def test_nothing_is_compiled_unless_asked():
    net, batch = net_and_batch()
    gradients = Gradients(list(net.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(loss_of(net), inputs_for(batch))
    assert gradients.compiled == {}


@needs_compiler
@pytest.mark.parametrize("total", [False, True], ids=["each number by itself", "a sum over all"])
def test_compiled_code_gives_the_same_with_any_number_of_threads(total):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(() if total else (4096, 16)))

    def loss(x: torch.Tensor):
        return torch.tanh(x * weight).sum(), {}

    gradients, x = Gradients([weight]), torch.randn(4096, 16)
    try:
        with compiling(2):
            torch.set_num_threads(2)
            together = gradients(loss, (x,))
            torch.set_num_threads(1)
            alone = gradients(loss, (x,))
    finally:
        torch.set_num_threads(1)
    assert torch.equal(together.gradients[0], alone.gradients[0])
    (function,) = gradients._functions.values()
    assert function is not None
    assert (function.together is function.alone) == total
