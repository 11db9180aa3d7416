"""Comparisons: every run once, resumed where it stopped, whatever happens to the workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import pytest

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError, UnknownName, Unsupported
from palaestra.language.tasks.prompts import PromptTask
from palaestra.runs import executors
from palaestra.runs.record import load_records

from .processes import PATIENCE, fingerprint, wait_for_rows

PPO = {"network": (8,), "num_envs": 2, "rollout_steps": 32, "epochs": 2, "minibatch": 16}
BRIEF = {"steps": 512, "quiet": True, "tensorboard": False, "evaluate_every": 256, "evaluate_episodes": 1}
SAVING = {**BRIEF, "checkpoint_every": 128, "log_every": 64}
"""Checkpoints often enough that a killed run has one."""


def tiny(**settings) -> pal.PPO:
    return pal.PPO(**{**PPO, **settings})


def stamps(folder: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in Path(folder).rglob("*") if path.is_file()}


def test_every_method_is_trained_on_every_task_with_every_seed():
    done = pal.compare([tiny(), tiny(lr=1e-2)], ["CartPole-v1", "Acrobot-v1"], seeds=2, workers=2, **BRIEF)
    assert {(r.task, r.label, r.seed) for r in done.records} == {
        (task, f"ppo (lr={lr})", seed)
        for task in ("CartPole-v1", "Acrobot-v1")
        for lr in (3e-4, 1e-2)
        for seed in (0, 1)
    }
    assert not done.failures
    assert all(record.status == "finished" and record.threads == 1 for record in done.records)
    assert "CartPole-v1" in done.table() and "ppo (lr=0.01)" in str(done)


def test_two_variants_of_a_method_have_folders_named_by_the_settings_that_differ():
    done = pal.compare([pal.PPO(**PPO), pal.PPO(**PPO, clip=0.1)], "CartPole-v1", seeds=[3], out="here", **BRIEF)
    first, second = (r.folder for r in done.records)
    common = "ppo-num_envs=2-rollout_steps=32-network=8-epochs=2-minibatch=16"
    assert {first, second} == {
        Path(f"here/CartPole-v1/{common}/seed3"),
        Path(f"here/CartPole-v1/{common}-clip=0.1/seed3"),
    }


def test_a_finished_comparison_is_not_trained_again():
    pal.compare(tiny(), "CartPole-v1", seeds=2, **BRIEF)
    before = stamps("runs")
    again = pal.compare(tiny(), "CartPole-v1", seeds=2, **BRIEF)
    assert len(again.records) == 2
    assert stamps("runs") == before


def test_more_seeds_are_added_to_those_that_are_finished():
    pal.compare(tiny(), "CartPole-v1", seeds=1, **BRIEF)
    before = stamps("runs")
    more = pal.compare(tiny(), "CartPole-v1", seeds=3, workers=2, **BRIEF)
    assert [record.seed for record in more.records] == [0, 1, 2]
    assert {path: time for path, time in stamps("runs").items() if path in before} == before


def test_a_run_does_not_depend_on_what_runs_beside_it():
    pal.compare(tiny(), "CartPole-v1", seeds=1, threads=1, out="alone", **SAVING)
    pal.compare(tiny(), "CartPole-v1", seeds=3, workers=3, out="together", **SAVING)
    alone, together = (sorted(Path(where).rglob("seed0"))[0] for where in ("alone", "together"))
    assert fingerprint(alone) == fingerprint(together)


class OnceFatal(gymnasium.Wrapper):
    """Kills its process at a step, the first time that any process comes to it."""

    def __init__(self, env, marker: Path, at: int):
        super().__init__(env)
        self.marker, self.left = marker, at

    def step(self, action):
        self.left -= 1
        if self.left == 0 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(action)


def cartpole(wrapper=lambda env: env):
    """A factory of CartPoles, all called alike so that their runs may be compared."""

    def make(render_mode=None):
        return wrapper(gymnasium.make("CartPole-v1", render_mode=render_mode))

    return make


def test_a_killed_worker_loses_no_run(tmp_path):
    pal.compare(tiny(), cartpole(), seeds=2, workers=2, out="whole", **SAVING)
    fatal = cartpole(lambda env: OnceFatal(env, tmp_path / "died", at=150))
    done = pal.compare(tiny(), fatal, seeds=2, workers=2, out="cut", **SAVING)
    assert (tmp_path / "died").exists()
    assert not done.failures
    for whole, cut in zip(sorted(Path("whole").rglob("seed?")), sorted(Path("cut").rglob("seed?")), strict=True):
        assert fingerprint(whole) == fingerprint(cut)


class Fatal(gymnasium.Wrapper):
    def step(self, action):
        os.kill(os.getpid(), signal.SIGKILL)


class Broken(gymnasium.Wrapper):
    def step(self, action):
        raise RuntimeError("the motor\nis on fire")


@pytest.mark.parametrize(
    ("wrapper", "reason"), [(Fatal, "killed by signal 9"), (Broken, "the motor is on fire")], ids=["killed", "raised"]
)
def test_a_run_that_always_fails_does_not_sink_the_others(wrapper, reason, monkeypatch):
    def bad(render_mode=None):
        return wrapper(gymnasium.make("CartPole-v1", render_mode=render_mode))

    starts = []
    start = executors.Worker.__init__
    monkeypatch.setattr(executors.Worker, "__init__", lambda self, *args: (starts.append(args), start(self, *args))[1])
    done = pal.compare(tiny(), [bad, "CartPole-v1"], seeds=2, workers=2, **BRIEF)
    assert {r.seed for r in done.records if r.task == "CartPole-v1" and r.status == "finished"} == {0, 1}
    assert len(done.failures) == 2
    assert all(reason in sentence and "\n" not in sentence for sentence in done.failures.values())
    assert len(starts) == 2 + 2 * (executors.TRIES if wrapper is Fatal else 1)


def test_if_every_run_fails_before_its_first_step_the_reason_is_raised(monkeypatch):
    def setup(self, task):
        raise PalaestraError("no room is left")

    monkeypatch.setattr(pal.PPO, "setup", setup)
    with pytest.raises(PalaestraError, match="every run failed; the first: no room is left"):
        pal.compare(tiny(), "CartPole-v1", seeds=2, **BRIEF)


@pytest.mark.parametrize(("error", "shown"), [(PalaestraError("no room is left"), False), (KeyError("fault"), True)])
def test_a_traceback_is_shown_of_errors_that_nobody_foresaw_alone(monkeypatch, capsys, error, shown):
    def setup(self, task):
        raise error

    monkeypatch.setattr(pal.PPO, "setup", setup)
    (reason,) = executors.train_all([pal.Run(tiny(), "CartPole-v1", steps=64)], quiet=True).values()
    assert str(error) in reason
    assert ("Traceback" in capsys.readouterr().err) is shown


def test_a_run_that_failed_counts_in_the_progress_with_what_it_has_done(capsys):
    one, other = (pal.Run(tiny(), "CartPole-v1", steps=64, seed=seed) for seed in range(2))
    board = executors.Board([one, other])
    board.end(one, "no room is left")
    board.show(force=True)
    assert "1/2 runs    0%  0/128 steps" in capsys.readouterr().err


def test_a_folder_with_another_budget_or_task_is_refused_before_anything_starts():
    pal.compare(tiny(), "CartPole-v1", seeds=1, **BRIEF)
    before = stamps("runs")
    with pytest.raises(BadSetting, match=r"other budget: steps 512 then, 1024 now.*--out"):
        pal.compare(tiny(), "CartPole-v1", seeds=2, **{**BRIEF, "steps": 1024})
    assert stamps("runs") == before


@pytest.mark.parametrize(
    ("methods", "task", "error", "words"),
    [
        (["ppo", "dqn"], "Pendulum-v1", Unsupported, "dqn needs discrete actions"),
        (["dpo", "spo"], "noisy-sort", Unsupported, "spo does not learn from text"),
        ([pal.PPO(**PPO), pal.PPO(**PPO, clip=-1.0)], "CartPole-v1", BadSetting, "clip"),
    ],
)
def test_a_method_that_does_not_fit_is_refused_before_any_other_is_trained(methods, task, error, words):
    with pytest.raises(error, match=words):
        pal.compare(methods, task, seeds=1, **BRIEF)
    assert not Path("runs").exists()


def test_that_there_will_be_no_scores_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("palaestra.runs.compare.train_all", lambda runs, *how: {run.folder: "left out" for run in runs})
    task = PromptTask([{"prompt": str(i), "chosen": "a", "rejected": "b"} for i in range(30)])
    no_scores = r"no scores of runs on prompts: they need a reward \(--task.reward FILE:FUNCTION\)"
    with pytest.warns(UserWarning, match=no_scores), pytest.raises(PalaestraError, match="every run failed"):
        pal.compare([pal.DPO(model="tiny-16x1"), pal.SFT(model="tiny-16x1")], task, seeds=2, updates=1)


def test_what_makes_no_sense_is_refused_in_a_sentence():
    with pytest.raises(BadSetting, match="in the comparison twice"):
        pal.compare([tiny(), tiny()], "CartPole-v1", seeds=1, **BRIEF)
    with pytest.raises(BadSetting, match="at least one seed"):
        pal.compare(tiny(), "CartPole-v1", seeds=[], **BRIEF)
    with pytest.raises(BadSetting, match="workers must be at least 1"):
        pal.compare(tiny(), "CartPole-v1", seeds=2, workers=0, **BRIEF)
    with pytest.raises(UnknownName, match="'log_evry'; did you mean 'log_every'"):
        pal.compare(tiny(), "CartPole-v1", seeds=1, steps=10, log_evry=3)


# A user's script as a user writes it: no main guard, its own method and environment, several threads used before.
SCRIPT = """
import gymnasium, torch
import palaestra as pal

torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)

class Mine(pal.PPO):
    def learn(self, batch):
        return super().learn(batch)

def make(render_mode=None):
    return gymnasium.wrappers.TimeAwareObservation(gymnasium.make("CartPole-v1", render_mode=render_mode))

mine = Mine(network=(8,), num_envs=2, rollout_steps=32, epochs=2, minibatch=16)
print("once")
options = {"log_every": 64, "evaluate_every": 0, "tensorboard": False, "compile": False}
done = pal.compare(mine, make, seeds=2, workers=2, steps=STEPS, **options)
print(done.table())
"""


def script(steps: int) -> subprocess.Popen[str]:
    Path("mine.py").write_text(SCRIPT.replace("STEPS", str(steps)))
    return subprocess.Popen(
        [sys.executable, "mine.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that was started in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def statuses() -> list[str]:
    return [json.loads((Path(f"runs/make/{LABEL}/seed{seed}") / "run.json").read_text())["status"] for seed in (0, 1)]


LABEL = "Mine-num_envs=2-rollout_steps=32-network=8-epochs=2-minibatch=16"
ENDLESS = 10_000_000


def test_a_script_without_a_main_guard_compares_its_own_method_on_its_own_environment():
    process = script(256)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert out.count("once") == 1 and "Mine" in out
    assert statuses() == ["finished", "finished"]
    stored = pal.load_run(f"runs/make/{LABEL}/seed0")
    assert type(stored.config).__name__ == "Mine", "a class of the script is found again by its file"


def test_control_c_stops_the_workers_which_save_and_says_how_to_go_on():
    process = script(ENDLESS)
    for seed in (0, 1):
        wait_for_rows(process, f"runs/make/{LABEL}/seed{seed}", 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "the same command goes on from there" in err
    assert statuses() == ["interrupted", "interrupted"]
    for record in load_records("runs"):
        assert record.counters["steps"] == record.rows[-1]["steps"] or record.counters["steps"] > 0
        assert list((record.folder / "checkpoints").glob("0*")), "it was saved where it stood"


def test_if_the_parent_is_killed_its_workers_save_and_end_so_that_no_folder_stays_locked():
    process = script(ENDLESS)
    for seed in (0, 1):
        wait_for_rows(process, f"runs/make/{LABEL}/seed{seed}", 3)
    process.kill()
    process.communicate(timeout=PATIENCE)
    end = time.monotonic() + PATIENCE
    while statuses() != ["interrupted", "interrupted"]:
        assert time.monotonic() < end, statuses()
        time.sleep(0.05)


def test_progress_is_one_combined_line_with_a_line_for_every_run_that_ends(capfd):
    pal.compare(tiny(), "CartPole-v1", seeds=2, workers=2, **{**BRIEF, "quiet": False})
    lines = capfd.readouterr().err.splitlines()
    assert sum("finished in" in line and "evaluation" in line for line in lines) == 2
    assert not any("steps/s" in line for line in lines), "workers themselves are silent"


def test_the_line_of_a_run_that_ends_has_three_digits_of_its_last_evaluation(monkeypatch, capfd):
    monkeypatch.setattr(pal.Run, "metrics", property(lambda run: [{"evaluation/return": 0.8438}]))
    pal.compare(tiny(), "CartPole-v1", seeds=2, workers=2, **{**BRIEF, "quiet": False})
    assert capfd.readouterr().err.count(", evaluation 0.844\n") == 2


@pytest.mark.slow
def test_on_a_ray_cluster_a_killed_worker_loses_no_run(tmp_path):
    pytest.importorskip("ray")
    pal.compare(tiny(), cartpole(), seeds=2, workers=2, out="whole", **SAVING)
    fatal = cartpole(lambda env: OnceFatal(env, tmp_path / "died", at=150))
    done = pal.compare(tiny(), fatal, seeds=2, ray="local", out="cut", **SAVING)
    assert (tmp_path / "died").exists()
    assert not done.failures
    for whole, cut in zip(sorted(Path("whole").rglob("seed?")), sorted(Path("cut").rglob("seed?")), strict=True):
        assert fingerprint(whole) == fingerprint(cut)
