"""A run's folder from somebody else: no code that it names is executed unless the user says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

import palaestra as pal
from palaestra.cli.main import main
from palaestra.core.errors import Untrusted
from palaestra.report import clip
from palaestra.runs.record import load_records

TRAIN = {"quiet": True, "tensorboard": False, "evaluate_episodes": 1, "evaluate_every": 0}
SETTINGS = {"network": (4,), "num_envs": 2}
CODE = """
from pathlib import Path
import gymnasium, palaestra
Path(__file__).with_name("executed").touch()

def make(render_mode=None):
    return gymnasium.make("CartPole-v1", render_mode=render_mode)

class Mine(palaestra.A2C):
    pass
"""


@pytest.fixture(autouse=True)
def _no_module_stays():
    yield
    for name in ("theirs", "palaestra_user_theirs"):
        sys.modules.pop(name, None)


@pytest.fixture
def run() -> Path:
    """A finished run with a Python file beside its own files."""
    folder = pal.train(pal.A2C(**SETTINGS), "CartPole-v1", steps=20, out="shared/run", **TRAIN).folder
    Path(folder, "theirs.py").write_text(CODE)
    return folder


def name(folder: Path, method: str = "a2c", task: str = "CartPole-v1") -> None:
    """Let the config of a run name another method or task."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["method"], config["task"]["spec"] = method, task
    path.write_text(yaml.safe_dump(config))


def executed(folder: Path) -> bool:
    return (folder / "executed").exists()


PLACES = {
    "relative": lambda folder: f"{folder}/theirs.py",
    "absolute": lambda folder: f"{folder.resolve()}/theirs.py",
    "roundabout": lambda folder: f"{folder}/../../shared/./run/policy/../theirs.py",
    "by a link to the folder": lambda folder: (os.symlink(folder, "link"), "link/theirs.py")[1],
    "by a link to the file": lambda folder: (os.symlink(folder / "theirs.py", "mine.py"), "mine.py")[1],
    "below it": lambda folder: (
        os.link(folder / "theirs.py", folder / "policy/theirs.py"),
        f"{folder}/policy/theirs.py",
    )[1],
    "by the system's name for it": lambda folder: f"/proc/self/cwd/{folder}/theirs.py",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("part", ["method", "task"])
def test_a_file_in_the_runs_folder_is_not_executed_however_the_config_names_it(run, part, place):
    if place.startswith("by the system") and not Path("/proc/self/cwd").exists():
        pytest.skip("this system has no /proc")
    file = PLACES[place](run)
    name(run, **{part: f"{file}:{'Mine' if part == 'method' else 'make'}"})
    with pytest.raises(Untrusted, match=r"names code \(.*\.py:\w+\), .* --trust"):
        pal.load_run(run)
    assert not executed(run) and not executed(run / "policy")


@pytest.mark.parametrize(
    ("part", "named"), [("method", "theirs:Mine"), ("task", "theirs:make"), ("task", "theirs:A-v0")]
)
def test_a_module_that_python_would_find_in_the_runs_folder_is_not_executed_either(run, part, named, monkeypatch):
    name(run, **{part: named})
    monkeypatch.syspath_prepend(str(run.resolve()))
    with pytest.raises(Untrusted, match=rf"names code \({named}\)"):
        pal.load_run(run)
    assert not executed(run) and "theirs" not in sys.modules


def test_with_trust_it_is(run):
    name(run, f"{run.resolve()}/theirs.py:Mine", f"{run.resolve()}/theirs.py:make")
    assert type(pal.load_run(run, trust=True).config).__name__ == "Mine"
    assert executed(run)


@pytest.mark.parametrize("command", [["evaluate"], ["train", "--resume"], ["train", "--out", "again", "--config"]])
def test_the_command_line_refuses_in_one_line_and_has_a_flag_for_it(run, command, capsys):
    name(run, task=f"{run.resolve()}/theirs.py:make")
    given = [*command, str(run / "config.yaml" if "--config" in command else run)]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "theirs.py" in said and "--trust" in said
    assert not executed(run)
    assert main([*given, "--trust"]) == 0
    assert executed(run)


@pytest.mark.parametrize(
    "task",
    [
        {"spec": "os:system", "kwargs": {"command": "touch executed"}},
        {"spec": f"{os.__file__}:system", "kwargs": {"command": "touch executed"}},
        {"kind": "dataset", "spec": "data:small", "kwargs": {"env": "theirs.py:make"}},
        {"kind": "dataset", "spec": "local:theirs:A-v0/medium", "kwargs": {}},
    ],
    ids=["a module", "a file of Python's own", "a dataset's environment", "an environment to make data in"],
)
def test_code_that_lies_elsewhere_is_not_executed_either(run, task, monkeypatch):
    Path("theirs.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(Path().resolve()))
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "task": task}))
    with pytest.raises(Untrusted):
        pal.load_run(run)
    assert not executed(Path())


