"""Transformers: torch's own blocks from the same weights, what padding and order can reach, and dropout drawn beforehand."""

from __future__ import annotations

import pytest
import torch
from gymnasium.spaces import Box
from torch import nn

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.core.experience import Experience
from palaestra.nets.transformer import Transformer, WindowEncoder

OBSERVATIONS = Box(-1, 1, (3,))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_windows(real: tuple[int, ...] = (5, 3, 1)) -> Experience:
    """Windows of 5 steps, of which so many are real."""
    batch = len(real)
    mask = (torch.arange(5) >= 5 - torch.tensor(real).unsqueeze(1)).float()
    return Experience(
        obs=torch.randn(batch, 5, 3, generator=noise(1)),
        action=torch.rand(batch, 5, 1, generator=noise(2)) * 2 - 1,
        time=torch.arange(5).expand(batch, -1),
        mask=mask,
    )


def encoder(**settings) -> WindowEncoder:
    torch.manual_seed(0)
    return WindowEncoder(OBSERVATIONS, 1, 2, **{"width": 8, "layers": 2, "heads": 2, "horizon": 10, **settings})


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_are_torchs(causal):
    torch.manual_seed(0)
    ours = Transformer(8, 2, 2, causal=causal)
    for p in ours.parameters():
        nn.init.normal_(p)
    theirs = [nn.TransformerEncoderLayer(8, 2, 32, 0.0, "relu", batch_first=True, norm_first=causal) for _ in range(2)]
    x, mask = torch.randn(3, 4, 8), torch.tensor([[1.0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
    y = x
    for own, layer in zip(ours.blocks, theirs, strict=True):
        names = {
            "self_attn.in_proj_weight": own.qkv.weight,
            "self_attn.in_proj_bias": own.qkv.bias,
            "self_attn.out_proj.weight": own.joined.weight,
            "self_attn.out_proj.bias": own.joined.bias,
            **{f"linear{i}.{p}": getattr(own.perceptron[2 * i - 2], p) for i in (1, 2) for p in ("weight", "bias")},
            **{f"norm1.{p}": getattr(own.norm_attention, p) for p in ("weight", "bias")},
            **{f"norm2.{p}": getattr(own.norm_perceptron, p) for p in ("weight", "bias")},
        }
        layer.load_state_dict(names)
        later = ~torch.ones(4, 4, dtype=torch.bool).tril() if causal else None
        y = layer(y, src_mask=later, src_key_padding_mask=mask == 0)
    real = mask.bool()
    torch.testing.assert_close(ours(x, mask)[real], ours.norm(y)[real])


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_an_embedding_depends_neither_on_its_neighbours_nor_on_padding(pooling):
    net, batch = encoder(pooling=pooling), random_windows()
    z = net(batch)
    torch.testing.assert_close(net(batch[torch.tensor([2, 0, 1])]), z[[2, 0, 1]])
    padding = batch.mask.unsqueeze(-1) == 0
    other = batch.replace(
        obs=torch.where(padding, 1e6, batch.obs), action=torch.where(padding, -7.0, batch.action), time=batch.time
    )
    torch.testing.assert_close(net(other), z)
    assert not torch.allclose(net(batch.replace(obs=batch.obs + 1)), z)


def test_pooling_by_hand():
    sums, batch = encoder(pooling="sum"), random_windows((5, 3))
    means = encoder(pooling="mean")
    bias = sums.head.bias
    tokens = torch.tensor([10.0, 6.0]).unsqueeze(1)
    torch.testing.assert_close((sums(batch) - bias) / tokens, means(batch) - bias)


def test_the_released_pooling_sees_padding_with_its_actions_at_minus_ten():
    net, batch = encoder(pooling="sum_padded"), random_windows((3, 3))
    z = net(batch)
    moved = batch.replace(obs=torch.where(batch.mask.unsqueeze(-1) == 0, 1.0, batch.obs))
    assert not torch.allclose(net(moved), z)
    filled = batch.replace(action=torch.where(batch.mask.unsqueeze(-1) == 0, 3.0, batch.action))
    torch.testing.assert_close(net(filled), z)
    whole = random_windows((5, 5))
    torch.testing.assert_close(net(whole), encoder(pooling="sum")(whole))


def test_dropout_is_what_was_drawn():
    net = Transformer(8, 2, 2, causal=True)
    assert net.draw(3, 4, 0.0, noise()) is None
    keep = net.draw(3, 4, 0.25, noise())
    assert keep.shape == (5, 3, 4, 8)
    assert keep.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(keep, net.draw(3, 4, 0.25, noise()))
    x, mask = torch.randn(3, 4, 8), torch.ones(3, 4)
    torch.testing.assert_close(net(x, mask, torch.ones_like(keep)), net(x, mask))
    assert not torch.allclose(net(x, mask, keep), net(x, mask))


def test_a_padded_row_has_a_finite_gradient():
    net = Transformer(8, 1, 2, causal=True)
    x = torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 0]])
    (net(x, mask)[0, -1]).sum().backward()
    assert torch.isfinite(x.grad).all() and not x.grad[1].any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadSetting, match="heads must divide the width 8, got 3"):
        Transformer(8, 1, 3, causal=True)
    with pytest.raises(UnknownName, match="unknown pooling 'max'"):
        encoder(pooling="max")
