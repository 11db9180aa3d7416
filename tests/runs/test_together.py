"""Two processes that train one language model do what one process does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import palaestra as pal
from palaestra.core.errors import BadSetting
from palaestra.language.packing import bins

from . import together
from .processes import wait_for_rows

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch has no gloo"
)
ROOT = Path(__file__).parents[2]
PATIENCE = 900.0
ROUNDING = 1e-5
"""Sums over processes are taken in another order."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one process, then two, have trained."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "found-alone.json").write_text(json.dumps(together.all_of_it(folder / "alone")))
    # A run that one process began, for two to take up.
    together.run("grpo", folder / "taken-up", updates=2).train()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.runs.together", str(folder), str(rank)],
            cwd=ROOT,
            env={
                **os.environ,
                **{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return folder


def found(folder: Path, who: str) -> dict:
    return json.loads((folder / f"found-{who}.json").read_text())


def of_the_whole(row: dict[str, float]) -> dict[str, float]:
    """The metrics that do not depend on how a minibatch is cut into passes, as the spread of a pass's targets does, and on
    rounding which of two alike is larger, as the ratios to a reference that the policy has not left yet."""
    return {n: value for n, value in row.items() if n not in ("value/explained_variance", "preference/accuracy")}


def assert_alike(one: Path, other: Path, tolerance: float = ROUNDING) -> None:
    """Two runs' metrics and weights agree up to rounding."""
    rows = [[of_the_whole(row) for row in pal.load_run(path).metrics] for path in (one, other)]
    assert len(rows[0]) == len(rows[1]) > 0
    for first, second in zip(*rows, strict=True):
        assert first == pytest.approx(second, rel=tolerance, abs=tolerance)
    weights = [load_file(path / "policy" / "model.safetensors") for path in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=tolerance, atol=10 * tolerance)


def test_two_processes_are_given_the_answers_that_one_is_given(folder):
    alone = found(folder, "alone")["answers"]
    assert len(set(alone)) > 10
    assert found(folder, "0")["answers"] == found(folder, "1")["answers"] == alone


@pytest.mark.parametrize("name", sorted(together.RUNS))
def test_two_processes_learn_what_one_learns(folder, name):
    """Gradients, their norm before the clip, rewards, divergences and evaluations of every step; and the weights."""
    assert_alike(folder / "alone" / name, folder / "together" / name)
    gradients = [
        row["policy/gradient_norm"]
        for row in pal.load_run(folder / "alone" / name).metrics
        if "policy/gradient_norm" in row
    ]
    assert max(gradients) > 1e-3


@pytest.mark.parametrize("name", together.DIRECT)
def test_drawn_answers_are_judged_by_one_of_two_processes(folder, name):
    alone, *each = (found(folder, who)["work"][name]["judged"] for who in ("alone", "0", "1"))
    assert sum(each) == alone
    assert min(each) > 0.4 * alone


def test_the_value_head_is_fitted_by_one_process_for_all(folder):
    assert [found(folder, who)["work"]["a-lol"]["fitted"] for who in ("alone", "0", "1")] == [1, 1, 0]


def test_the_folder_of_two_processes_holds_what_that_of_one_holds(folder):
    def files(who: str) -> set[str]:
        top = folder / who / "grpo"
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file() and "blobs" not in path.parts}

    assert files("together") == files("alone")
    for name in ("grpo", *together.DIRECT):
        one, two = (pal.load_run(folder / who / name).record["counters"] for who in ("alone", "together"))
        assert one == two


def test_one_process_goes_on_with_what_two_began_and_two_with_what_one_began(folder):
    together.run("grpo", folder / "begun").train(resume=True)
    assert_alike(folder / "alone" / "grpo", folder / "begun" / "grpo")
    assert_alike(folder / "alone" / "grpo", folder / "taken-up" / "grpo")


def test_two_processes_train_in_bfloat16(folder):
    one, two = (pal.load_run(folder / who / "sft").metrics for who in ("alone", "rounded"))
    assert two[0]["loss/policy"] == pytest.approx(one[0]["loss/policy"], rel=0.02)
    assert two[0]["loss/policy"] != one[0]["loss/policy"]


def test_a_method_without_a_language_model_trains_in_one_process(folder):
    assert "ppo trains in one process" in found(folder, "0")["refused"]


def test_what_processes_find_is_put_together_in_the_order_of_ranks(folder):
    for who in ("0", "1"):
        assert (found(folder, who)["total"], found(folder, who)["gathered"]) == (3, [0, 1])


def test_what_one_process_does_for_all_is_given_to_all_and_fails_in_all(folder):
    assert [found(folder, who)["once"] for who in ("0", "1")] == ["0", "0"]
    failed = ["PalaestraError: one of 1, of rank 0", "PalaestraError: ValueError('not foreseen')"]
    assert found(folder, "1")["failures"] == failed
    assert found(folder, "0")["failures"] == [failed[0], "ValueError: not foreseen"]  # where it has its traceback


def test_packs_for_several_processes_are_as_many_for_each_and_level():
    lengths = [5, 5, 5, 40, 3, 3, 3, 3, 33]
    packs = bins(lengths, 1000, 2)
    assert len(packs) == 2 and [i for pack in packs for i in pack] == list(range(9))
    assert max(sum(lengths[i] for i in pack) for pack in packs) <= 60
    assert all(sum(lengths[i] for i in pack) <= 45 or len(pack) == 1 for pack in bins(lengths, 45, 2))
    assert bins([], 10, 3) == [] and bins([7], 2, 3) == [[0]]


def test_bfloat16_is_refused_where_nothing_computes_in_it():
    with pytest.raises(BadSetting, match="bfloat16 is what language models"):
        pal.train(pal.PPO(network=(4,)), "CartPole-v1", steps=8, out="run", precision="bfloat16", **together.QUIET)


@pytest.mark.slow
def test_ctrl_c_under_torchrun_saves_before_it_stops():
    launcher = "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "palaestra"
    training = "train", "grpo", "--task", "sorting", "--model", "tiny-16x1", "--updates", "100000", "--out", "run"
    rarely = "--log-every", "1", "--evaluate-every", "0", "--checkpoint-every", "50000"
    process = subprocess.Popen(
        [sys.executable, "-m", *launcher, *training, *rarely],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # which what is started in the background ignores
    )
    wait_for_rows(process, "run", 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=PATIENCE)
    record = pal.load_run("run").record
    assert record["status"] == "interrupted", said
    assert [int(path.name) for path in Path("run/checkpoints").glob("0*")] == [record["counters"]["updates"]]