def test_something_that_is_no_method_is_not_called(run):
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, "method": "os:system", "settings": {"command": "touch executed"}}))
    with pytest.raises(pal.PalaestraError, match="os:system is no method"):
        pal.load_run(run, trust=True)
    assert not executed(Path())


@pytest.fixture
def own() -> Path:
    """A run of one's own method on one's own environment."""
    Path("theirs.py").write_text(CODE)
    options = ["--task", "theirs.py:make", "--steps", "20", "--out", "own", "--quiet", "--evaluate-episodes", "1"]
    assert main(["train", "theirs.py:Mine", *options, "--method.network", "4"]) == 0
    return Path("own")


def test_a_run_that_one_started_is_loaded_as_ever_wherever_it_is_moved(own):
    assert type(pal.load_run(own).config).__name__ == "Mine"
    assert type(pal.load_run(own.rename("moved")).config).__name__ == "Mine"


@pytest.mark.parametrize("change", ["the config", "the seal", "no seal", "another user"])
def test_one_that_somebody_changed_or_another_user_started_is_not(own, change, monkeypatch):
    if change == "the config":
        path = own / "config.yaml"
        path.write_text(path.read_text().replace("theirs.py:make", "theirs.py:other"))
    elif change == "the seal":
        (own / "seal").write_text("0" * 64)
    elif change == "no seal":
        (own / "seal").unlink()
    else:
        monkeypatch.setenv("HOME", str(Path("home").resolve()))
    with pytest.raises(Untrusted, match="was not written by a run that you started on this machine"):
        pal.load_run(own)


def test_where_no_key_can_be_kept_nothing_is_sealed(monkeypatch):
    Path("home").write_text("a file")
    monkeypatch.setenv("HOME", str(Path("home").resolve()))
    Path("theirs.py").write_text(CODE)
    folder = pal.train(pal.A2C(**SETTINGS), "theirs.py:make", steps=20, out="own", **TRAIN).folder
    assert not (folder / "seal").exists()
    with pytest.raises(Untrusted):
        pal.load_run(folder)
    assert pal.load_run(folder, trust=True).finished


def test_a_report_and_a_loaded_policy_import_nothing_that_the_folder_names_or_holds(run, monkeypatch):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    name(run, f"{run.resolve()}/theirs.py:Mine", f"{run.resolve()}/theirs.py:make")
    record = run / "run.json"
    record.write_text(record.read_text().replace('"a2c"', f'"{run.resolve()}/theirs.py:Mine"'))
    for module in (
        "tempfile",
        "numpy",
        "PIL",
        "gymnasium",
        "palaestra",
    ):  # what a process that began here might find first
        (run / f"{module}.py").write_text(CODE)
    monkeypatch.chdir(run)
    (found,) = load_records(".")
    with pytest.raises(pal.PalaestraError, match="does not run the code of an environment of one's own"):
        clip.clip(found)
    assert main(["report", ".", "-o", "report.html"]) == 0
    assert pal.load_policy(".").predict([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    assert not executed(Path())
    assert not {"theirs", "palaestra_user_theirs"} & set(sys.modules)
