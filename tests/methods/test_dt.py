"""The decision transformer: its loss, the returns that it is given, and what it asks for."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.data.windows import windows

from .tiny import bind_offline

SMALL = {"window": 4, "batch_size": 3, "width": 8, "layers": 1, "dropout": 0.0, "warmup": 1}


def test_it_imitates_real_steps_under_the_returns_that_followed_them():
    method = bind_offline(pal.DT(**SMALL, return_scale=10.0))
    seen = []
    inner = method.actor_optimiser.descend
    method.actor_optimiser.descend = lambda loss, batch, keep: (seen.append(batch), inner(loss, batch, keep))[1]
    method.step()
    dataset, (batch,) = method.data.dataset, seen
    for obs, to_go in zip(batch.obs[:, -1], batch.target[:, -1], strict=True):
        row = int((dataset.steps.obs == obs).all(1).nonzero())
        stop = int(dataset.stops[dataset.episode[row]])
        torch.testing.assert_close(to_go, dataset.steps.reward[row:stop].sum(), atol=1e-2, rtol=1e-4)
    batch.mask[0, 0] = 0.0
    with torch.no_grad():
        loss, _ = method.loss(batch, None)
        action = method.actor(batch, batch.target.unsqueeze(-1) / 10)
    real = batch.mask.bool()
    torch.testing.assert_close(loss, (action[real] - batch.action[real]).square().mean())


def test_it_asks_for_the_best_return_unless_told_otherwise_and_takes_off_what_it_earns():
    method = bind_offline(pal.DT(**SMALL))
    best = float(method.data.dataset.returns.max())
    assert method.policy().condition.item() == pytest.approx(best / 1000)
    told = bind_offline(pal.DT(**SMALL, target=-200.0)).policy()
    play = told.player()
    obs = method.data.dataset.steps.obs[0].numpy()
    play(obs)
    play(obs, -50.0)
    assert play.carry["wanted"].item() == pytest.approx(-0.15)


def test_it_learns_to_tell_behaviours_by_their_returns():
    """Half of the episodes go left for -1 a step, half go right for nothing: asked for 0 it goes right."""
    method = bind_offline(pal.DT(**{**SMALL, "window": 1, "batch_size": 32}, lr=1e-2, return_scale=100.0), updates=200)
    steps, dataset = method.data.dataset.steps, method.data.dataset
    left = (dataset.episode % 2 == 0).float()
    steps.action = (0.8 - 1.6 * left).unsqueeze(1)
    to_go = (dataset.stops[dataset.episode] - torch.arange(len(dataset))).float()
    steps.target = -left * to_go
    for _ in range(200):
        method.step()
    batch = windows(dataset, torch.arange(50, 350, 10), 1)
    with torch.no_grad():
        asked = [float(method.actor(batch, torch.full((30, 1, 1), c)).mean()) for c in (0.0, -1.0)]
    assert asked[0] > 0.2 and asked[1] < -0.6


def test_settings_out_of_range_are_refused():
    with pytest.raises(BadSetting, match="return_scale must be positive"):
        pal.DT(return_scale=0.0).check()
