"""Torn, altered or missing files, a full or read-only disk, and two processes in one folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import palaestra as pal
from palaestra.core import files
from palaestra.core.errors import BadCheckpoint, BadSetting, RunBusy
from palaestra.runs import checkpoint
from palaestra.runs.folder import load_config

from .processes import fingerprint, finish, order, start, wait_for_rows

TINY = {"network": [8, 8], "batch_size": 8, "buffer_size": 200, "warmup_steps": 20}
QUIET = {"quiet": True, "tensorboard": False, "evaluate_episodes": 1, "evaluate_every": 0}


def train(out: str = "run", steps: int = 80, **more) -> pal.Run:
    return pal.train(pal.SAC(**TINY), "Pendulum-v1", steps=steps, out=out, checkpoint_every=20, **QUIET, **more)


def some_state() -> dict:
    """A state with a small tensor, a tensor of several blocks, numbers and text."""
    return {
        "small": torch.arange(5),
        "large": torch.arange(3 * checkpoint.BLOCK_BYTES // 4, dtype=torch.int32),
        "nested": [1, {"a": None}],
    }


def saved() -> Path:
    return checkpoint.save(Path("checkpoints"), 7, some_state(), {})


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "bit-flipped": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("part", ["manifest.json", "state.json", "state.safetensors", "blob"])
def test_a_damaged_part_is_refused_by_name(part, damage):
    target = saved()
    path = sorted(Path("checkpoints/blobs").iterdir())[1] if part == "blob" else target / part
    if (part, damage) == ("manifest.json", "bit-flipped"):
        path.write_text(path.read_text().replace('"parts"', '"carts"'))
    else:
        DAMAGE[damage](path)
    with pytest.raises(BadCheckpoint, match=path.name) as refused:
        checkpoint.load(target)
    assert "\n" not in str(refused.value)


def test_a_whole_checkpoint_is_read_back_exactly():
    state, about = checkpoint.load(saved())
    assert about["clock"] == 7
    assert torch.equal(state["small"], some_state()["small"])
    assert torch.equal(state["large"], some_state()["large"])
    assert state["nested"] == [1, {"a": None}]


def test_tensors_whose_names_look_alike_are_kept_apart():
    state = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2), 0: torch.tensor(3), "0": torch.tensor(4)}}
    back, _ = checkpoint.load(checkpoint.save(Path("checkpoints"), 1, state, {}))
    assert (back["a/b"], back["a"]["b"], back["a"][0], back["a"]["0"]) == (1, 2, 3, 4)


def test_an_unchanged_block_is_not_written_again():
    state = some_state()
    checkpoint.save(Path("checkpoints"), 1, state, {})
    before = {path: path.stat().st_mtime_ns for path in Path("checkpoints/blobs").iterdir()}
    state["large"][0] += 1
    checkpoint.save(Path("checkpoints"), 2, state, {})
    after = {path: path.stat().st_mtime_ns for path in Path("checkpoints/blobs").iterdir()}
    assert len(before) == 3
    assert len(set(after) - set(before)) == 1
    assert all(after[path] == written for path, written in before.items())


def test_only_the_newest_two_checkpoints_and_their_blobs_are_kept():
    for clock in range(5):
        checkpoint.save(Path("checkpoints"), clock, {"large": some_state()["large"] + clock}, {})
    assert [path.name for path in sorted(Path("checkpoints").glob("0*"))] == ["000000000003", "000000000004"]
    assert len(list(Path("checkpoints/blobs").iterdir())) == 6


def test_a_manifest_cannot_name_files_outside_its_folder():
    target = saved()
    Path("secret").write_text("secret")
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["parts"]["../../secret"] = files.sha256(b"secret")
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadCheckpoint, match=r"does not list the parts"):
        checkpoint.load(target)


@pytest.mark.parametrize("blocks", [[], None, {"a": 1}, "of different shapes"], ids=str)
def test_a_checkpoint_whose_blocks_make_no_tensor_is_one_line(blocks):
    other = json.loads((saved() / "state.json").read_text())["blocks"]["/large"]
    target = checkpoint.save(Path("checkpoints"), 8, {"large": torch.ones(3, checkpoint.BLOCK_BYTES // 4)}, {})
    described = json.loads((target / "state.json").read_text())
    named = described["blocks"]["/large"]
    described["blocks"]["/large"] = named[:1] + other[:1] if isinstance(blocks, str) else blocks
    text = json.dumps(described).encode()
    (target / "state.json").write_bytes(text)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["parts"]["state.json"] = files.sha256(text)
    (target / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadCheckpoint, match=str(target)) as refused:
        checkpoint.load(target)
    assert "\n" not in str(refused.value)


def test_a_damaged_older_checkpoint_does_not_stop_training():
    train(steps=80)
    older = sorted(Path("run/checkpoints").glob("0*"))[0]
    (older / "state.json").write_text("{")
    assert train(steps=120, resume=True).record["status"] == "finished"


def test_resume_names_the_damaged_part_and_the_older_checkpoint_still_serves():
    whole = fingerprint(train("whole").folder)
    shutil.copytree("whole", "run")
    newest = checkpoint.newest(Path("run/checkpoints"))
    flip_a_bit(newest / "state.safetensors")
    with pytest.raises(BadCheckpoint, match=rf"state.safetensors is torn .* delete {newest} to resume"):
        train(resume=True)
    shutil.rmtree(newest)
    assert fingerprint(train(resume=True).folder) == whole


def test_a_checkpoint_of_another_configuration_is_refused():
    train()
    newest = checkpoint.newest(Path("run/checkpoints"))
    state, about = checkpoint.load(newest)
    del state["method"]["actor"]
    checkpoint.save(newest.parent, 80, state, {"seconds": 0, "timing": 0} | about)
    with pytest.raises(pal.PalaestraError, match=r"actor"):
        train(resume=True)


# The disk.


def test_a_write_that_fails_leaves_the_old_file_and_no_scratch(monkeypatch):
    files.write_text(Path("here/a.txt"), "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(pal.PalaestraError, match=r"no space left"):
        files.write_text(Path("here/a.txt"), "new")
    assert [path.read_text() for path in Path("here").iterdir()] == ["old"]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all():
    with files.replacing(Path("folder")) as fresh:
        (fresh / "a").write_text("old")
    with pytest.raises(RuntimeError), files.replacing(Path("folder")) as fresh:
        (fresh / "a").write_text("new")
        raise RuntimeError
    assert Path("folder/a").read_text() == "old"
    with files.replacing(Path("folder")) as fresh:
        (fresh / "b").write_text("new")
    assert [path.name for path in Path("folder").iterdir()] == ["b"]
    assert [path.name for path in Path().iterdir()] == ["folder"]


SCRIPT = """
import palaestra as pal
from palaestra.runs import checkpoint
from pathlib import Path
method = pal.SAC(network=(256, 256), batch_size=8, buffer_size=100, warmup_steps=70)
try:
    pal.train(method, "Pendulum-v1", steps=80, out="disk/run", checkpoint_every=20, evaluate_episodes=1, quiet=True)
