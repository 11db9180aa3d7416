"""OPPO: its losses by hand, who learns from which of them, what the finished policy is given, and labels from files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.data.task import DatasetTask
from palaestra.methods.offline.sequence import MAX_GRAD_NORM

from ..datasets import random_dataset
from .tiny import bind_offline

SMALL = {"window": 4, "batch_size": 3, "width": 8, "layers": 1, "embedding": 2, "dropout": 0.0, "warmup": 1}
NONE = (None, None)


def state(*modules: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def moved(before: list[torch.Tensor], *modules: torch.nn.Module) -> bool:
    return not all(torch.equal(a, b) for a, b in zip(before, state(*modules), strict=True))


def test_the_loss_is_reproduction_plus_preference_plus_length():
    method = bind_offline(pal.OPPO(**SMALL, preference_weight=0.5, norm_weight=0.25))
    batch, _ = method.pairs.sample(3)
    z, label = torch.tensor([0.3, -0.2]), torch.tensor([1.0, 0.5, 0.0])
    with torch.no_grad():
        embedded = method.encoder(batch)
        action = method.actor(batch, embedded.unsqueeze(1).expand(-1, 4, -1))
        loss, outputs = method.loss(batch, label, z, NONE)
    real = batch.mask.bool()
    imitation = sum(
        (action[half][real[half]] - batch.action[half][real[half]]).square().mean() for half in (slice(3), slice(3, 6))
    )
    far = (embedded - z).norm(dim=1)
    preference = ((far[0] - far[3] + 1).relu() + (far[5] - far[2] + 1).relu()) / 2
    length = (embedded.norm(dim=1) - 1).square()
    torch.testing.assert_close(outputs["loss/actor"], imitation)
    torch.testing.assert_close(outputs["loss/preference"], preference, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs["loss/norm"], length[:3].mean() + length[3:].mean())
    torch.testing.assert_close(loss, imitation + 0.5 * preference + 0.25 * outputs["loss/norm"], atol=1e-5, rtol=1e-4)


def test_swapping_all_pairs_with_their_labels_changes_nothing():
    method = bind_offline(pal.OPPO(**SMALL))
    batch, label = method.pairs.sample(3)
    swapped = batch[torch.tensor([3, 4, 5, 0, 1, 2])]
    with torch.no_grad():
        ours, theirs = (method.loss(*given, method.z, NONE)[0] for given in ((batch, label), (swapped, 1 - label)))
    torch.testing.assert_close(ours, theirs)


def test_ties_alone_move_neither_embeddings_by_preference_nor_z():
    dataset = random_dataset("Pendulum-v1", 450)
    dataset.steps.reward = torch.zeros(len(dataset))
    method = pal.OPPO(**SMALL, weight_decay=0.0).bind(DatasetTask(dataset), 0, Budget(updates=10))
    z = method.z.detach().clone()
    metrics = method.step()
    assert torch.equal(method.z, z)
    assert float(metrics["loss/preference"]) == 0.0
    assert all(torch.isfinite(value) for value in metrics.values())


def test_z_learns_from_embeddings_that_are_held_constant():
    method = bind_offline(pal.OPPO(**SMALL))
    before, z = state(method.encoder, method.actor), method.z.detach().clone()
    embedded = torch.randn(6, 2)
    method.z_optimiser.descend(method.z_loss, embedded, torch.tensor([1.0, 0.0, 1.0]))
    assert not moved(before, method.encoder, method.actor)
    assert not torch.equal(method.z, z)


def test_encoder_and_policy_are_clipped_each_by_its_own_norm_and_only_the_policy_warms_up():
    method = bind_offline(pal.OPPO(**{**SMALL, "warmup": 4}, lr=1e-3))
    rates = []
    for _ in range(5):
        method.step()
        rates.append((method.encoder_optimiser.lr, method.actor_optimiser.lr))
    assert rates == [(1e-3, 2.5e-4), (1e-3, 5e-4), (1e-3, 7.5e-4), (1e-3, 1e-3), (1e-3, 1e-3)]
    assert method.encoder_optimiser.norm != method.actor_optimiser.norm
    assert method.encoder_optimiser.gradients.max_norm == MAX_GRAD_NORM


def test_in_two_stages_the_policy_waits_for_the_embeddings():
    method = bind_offline(pal.OPPO(**SMALL, joint=False), updates=4)
    learnt = []
    for _ in range(4):
        encoder, actor, z = state(method.encoder), state(method.actor), method.z.detach().clone()
        method.step()
        learnt.append((moved(encoder, method.encoder), not torch.equal(z, method.z), moved(actor, method.actor)))
    assert learnt == [(True, True, False)] * 2 + [(False, False, True)] * 2
    assert method.counters.labels == 6


def test_with_few_labels_the_policy_still_imitates_all_the_data():
    method = bind_offline(pal.OPPO(**SMALL, label_count=2))
    seen = []
    inner = method.reproduction
    method.reproduction = lambda batch, embedded, keep: (seen.append(batch), inner(batch, embedded, keep))[1]
    for _ in range(20):
        method.step()
    (batch, *_), imitated = seen, torch.cat([batch.obs[-6:, -1] for batch in seen])
    assert batch.obs.shape[0] == 12
    assert len(imitated.unique(dim=0)) > 80
    assert method.counters.labels == 2
    labelled = torch.cat([batch.obs[:6, -1] for batch in seen])
    assert len(labelled.unique(dim=0)) <= 4


def test_for_human_labels_the_encoder_learns_alone_and_windows_are_reproduced_at_every_second_update():
    method = bind_offline(pal.OPPO(**SMALL, human=True, label_count=5))
    learnt = []
    for _ in range(4):
        actor, encoder = state(method.actor), state(method.encoder)
        metrics = method.step()
        learnt.append((moved(actor, method.actor), moved(encoder, method.encoder), "loss/unlabelled" in metrics))
    assert learnt == [(True, True, True), (False, True, False)] * 2


def test_the_policy_may_be_given_z_at_unit_length_or_the_best_episode():
    method = bind_offline(pal.OPPO(**{**SMALL, "window": 5}))
    torch.testing.assert_close(method.policy().condition, method.z.detach())
    method.condition = "unit"
    torch.testing.assert_close(method.policy().condition, method.z.detach() / method.z.detach().norm())
    method.condition = "best"
    dataset = method.data.dataset
    best = int(dataset.returns.argmax())
    steps, pieces = dataset.steps[int(dataset.starts[best]) : int(dataset.stops[best])], int(dataset.lengths[best]) // 5
    whole = steps.only("obs", "action").replace(time=torch.arange(5 * pieces), mask=torch.ones(5 * pieces))
    embedded = method.encoder(whole.map(lambda x: x.unflatten(0, (pieces, 5))))
    torch.testing.assert_close(method.policy().condition, embedded.mean(0).detach())


def test_flipped_labels_are_the_opposite_of_the_teachers():
    said, opposite = (bind_offline(pal.OPPO(**SMALL, flip=flip)).pairs.sample(3) for flip in (0.0, 1.0))
    assert torch.equal(said[0].obs, opposite[0].obs)
    assert torch.equal(said[1], 1 - opposite[1])


def test_labels_come_from_a_file_of_people_and_from_saved_preferences():
    dataset = random_dataset("Pendulum-v1", 450)
    people = {"start_indices": [0, 7], "start_indices_2": [210, 3], "human_label": [0, -1]}
    Path("people.json").write_text(json.dumps(people))
    pal.ScriptedTeacher().label(dataset, 9, 4).save("said")
    for labels, count in (("people.json", 2), ("said", 9)):
        method = pal.OPPO(**SMALL, labels=labels).bind(DatasetTask(dataset), 0, Budget(updates=2))
        method.step()
        assert method.counters.labels == count
    with pytest.raises(BadDataset, match="compares 4 steps; a window of 3 is too short"):
        dataclasses.replace(method, window=3).bind(DatasetTask(dataset), 0, Budget(updates=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding": 0}, "embedding must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"condition": "worst"}, "condition must be z, unit or best"),
        ({"flip": 2.0}, r"flip must be in \[0, 1\]"),
        ({"labels": "said", "flip": 0.1}, "label_count and flip are the scripted teacher's"),
        ({"human": True, "joint": False}, "leave out one of human and joint=False"),
        ({"norm_weight": -1.0}, "norm_weight must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        pal.OPPO(**settings).check()


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(Unsupported, match="oppo needs box actions"):
        bind_offline(pal.OPPO(**SMALL), "CartPole-v1")
    with pytest.raises(BadDataset, match="an episode of 200 steps, but the horizon is 100"):
        bind_offline(pal.OPPO(**SMALL, horizon=100))
