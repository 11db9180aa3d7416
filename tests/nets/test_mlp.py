"""The hand-written backward pass of the perceptron against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.nets.mlp import ACTIVATIONS, MLP, NormedMLP, make_net
from palaestra.nets.polyak import target_of

SIZES = st.lists(st.integers(1, 6), min_size=0, max_size=3)


def gradients(net: MLP, x: torch.Tensor, out: torch.Tensor) -> list[torch.Tensor]:
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad((out * weight).sum(), [x, *net.parameters()]))


def inputs(net: MLP, rows: int, shared: bool = True) -> torch.Tensor:
    lead = () if net.copies is None or shared else (net.copies,)
    dtype = next(net.parameters()).dtype
    return torch.randn(*lead, rows, net.sizes[0], dtype=dtype).requires_grad_()


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    SIZES,
    st.sampled_from([None, 1, 3]),
    st.integers(1, 5),
    st.booleans(),
    st.integers(),
)
def test_forward_and_backward_equal_autograd(activation, hidden, copies, rows, shared, seed):
    torch.manual_seed(seed % 2**31)
    net = MLP(3, hidden, 2, activation=activation, copies=copies).double()
    x = inputs(net, rows, shared)
    ours, plain = net(x), net.twice_differentiable(x)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(gradients(net, x, ours), gradients(net, x, plain), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("copies", [None, 2])
def test_gradients_pass_gradcheck(activation, copies):
    torch.manual_seed(0)
    net = MLP(3, (4, 4), 2, activation=activation, copies=copies).double()
    assert torch.autograd.gradcheck(lambda x, *_: net(x), (inputs(net, 5), *net.parameters()))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("shared", [True, False])
def test_a_stack_equals_separate_copies(activation, shared):
    torch.manual_seed(0)
    stack = MLP(3, (5, 4), 2, activation=activation, copies=3)
    x = inputs(stack, 6, shared)
    out = stack(x)
    assert out.shape == (3, 6, 2)
    for i in range(3):
        alone = MLP(3, (5, 4), 2, activation=activation)
        with torch.no_grad():
            for mine, theirs in zip(alone.parameters(), stack.parameters(), strict=True):
                mine.copy_(theirs[i].view_as(mine))
        torch.testing.assert_close(alone(x if shared else x[i]), out[i])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_inputs_that_begin_alike_give_what_they_give_apart(activation):
    torch.manual_seed(0)
    net = MLP(5, (4, 3), 2, activation=activation, copies=2).double()
    shared = torch.randn(6, 3, dtype=torch.float64)
    own = torch.randn(6, 7, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.cat([shared.unsqueeze(1).expand(-1, 7, -1), own], -1).flatten(0, 1)
    ours, plain = net.each(shared, own), net(rows).unflatten(1, (6, 7))
    torch.testing.assert_close(ours, plain)
    for a, b in zip(gradients(net, own, ours), gradients(net, own, plain), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("copies", [None, 2])
def test_mixed_outputs_are_a_mixture_of_the_outputs(copies):
    torch.manual_seed(0)
    net = MLP(3, (4,), 3 * 2, copies=copies).double()
    x = inputs(net, 5, shared=False)
    mix = torch.rand(*((copies,) if copies else ()), 3, dtype=torch.float64)
    expected = torch.einsum("...bkn,...k->...bn", net(x).unflatten(-1, (3, 2)), mix)
    torch.testing.assert_close(net.mixed(x, mix), expected)
    for a, b in zip(gradients(net, x, net.mixed(x, mix)), gradients(net, x, expected), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("copies", [None, 2])
def test_frozen_gives_a_gradient_to_the_input_only(copies):
    net = MLP(3, (4,), 2, copies=copies)
    x = inputs(net, 5)
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    net(x, frozen=True).sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert all(p.grad is None for p in net.parameters())


def test_an_input_that_needs_no_gradient_gets_none():
    net = MLP(3, (4,), 2)
    x = torch.randn(5, 3)
    net(x).sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_without_gradients_the_output_is_bitwise_the_same_and_the_input_untouched(activation):
    net = MLP(3, (4, 4), 2, activation=activation)
    x = torch.randn(5, 3)
    before = x.clone()
    with torch.no_grad():
        out = net(x)
    assert torch.equal(out, net(x).detach())
    assert torch.equal(x, before)


def test_differentiating_a_gradient_is_refused_rather_than_wrong():
    net = MLP(3, (4,), 1)
    x = inputs(net, 5)
    with pytest.raises(RuntimeError, match="twice_differentiable"):
        torch.autograd.grad(net(x).sum(), x, create_graph=True)


def test_the_other_path_can_be_differentiated_twice():
    net = MLP(3, (4,), 1, activation="tanh").double()
    assert torch.autograd.gradgradcheck(net.twice_differentiable, inputs(net, 2))


def test_a_copy_has_parameters_of_its_own():
    net = MLP(3, (4,), 2)
    target = target_of(net)
    x = torch.randn(5, 3)
    before = target(x).clone()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert torch.equal(target(x), before)
    target.load_state_dict(net.state_dict())
    assert torch.equal(target(x), net(x))


def test_orthogonal_weights_are_orthogonal_with_their_gain():
    net = MLP(6, (6,), 6, copies=2, init="orthogonal", out_gain=0.01)
    first, last = net.weights
    for w, gain in [(first[0], 2**0.5), (first[1], 2**0.5), (last[0], 0.01)]:
        torch.testing.assert_close(w @ w.T, gain**2 * torch.eye(6), atol=1e-5, rtol=0)
    assert all(bool((b == 0).all()) for b in net.biases)


def test_uniform_weights_stay_within_one_over_root_fan_in():
    net = MLP(25, (16,), 2)
    assert float(net.weights[0].detach().abs().max()) <= 0.2
    assert float(net.weights[1].detach().abs().max()) <= 0.25


def test_selu_starts_from_normal_weights_and_so_keeps_mean_zero_and_variance_one():
    torch.manual_seed(0)
    net = MLP(256, (512,) * 8, 512, activation="selu")
    out = net(torch.randn(256, 256)).detach()
    assert abs(float(out.mean())) < 0.1
    assert float(out.std()) == pytest.approx(1.0, abs=0.1)
    assert all(bool((b == 0).all()) for b in net.biases)


def test_a_users_network_serves_in_every_place():
    def network(n: int, m: int) -> nn.Module:
        return nn.Sequential(nn.Linear(n, 4), nn.ReLU(), nn.Linear(4, m))

    x = torch.randn(5, 3).requires_grad_()
    assert make_net(3, 2, network)(x).shape == (5, 2)
    stack = make_net(3, 2, network, copies=2)
    assert stack(x).shape == (2, 5, 2)
    stack(x, frozen=True).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in stack.parameters())


def test_an_unknown_activation_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'relu'"):
        MLP(3, (4,), 2, activation="relo")


def test_every_row_by_a_copy_of_its_own():
    net, x, copy = MLP(3, (5,), 2, copies=4), torch.randn(6, 3), torch.tensor([3, 0, 0, 2, 1, 3])
    torch.testing.assert_close(net.rowwise(x, copy), net(x)[copy, torch.arange(6)])


@pytest.mark.parametrize("copies", [None, 3])
def test_layers_are_normalised_before_their_activation(copies):
    torch.manual_seed(0)
    net, x = NormedMLP(4, (6, 5), 2, activation="tanh", copies=copies), torch.randn(7, 4) * 100
    with torch.no_grad():
        for p in (*net.gains, *net.shifts):
            p.uniform_(0.5, 2)
    h = x
    for w, b, gain, shift in zip(net.plain.weights, net.plain.biases, net.gains, net.shifts):
        z = h @ w + b
        z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        h = torch.tanh(z * gain + shift)
    torch.testing.assert_close(net(x), h @ net.plain.weights[-1] + net.plain.biases[-1])
    assert net(x).shape == ((7, 2) if copies is None else (3, 7, 2))


def test_a_frozen_normalised_network_has_a_gradient_for_its_input_alone():
    net, x = make_net(4, 2, (6,), copies=3, layer_norm=True), torch.randn(7, 4, requires_grad=True)
    (inputs_gradient,) = torch.autograd.grad(net(x).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(net(x, frozen=True).sum(), x)[0], inputs_gradient)
    net(x, frozen=True).sum().backward()
    assert all(p.grad is None for p in net.parameters())


def test_a_network_of_ones_own_normalises_itself():
    with pytest.raises(BadSetting, match="layer normalisation"):
        make_net(4, 2, lambda i, o: nn.Linear(i, o), layer_norm=True)