except pal.PalaestraError as error:
    print("ERROR", error)
newest = checkpoint.newest(Path("disk/run/checkpoints"))
if newest:
    checkpoint.load(newest)
    pal.load_policy("disk/run")
    print("INTACT", newest.name)
print("LEFT", [str(p) for p in Path("disk").rglob(".*.tmp-*")])
"""


def run_on_own_disk(mount: str) -> dict[str, str]:
    """What the script says in a small file system that only its own process sees."""
    Path("disk").mkdir()
    Path("script.py").write_text(SCRIPT)
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode != 0:
        pytest.skip("needs permission to mount a small file system")
    command = ["unshare", "-m", "sh", "-c", f"{mount} && exec {sys.executable} script.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays_whole():
    said = run_on_own_disk("mount -t tmpfs -o size=6m tmpfs disk")
    assert "no space left" in said["ERROR"] and "--resume" in said["ERROR"]
    assert int(said["INTACT"]) >= 20
    assert said["LEFT"] == "[]"


@pytest.mark.slow
def test_a_read_only_disk_is_one_line():
    said = run_on_own_disk("mount -t tmpfs tmpfs disk && mkdir disk/run && mount -o remount,ro disk")
    assert "disk/run cannot be written (Read-only file system)" in said["ERROR"]
    assert "--out" in said["ERROR"]


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(pal.PalaestraError, match=r"cannot be written .* --out"):
        train("elsewhere/run")


# The folder.


@pytest.mark.slow
def test_a_second_process_in_the_folder_is_refused_and_the_first_goes_on():
    what = order("sac", TINY, "Pendulum-v1", 2000)
    first = start(what, "run", quiet=True)
    wait_for_rows(first, "run", 3)
    for mode in ("resume", "overwrite"):
        with pytest.raises(RunBusy, match=r"another process is training in run"):
            train(**{mode: True})
    finish(first)
    assert pal.load_run("run").record["status"] == "finished"


def test_a_used_folder_is_not_trained_into_by_accident():
    train()
    with pytest.raises(BadSetting, match=r"run is finished; add --overwrite .* --out"):
        train()


def test_overwrite_spares_a_folder_that_holds_no_run():
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("years of work")
    with pytest.raises(BadSetting, match=r"thesis holds no run"):
        train("thesis", overwrite=True)
    assert Path("thesis/chapter1.tex").read_text() == "years of work"


def test_resume_with_other_settings_is_refused_by_name():
    train()
    with pytest.raises(BadSetting, match=r"gamma 0\.99 then, 0\.9 now"):
        pal.train(pal.SAC(**TINY, gamma=0.9), "Pendulum-v1", steps=80, out="run", resume=True, **QUIET)


def test_a_setting_that_is_younger_than_the_run_had_its_default():
    train()
    path = Path("run/config.yaml")
    path.write_text(path.read_text().replace("  reward_scale: 1.0\n", ""))
    train(steps=100, resume=True)
    path.write_text(path.read_text().replace("  reward_scale: 1.0\n", "  reward_scale: 2.0\n"))
    with pytest.raises(BadSetting, match=r"reward_scale 2.0 then, 1.0 now"):
        train(steps=120, resume=True)


def test_a_metrics_file_that_lost_rows_is_refused():
    train()
    Path("run/metrics.jsonl").write_text("")
    with pytest.raises(BadCheckpoint, match=r"metrics.jsonl is shorter than its checkpoint says"):
        train(resume=True)


# What a run's folder says of itself.


def expanding(levels: int) -> str:
    """YAML of a few hundred bytes that is 9 ** `levels` values long when its aliases are followed."""
    lines = ["x0: &x0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"x{i + 1}: &x{i + 1} [{', '.join([f'*x{i}'] * 9)}]" for i in range(levels)]
    return "\n".join(lines)


def merging(levels: int) -> str:
    lines = ["x0: &x0 {a: 1}"]
    lines += [f"x{i + 1}: &x{i + 1} {{<<: [{', '.join([f'*x{i}'] * 9)}]}}" for i in range(levels)]
    return "\n".join(lines)


CONFIGS = {
    "nested without end": b"a: " + b"[" * 60_000,
    "without end": b"a" * 10**6,
    "that expands without end": expanding(12).encode(),
    "that merges without end": merging(12).encode(),
    "that contains itself": b"a: &a [*a]",
    "with an object of Python's": b"method: !!python/object/apply:os.system ['touch executed']",
    "in another encoding": b"method: \xff\xfe",
    "with a number beyond numbers": b"seed: " + b"9" * 5000,
    "that is a list": b"[1, 2]",
    "that says nothing": b"{}",
}


def test_a_config_is_read_fifty_levels_deep_whatever_python_would_bear():
    Path("deep.yaml").write_text("a: " + "[" * 49 + "]" * 49)
    load_config("deep.yaml")
    Path("deep.yaml").write_text("a: " + "[" * 50 + "]" * 50)
    with pytest.raises(BadSetting, match=r"deep\.yaml is not valid YAML: values lie more than 50 levels deep"):
        load_config("deep.yaml")


@pytest.mark.parametrize("content", CONFIGS)
def test_a_config_that_describes_no_run_is_one_line(content):
    Path("run").mkdir()
    Path("run/config.yaml").write_bytes(CONFIGS[content])
    with pytest.raises(pal.PalaestraError, match=r"run/config\.yaml") as refused:
        pal.load_run("run")
    assert "\n" not in str(refused.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"engine": None},
        {"settings": [1]},
        {"task": None},
        {"task": {"spec": "Pendulum-v1", "kwargs": [1]}},
        {"budget": {"steps": "many", "updates": None}},
        {"budget": None},
    ],
    ids=str,
)
def test_a_config_with_a_part_of_another_kind_is_one_line(change):
    train()
    path = Path("run/config.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(BadCheckpoint, match=r"run/config\.yaml does not describe a run"):
        pal.load_run("run")


def test_a_config_written_by_hand_may_use_aliases():
    Path("mine.yaml").write_text("settings: {network: &hidden [8, 8]}\nother: *hidden\n")
    assert load_config("mine.yaml")["other"] == [8, 8]


@pytest.mark.parametrize("text", ["[", "[]", "[" * 200_000, "\udcff"], ids=["torn", "list", "nested", "bytes"])
def test_a_damaged_record_is_one_line(text):
    train()
    Path("run/run.json").write_text(text, errors="surrogateescape")
    with pytest.raises(BadCheckpoint, match=r"run/run\.json"):
        _ = pal.load_run("run").record


def test_metrics_that_are_gone_are_missed_by_name():
    train()
    Path("run/metrics.jsonl").unlink()
    with pytest.raises(BadCheckpoint, match=r"run/metrics\.jsonl is missing"):
        _ = pal.load_run("run").metrics
