"""The command line: every command does what Python does, and every mistake is one line and exit code 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

import palaestra as pal
from palaestra.cli.main import COMMANDS, main
from palaestra.core import registry
from palaestra.core.errors import PalaestraError

from ..datasets import random_dataset
from ..runs.processes import PATIENCE, fingerprint, wait_for_rows

SMALL = [
    "--method.network",
    "8",
    "8",
    "--method.warmup-steps",
    "20",
    "--method.batch-size=8",
    "--method.buffer_size",
    "1e3",
]
BRIEF = ["--steps", "80", "--no-tensorboard", "--evaluate-every", "40", "--evaluate-episodes", "1", "--quiet"]
TRAIN = ["train", "sac", "--task", "Pendulum-v1", *SMALL, *BRIEF]
FOLDER = Path("runs/Pendulum-v1/sac-batch_size=8-buffer_size=1000-warmup_steps=20-network=8x8/seed0")
TINY_PPO = ["--ppo.network", "8", "--ppo.num-envs", "2", "--ppo.rollout-steps", "32", "--ppo.epochs", "1"]


def stored(folder: Path = FOLDER) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


# Training


def test_train_prints_the_resolved_settings_the_threads_the_folder_and_how_to_evaluate(capsys):
    assert main(TRAIN) == 0
    out = capsys.readouterr().out
    for part in ("batch_size=8", "network=8x8", "tau=0.005", "threads=1", f"palaestra evaluate {FOLDER}"):
        assert part in out


def test_settings_are_shown_in_whole_words(capsys):
    folder = "a-folder-" * 20
    assert main(["train", "sft", "--task", "sorting", "--model", folder, "--updates", "1", "--quiet"]) == 2
    assert f"  model={folder}\n" in capsys.readouterr().out


def test_flags_are_the_settings_that_python_has():
    assert main(TRAIN) == 0
    small = {"network": (8, 8), "warmup_steps": 20, "batch_size": 8, "buffer_size": 1000}
    engine = {"tensorboard": False, "evaluate_every": 40, "evaluate_episodes": 1, "quiet": True}
    pal.train(pal.SAC(**small), "Pendulum-v1", steps=80, out="python", **engine)
    assert fingerprint("python") == fingerprint(FOLDER)


def test_a_run_stands_until_it_is_told_to_go_on_or_start_again(capsys):
    assert main(TRAIN) == 0
    assert main(TRAIN) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*TRAIN, "--resume"]) == 0
    assert "is finished already" in capsys.readouterr().out
    changed = [*TRAIN, "--method.lr", "1e-3", "--out", str(FOLDER), "--resume"]
    assert main(changed) == 2, "a finished run, too, is that of its settings"
    assert "was started with other settings: lr 0.0003 then, 0.001 now" in capsys.readouterr().err
    assert main([*TRAIN, "--overwrite"]) == 0


def test_a_finished_run_goes_on_when_it_is_given_more_steps():
    assert main(TRAIN) == 0
    assert main([*TRAIN, "--resume", "--steps", "120"]) == 0
    assert pal.load_run(FOLDER).record["counters"]["steps"] == 120


def test_the_folder_alone_and_more_steps_make_a_run_go_on_as_one_that_was_given_them_at_once():
    assert main([*TRAIN, "--steps", "120", "--out", "whole"]) == 0
    assert main(TRAIN) == 0
    assert main(["train", "--resume", str(FOLDER), "--steps", "120"]) == 0
    assert fingerprint(FOLDER) == fingerprint("whole")


def test_the_config_of_a_run_makes_the_same_run_again_and_flags_override_it():
    assert main(TRAIN) == 0
    assert main(["train", "--config", str(FOLDER / "config.yaml"), "--out", "again"]) == 0
    assert fingerprint("again") == fingerprint(FOLDER)
    command = [
        "train",
        "sac",
        "--config",
        str(FOLDER / "config.yaml"),
        "--method.lr",
        "1e-3",
        "--seed",
        "4",
        "--out",
        "b",
    ]
    assert main(command) == 0
    assert stored(Path("b"))["settings"]["lr"] == 1e-3
    assert stored(Path("b"))["seed"] == 4


def test_a_config_written_by_hand_may_say_1e_3_and_name_the_task_alone():
    Path("mine.yaml").write_text(
        "method: ppo\ntask: CartPole-v1\nbudget: {steps: 1e2}\nengine: {quiet: true, tensorboard: false}\n"
        "settings: {lr: 1e-3, network: [8], num_envs: 2, rollout_steps: 32}\n"
    )
    assert main(["train", "--config", "mine.yaml", "--out", "a"]) == 0
    assert stored(Path("a"))["settings"]["lr"] == 0.001
    assert stored(Path("a"))["budget"]["steps"] == 100


MINE = """
import palaestra as pal
from dataclasses import dataclass

