"""All generated tasks at once: the same rows in every process, and through the engine's front door."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from palaestra.core import registry
from palaestra.core.errors import BadSetting
from palaestra.core.hints import ranges_of
from palaestra.core.task import Task, as_task
from palaestra.language.tasks.arithmetic import Arithmetic
from palaestra.language.tasks.countdown import CountDown
from palaestra.language.tasks.cyclic_style import CyclicStyle
from palaestra.language.tasks.generated import is_held_out
from palaestra.language.tasks.knights import Knights
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.proofs import Proofs
from palaestra.language.tasks.skill_mix import SkillMix
from palaestra.language.tasks.sort_len import SortLen
from palaestra.language.tasks.sorting import Sorting
from palaestra.language.tasks.sudoku import Sudoku

TASKS = [Sorting, CountDown, Arithmetic, Knights, Proofs, Sudoku, NoisySort, SortLen, CyclicStyle, SkillMix]


def digest():
    """What the first rows of every task hash to."""
    forms = [CountDown(numbers=4, form="mix"), Sudoku(form="backtrack"), *(task() for task in TASKS)]
    rows = [row for task in forms for split in ("train", "test") for row in task.rows(split)[:20]]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_rows_are_the_same_in_every_process():
    code = "from tests.language.tasks.test_generated import digest; print(digest())"
    found = {digest()}
    for seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": seed}
        root = Path(__file__).parents[3]
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, check=True
        )
        found.add(run.stdout.strip())
    assert len(found) == 1


@pytest.mark.parametrize("task", TASKS)
def test_it_is_a_task(task):
    assert isinstance(task(), Task)
    assert as_task(task()) is not None
    assert task.summary and task.offers == "prompts"
    assert task().name


@pytest.mark.parametrize("task", TASKS)
def test_another_seed_draws_other_rows(task):
    assert task(seed=1).rows("train")[:5] != task(seed=2).rows("train")[:5]


def test_the_share_that_is_held_out_is_as_asked_for():
    share = sum(is_held_out(str(i), 0.1) for i in range(5000)) / 5000
    assert share == pytest.approx(0.1, abs=0.02)
    assert not any(is_held_out(str(i), 0.0) for i in range(100))
    assert all(is_held_out(str(i), 1.0) for i in range(100))


def test_a_setting_of_a_text_task_out_of_the_range_in_its_hint_is_refused():
    tasks = [registry.locate(where) for where in registry.TASKS.values()]
    ranges = [(task, *ranged) for task in tasks if task.offers == "prompts" for ranged in ranges_of(task)]
    assert len(ranges) > 50
    for task, setting, allowed in ranges:
        with pytest.raises(BadSetting, match=f"{setting} {allowed.said}, got -1"):
            task(**{setting: -1})
