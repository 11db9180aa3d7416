"""How many threads a run uses, and that it does not matter for what it learns."""

from __future__ import annotations

import hashlib

import pytest
import torch

import palaestra as pal
from palaestra.runs import threads
from palaestra.runs.threads import Governor, choose


def test_wide_networks_get_several_threads_and_small_ones_get_one(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 2)
    assert choose(pal.SAC(network=(256, 256), batch_size=256)) == 2
    assert choose(pal.SAC(network=(64, 64), batch_size=128)) == 1
    assert choose(pal.PPO()) == 1


def test_language_models_get_several_threads_from_a_width_of_128_on(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "available", lambda: 2)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text('{"hidden_size": 64}')
    narrow = ("tiny-64x2", "tiny-video-64x2", "mdm-64x2", "stories260K", str(tmp_path))
    assert {choose(pal.GRPO(model=model)) for model in narrow} == {1}
    assert {choose(pal.GRPO(model=model)) for model in ("tiny-128x4", "owner/model")} == {2}


@pytest.mark.parametrize(("others", "expected"), [(0.0, 2), (0.3, 2), (1.0, 1), (2.0, 1)])
def test_a_run_leaves_the_cores_that_others_use(monkeypatch, others, expected):
    clock = {"now": 0.0}
    monkeypatch.setattr(threads, "available", lambda: 2)
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(threads, "_own_seconds", lambda: 1.5 * clock["now"])
    monkeypatch.setattr(threads, "_processor_seconds", lambda: (1.5 + others) * clock["now"])
    governor = Governor(wanted=2)
    clock["now"] = 10.0
    try:
        governor.adapt()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(1)


def test_the_number_of_threads_does_not_change_what_is_learnt():
    def fingerprint(count: int) -> str:
        method = pal.SAC(warmup_steps=50).bind(pal.EnvTask("Pendulum-v1"), 0, pal.Budget(steps=100))
        torch.set_num_threads(count)
        for _ in range(70):
            method.step()
        numbers = b"".join(p.detach().numpy().tobytes() for p in method.actor.parameters())
        return hashlib.sha256(numbers).hexdigest()

    try:
        assert fingerprint(1) == fingerprint(2)
    finally:
        torch.set_num_threads(1)