@dataclass
class Mine(pal.SAC):
    bonus: float = 0.5
    \"\"\"Added to nothing.\"\"\"
"""
MAKE = """
import gymnasium

def make(render_mode=None):
    return gymnasium.make("Pendulum-v1", render_mode=render_mode)
"""


def test_a_method_and_a_task_from_a_users_files_train_and_resume_from_another_folder(monkeypatch, capsys):
    Path("mine.py").write_text(MINE)
    Path("world.py").write_text(MAKE)
    given = [*SMALL, *BRIEF, "--method.bonus", "0.1", "--out", "run", "--checkpoint-every", "40"]
    assert main(["train", "mine.py:Mine", "--task", "world.py:make", *given]) == 0
    assert stored(Path("run"))["settings"]["bonus"] == 0.1
    assert main(["evaluate", "run", "--episodes", "1"]) == 0
    whole = fingerprint("run")
    newest = sorted(Path("run/checkpoints").glob("0*"))[-1]
    for path in sorted(newest.iterdir()):
        path.unlink()
    newest.rmdir()
    record = json.loads(Path("run/run.json").read_text())
    Path("run/run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    run = Path("run").resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert fingerprint(run) == whole
    capsys.readouterr()
    assert main(["train", "../mine.py:Mine", "--help"]) == 0
    assert "Added to nothing. [0.5]" in capsys.readouterr().out


def test_a_run_with_a_network_of_the_users_own_is_resumed_from_python(capsys):
    ppo = pal.PPO(network=lambda inputs, outputs: torch.nn.Linear(inputs, outputs), num_envs=2, rollout_steps=16)
    pal.train(ppo, "CartPole-v1", steps=32, out="own", quiet=True, tensorboard=False, evaluate_episodes=1)
    assert main(["train", "--resume", "own"]) == 2
    assert "own has your own network: resume it from Python" in capsys.readouterr().err


def test_evaluate_plays_so_many_episodes_and_is_a_function_of_the_seed(capsys):
    main(TRAIN)
    capsys.readouterr()
    said = []
    for _ in range(2):
        assert main(["evaluate", str(FOLDER), "--episodes", "3", "--seed", "5"]) == 0
        said.append(capsys.readouterr().out)
    assert "3 episodes" in said[0] and said[0] == said[1]


def test_control_c_saves_says_how_to_resume_and_exits_130():
    what = [
        "--steps",
        "1e7",
        "--log-every",
        "10",
        "--evaluate-every",
        "0",
        "--no-tensorboard",
        "--no-compile",
        "--out",
        "run",
    ]
    command = [sys.executable, "-m", "palaestra", "train", "sac", "--task", "Pendulum-v1", *SMALL, *what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_rows(process, "run", 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "go on with: palaestra train --resume run" in out
    assert any(Path("run/checkpoints").glob("0*/manifest.json"))
    record = json.loads(Path("run/run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["command"].startswith("palaestra train sac --task Pendulum-v1")


# Comparing


def test_compare_ends_with_the_table_and_the_report_and_goes_on_where_it_stopped(capsys):
    command = ["compare", "ppo", "a2c", "--task", "CartPole-v1", "--seeds", "2", "--workers", "2", *BRIEF, *TINY_PPO]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "ppo" in out and "a2c" in out and "report: runs/report.html" in out
    page = Path("runs/report.html").read_text()
    assert " ".join(command) in page, "the report shows the exact command"
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("metrics.jsonl")}
    assert main([*command[:6], "2", *command[7:]]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in Path("runs").rglob("metrics.jsonl")}


def test_several_numbers_after_seeds_are_the_seeds(capsys):
    command = ["compare", "ppo", "--task", "CartPole-v1", "--seeds", "3", "5", "--workers", "1", *BRIEF, *TINY_PPO]
    assert main(command) == 0
    assert {p.name for p in Path("runs").rglob("seed*")} == {"seed3", "seed5"}
    assert main(["report", "runs", "-o", "page.html", "--title", "Mine"]) == 0
    assert "Mine" in Path("page.html").read_text()


def test_samplers_and_datasets_are_compared_like_methods_and_tasks(monkeypatch, capsys):
    monkeypatch.setattr("palaestra.report.clip.clip", lambda record: b"")  # films take longer than all the rest
    for name in ("first", "second"):
        made = random_dataset("Pendulum-v1", 450)
        made.name = name
        made.save(name)
    command = (
        "compare bc --dataset first second --sampler uniform rw --seeds 1 --workers 1 --updates 20 --no-tensorboard"
    )
    assert main([*command.split(), "--evaluate-episodes", "1", "--bc.network", "8", "--bc.batch-size", "8"]) == 0
    out = capsys.readouterr().out
    assert out.count("bc (sampler=uniform)") == out.count("bc (sampler=rw)") == 2
    page = Path("runs/report.html").read_text()
    assert page.count("<circle") == 2 and "Normalised scores" in page


@pytest.mark.parametrize("command", ["train bc", "compare bc td3-bc"])
def test_settings_that_make_no_sense_are_refused_before_anything_begins(command, capsys):
    random_dataset("Pendulum-v1", 450).save("logs")
    assert main([*command.split(), "--dataset", "logs", "--sampler", "aw:x", "--updates", "2"]) == 2
    assert "the sampler aw takes a positive temperature, as in aw:0.05, got 'aw:x'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_compare_fails_with_exit_code_1_if_a_run_failed(capsys):
    Path("worlds.py").write_text(
        MAKE + "\n\ndef broken(render_mode=None):\n    env = make()\n    env.step = None\n    return env\n"
    )
    command = ["compare", "ppo", "--task", "worlds.py:make", "worlds.py:broken", "--seeds", "1", *BRIEF, *TINY_PPO]
    assert main(command) == 1
    assert "failed: runs/broken/" in capsys.readouterr().out


# What there is


def test_methods_lists_every_registered_method_with_its_paper(capsys):
    assert main(["methods", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(registry.METHODS)
    assert listed["sac"]["arxiv"] == "1812.05905" and listed["sac"]["actions"] == ["box"]
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(row["title"] in out and row["summary"] in out for row in listed.values())


def test_tasks_lists_ids_with_their_spaces_and_the_methods_that_fit(capsys):
    assert main(["tasks", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["Hopper-v5"]["observations"] == "Box 11"
    assert "sac" in listed["Hopper-v5"]["methods"] and "sac" not in listed["CartPole-v1"]["methods"]
    assert "Hopper-v4" not in listed, "only the newest version is listed"
    assert main(["tasks"]) == 0
    assert "methods for discrete actions: dqn" in capsys.readouterr().out


def test_a_task_that_is_named_is_made_and_shown(capsys):
    Path("world.py").write_text(MAKE)
    assert main(["tasks", "world.py:make", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["observations"] == "Box 3"


def test_a_task_in_text_is_shown_with_its_settings_whether_or_not_it_can_be_made_without_any(capsys):
    assert main(["tasks", "prompts", "sorting"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "prompts Your own prompts and reward functions text" in out and "methods for text actions: " in out
    assert "--task.reward X|NAME|none" in out and "What scores answers, or where it is. [none]" in out
    assert "settings of sorting:" in out and "--task.least N" in out


@pytest.mark.parametrize("name", registry.METHODS)
def test_help_of_a_method_lists_every_setting_with_its_default_and_docstring(name, capsys):
    assert main(["train", name, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    method = registry.method_class(name)()
    for setting, value in method.config.items():
        assert f"--method.{setting.replace('_', '-')} " in out
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert f". [{value}]" in out or f"[{value}]" in out


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"palaestra {command}" in capsys.readouterr().out
    assert main([]) == 0
    assert main(["--version"]) == 0


# Mistakes

TASK = "--task Pendulum-v1 --steps 100"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("trian sac", "unknown command 'trian'; did you mean 'train'?"),
        ("train sax", "unknown method 'sax'; did you mean 'sac'?"),
        ("train sac --task Pendulum-v9 --steps 10", "unknown task 'Pendulum-v9'; did you mean 'Pendulum-v1'?"),
        ("train grpo --task countdwon --updates 1", "unknown task 'countdwon'; did you mean 'countdown'?"),
        ("train grpo --task arithmetik --updates 1", "unknown task 'arithmetik'; did you mean 'arithmetic'?"),
        ("train grpo --task gsm8 --updates 1", "unknown task 'gsm8'; did you mean 'gsm8k'?"),
        (f"train sac {TASK} --sede 1", "unknown option '--sede'; did you mean '--seed'?"),
        (f"train sac {TASK} --method.rl 1", "unknown option '--method.rl'; did you mean '--method.lr'?"),
        (f"train sac {TASK} --method.lr fast", "--method.lr takes a number, got 'fast'"),
        (f"train sac {TASK} --method.actor-q max", "--method.actor-q takes min or mean, got 'max'"),
        (f"train sac {TASK} --method.lr", "argument --method.lr: expected one argument"),
        (f"train sac {TASK} --method.tau 3", "tau must be in (0, 1], got 3.0"),
        (f"train sac {TASK} --seed -1", "the seed must be a whole number >= 0"),
        (f"train sac {TASK} extra", "'extra' was not expected"),
        (f"train sac {TASK} --resume nowhere", "give either a method to train or the folder of a run"),
        ("train sac --task Pendulum-v1 --steps 1.5", "--steps takes a whole number, got '1.5'"),
        ("train sac --task Pendulum-v1", "how long? add --steps N"),
        ("train sac --steps 10", "which task? add --task ID"),
        ("train --task Pendulum-v1", "which method? palaestra train METHOD"),
        ("train sac --task CartPole-v1 --steps 10", "sac needs box actions, but CartPole-v1 has Discrete(2)"),
        ("train --resume nowhere", "nowhere is not a run (config.yaml is missing)"),
        ("train --config no.yaml", "there is no file no.yaml"),
        ("train mine.py:Mine --task x --steps 1", "mine.py"),
        ("evaluate nowhere", "nowhere is not a run"),
        ("compare --task Pendulum-v1", "which methods?"),
        ("compare sac", "which task?"),
        ("compare sac --task Pendulum-v1 --steps 10 --ppo.lr 1", "unknown option '--ppo.lr'; did you mean '--sac.lr'"),
        ("report nowhere", "there is no folder nowhere"),
        ("reproduce sax", "unknown claim 'sax'; did you mean 'sac'?"),
        ("reproduce", "which claim? palaestra reproduce NAME"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, says, capsys):
    assert main(command.split()) == 2
    _, err = capsys.readouterr()
    assert says in err
    assert err.count("\n") == 1 and err.startswith("palaestra: ")


def test_a_word_too_many_is_shown_behind_its_option(capsys):
    assert main(["train", "ppo", "--task", "CartPole-v1", "--steps", "0.3", "--method.clip", "0.2", "0.3"]) == 2
    assert "'0.3' was not expected after --method.clip; see" in capsys.readouterr().err


def test_a_method_that_cannot_take_a_task_says_so_before_it_says_what_it_has_no_setting_for(capsys):
    assert main(["train", "ppo", "--task", "sorting", "--model", "m", "--updates", "1"]) == 2
    out, err = capsys.readouterr()
    assert "ppo does not learn from text" in err
    assert not out, "and before it shows its settings"
    assert main(["train", "ppo", "--task", "sorting", "--updates", "1"]) == 2
    assert not capsys.readouterr().out


def test_a_warning_is_a_line_without_its_place_in_the_code_and_is_not_said_twice(monkeypatch, capsys):
    def warn(arguments: list[str]) -> int:
        for _ in range(2):
            warnings.warn("an odd\x1b thing", stacklevel=1)
            warnings.warn_explicit("an odd\x1b thing", UserWarning, "elsewhere.py", 3)
        return 0

    monkeypatch.setattr("palaestra.cli.main._dispatch", warn)
    assert main(["tasks"]) == 0
    assert capsys.readouterr().err == "warning: an odd\ufffd thing\n"


def test_a_config_file_with_an_unknown_entry_is_refused_by_name(capsys):
    for text, says in [
        ("methd: sac", "'methd'; did you mean 'method'?"),
        ("method: sac\nsettings: {rl: 1}\ntask: Pendulum-v1\nbudget: {steps: 9}", "'rl'; did you mean 'lr'?"),
        ("method: sac\nengine: {thread: 1}\ntask: Pendulum-v1\nbudget: {steps: 9}", "did you mean 'threads'?"),
        ("method: sac\nsettings: [1]\ntask: Pendulum-v1\nbudget: {steps: 9}", "'settings' in the config file"),
        ("- sac", "is not a palaestra config"),
    ]:
        Path("bad.yaml").write_text(text)
        assert main(["train", "--config", "bad.yaml"]) == 2
        assert says in capsys.readouterr().err


def test_an_error_cannot_write_to_the_terminal_what_a_file_of_somebody_elses_says(capsys):
    Path("bad.yaml").write_text('method: "\\e[31msac\\e]0;mine\\a\\u202e"\n')
    assert main(["train", "--config", "bad.yaml"]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_an_error_nobody_foresaw_is_one_line_too_and_a_traceback_on_demand(monkeypatch, capsys):
    def fail(arguments):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("palaestra.cli.listing.methods", fail)
    assert main(["methods"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setenv("PALAESTRA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["methods"])
    with pytest.raises(PalaestraError):
        main(["nonsense"])


@pytest.mark.parametrize(("command", "code"), [("claims", 0), ("reproduce", 2)])
def test_claims_are_listed_with_what_they_cost(command, code, capsys):
    assert main([command]) == code
    said = capsys.readouterr().out
    for name in registry.CLAIMS:
        claim = registry.claim(name)
        assert f"{name}: {claim.sentence}\n" in said
        assert all(f"{scale:6s} {one.cost}\n" in said for scale, one in claim.scales.items())


def test_claims_are_listed_as_json_too(capsys):
    assert main(["claims", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(found) == list(registry.table("claims"))
    assert found["sac"]["cost"]["small"] == registry.claim("sac").scale("small").cost


def test_a_name_like_no_other_is_answered_with_no_guess(capsys):
    assert main(["reproduce", "foo"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_reproduce_exits_0_only_if_the_claim_holds(monkeypatch):
    for holds, code in ((True, 0), (False, 1)):
        monkeypatch.setattr("palaestra.claims.reproduce.reproduce", lambda *a, holds=holds, **k: holds)
        assert main(["reproduce", "sac", "--scale", "small"]) == code


def test_check_says_in_words_what_is_wrong_and_exits_1(capsys):
    assert main(["check", "Pendulum-v1"]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    Path("bad.py").write_text(
        MAKE + "\n\ndef bad():\n    env = make()\n    env.unwrapped.max_speed = float('nan')\n    return env\n"
    )
    assert main(["check", "bad.py:bad"]) == 1
    assert "nan" in capsys.readouterr().out.lower()


def test_importing_palaestra_imports_none_of_what_it_may_not_need():
    heavy = ["torch", "gymnasium", "yaml", "tensorboard", "ray", "mujoco", "minari", "h5py", "scipy"]
    code = f"import sys, palaestra; print([name for name in {heavy} if name in sys.modules])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert asked.stdout.strip() == "[]"


def test_what_language_models_lack_is_said_in_one_line(monkeypatch, capsys):
    for module in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["train", "sft", "--task", "sorting", "--updates", "1", "--quiet", "--out", "run"]) == 2
    assert "pip install 'palaestra[language]'" in capsys.readouterr().err
