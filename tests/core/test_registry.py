"""Names: unknown ones are answered with the nearest, and other packages and files can add to them."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import palaestra as pal
from palaestra.core import registry
from palaestra.core.errors import BadCheckpoint, PalaestraError, UnknownName, unknown
from palaestra.core.method import make_method, methods_for

OWN_METHOD = """
from dataclasses import dataclass
import palaestra as pal

@dataclass
class Mine(pal.SAC):
    extra: float = 1.0
"""


@pytest.fixture
def table_afresh():
    registry.table.cache_clear()
    yield
    registry.table.cache_clear()


SWITCHES = {
    *("dac", "ailboost", "grpo", "grpo-augmented", "dapo", "dr-grpo", "lite-ppo", "reinforce-pp", "rloo", "spo-lm"),
    *("unlikeliness", "ppo-lm", "ppo-max", "ppo-max-released", "rto", "salsa"),
}
SHARED = {"micro_tokens", "recompute", "adapter_alpha", "schedule", "top_k", "min_p"}
"""Settings of language models' passes, adapters, rates and sampling that hardly anybody sets."""


@pytest.mark.parametrize("name", sorted({*registry.METHODS} - SWITCHES))
def test_a_method_has_fewer_than_25_settings(name):
    """dac and ailboost have an actor-critic's, a discriminator's, and those of boosting; GRPO's family every switch of Tricks or
    Traps, and the PPOs among it a critic's, PPO-max also its own."""
    assert len({*registry.method_class(name).defaults()} - SHARED) < 25


def test_an_unknown_name_is_answered_with_the_nearest():
    assert "did you mean 'sac'?" in str(unknown("method", "sacc", ["sac", "ppo"]))
    assert "(known: ppo, sac)" in str(unknown("method", "zzz", ["sac", "ppo"]))
    assert "(known" not in str(unknown("task", "zzz", [str(i) for i in range(100)]))


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda: make_method("sacc"), "unknown method 'sacc'; did you mean 'sac'?"),
        (lambda: make_method("sac", {"gama": 0.9}), "unknown setting of sac: 'gama'; did you mean 'gamma'?"),
        (lambda: pal.EnvTask("HalfCheeta-v5"), "unknown task 'HalfCheeta-v5'; did you mean 'HalfCheetah-v5'?"),
        (lambda: registry.locate("palaestra.methods.online.sac:SAK"), "did you mean 'SAC'?"),
        (lambda: registry.locate("palaestra.nowhere:X"), "cannot import 'palaestra.nowhere'"),
        (lambda: registry.method_class("nowhere.py:X"), "there is no file"),
    ],
)
def test_every_wrong_name_is_one_line(ask, answer):
    with pytest.raises(PalaestraError) as wrong:
        ask()
    assert answer in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_every_registered_name_leads_to_something():
    for place in [*registry.METHODS.values(), *registry.POLICIES.values(), *registry.CLAIMS.values()]:
        assert registry.locate(place) is not None


def test_a_method_is_found_in_a_users_file_and_trains():
    Path("mine.py").write_text(OWN_METHOD)
    method = make_method("mine.py:Mine", {"extra": 2.0, "network": (4,), "warmup_steps": 10, "batch_size": 4})
    assert method.extra == 2.0
    run = pal.train(method, "Pendulum-v1", steps=20, out="run", quiet=True, tensorboard=False, evaluate_episodes=1)
    assert run.record["status"] == "finished"
    assert pal.load_run("run").config.extra == 2.0


def test_of_a_file_s_names_the_modules_that_it_imports_are_no_candidates():
    Path("rewards.py").write_text("import asyncio\n\ndef right(completions, **_):\n    return completions\n")
    with pytest.raises(PalaestraError, match=r"'wrong' \(known: right\)"):
        registry.locate("rewards.py:wrong")


def test_a_broken_file_is_named():
    Path("broken.py").write_text("1 / 0")
    with pytest.raises(PalaestraError, match=r"broken.py cannot be loaded: ZeroDivisionError"):
        registry.locate("broken.py:X")


def test_another_package_adds_methods_by_entry_points(monkeypatch, table_afresh):
    Path("others.py").write_text(OWN_METHOD)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    point = EntryPoint("mine", "others:Mine", "palaestra.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    assert make_method("mine").extra == 1.0
    assert make_method("mine").name == "mine"
    assert "mine" in methods_for("box")
    sys.modules.pop("others")


def test_an_added_name_cannot_take_the_place_of_palaestras_own(monkeypatch, table_afresh):
    point = EntryPoint("sac", "evil:SAC", "palaestra.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert registry.method_class("sac") is pal.SAC


def test_a_saved_policy_cannot_name_a_class_to_import():
    for name in ("os:system", "palaestra.nets.actors:SquashedGaussianActor", "subprocess:Popen", ""):
        with pytest.raises(BadCheckpoint, match="not palaestra's own"):
            registry.policy_class(name)


def test_an_unknown_attribute_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Sac'"):
        _ = pal.Sac
    assert issubclass(UnknownName, PalaestraError)
