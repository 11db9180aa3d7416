"""Grids in preference learning: data x algorithm x reward model x prompts, after Ivison et al. (arXiv 2406.09279).

Every cell is an algorithm on some preferences: one that asks for no new answers learns from them as they are, one that does from
a reward model that was trained on them, asked by some prompts. All begin with the same fine-tuned start, and are evaluated alike.
A grid becomes arms of a claim, or of a study that a file describes, in which what several cells need is trained once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from palaestra.claims.claim import Arm, Estimate, Records, Table, mean
from palaestra.claims.reproduce import Trial, plain
from palaestra.core.errors import BadSetting, PalaestraError, require
from palaestra.core.method import Method
from palaestra.core.seeding import seed_for
from palaestra.core.task import as_task
from palaestra.language.anchors import Anchor
from palaestra.language.best_of import best_of
from palaestra.language.judges.judge import shown
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.rows import shown_prompt
from palaestra.language.task import TextTask
from palaestra.language.tasks.prompt_rows import key_of, shows
from palaestra.methods.preference.reward_model import RewardModelling
from palaestra.runs.run import Run

START = "start"
"""The arm that all cells begin with; as the `model` of a reward model, that it begins with it, too."""
PROMPTS = 2000
"""Held-out prompts of an evaluation, of which every other one only serves to choose among variants; and pairs."""
RIGHT = "pairs right"
BEST_OF = (1, 4, 16)
SELECTED = 200
"""Held-out prompts to which a reward model selects the best of that many answers."""
AVERAGE, CHOOSING = "average", "choosing"
"""The mean over groups of an evaluation, however many prompts each has; and over those that choose."""

Settings = Mapping[str, Any]
"""Settings of the task; `task` may name another one, which begins with its own defaults."""


@dataclass(frozen=True)
class Level:
    """What a factor may be, where that is trained: a method and its budget."""

    method: Method
    updates: int
    settings: Settings = field(default_factory=dict)
    """On top of those of the data."""
    tried: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Settings of an algorithm that are tried at several values, of which those count that answer best on average over seeds."""

    @property
    def asks(self) -> bool:
        """Whether it has answers scored, new ones or those of the data, and so can learn from a reward model."""
        told = getattr(self.method, "drawn", 1) == 0 and not getattr(self.method, "rescored", False)
        return hasattr(self.method, "reward_model") and not told

    def variants(self) -> dict[str, Method]:
        """The methods that are tried, by what is said of them."""
        every = itertools.product(*self.tried.values())
        chosen = [dict(zip(self.tried, values, strict=True)) for values in every]
        return {_said(settings): replace(self.method, **settings) for settings in chosen}


@dataclass(frozen=True)
class Cell:
    """One level of each factor; no reward model and no prompts where nothing is asked."""

    data: str
    algorithm: str
    reward: str = ""
    prompts: str = ""

    @property
    def model(self) -> str:
        """The arm of its reward model."""
        return f"reward model, {self.data}, {self.reward}"

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.algorithm, self.data, self.reward, self.prompts)))


@dataclass(frozen=True)
class Grid:
    """The factors of a grid, by the names of their levels; the first ones are those that the others are compared with."""

    task: str
    start: Level
    data: Mapping[str, Settings]
    """Where preferences are from: rows with judged answers."""
    algorithms: Mapping[str, Level]
    rewards: Mapping[str, Level | None] = field(default_factory=lambda: {"judge": None})
    """Reward models, whose `model` may be `start`; None is the task's own judge."""
    prompts: Mapping[str, Settings] = field(default_factory=lambda: {"same": {}})
    """Prompts of algorithms that ask, in place of those of the data."""
    settings: Settings = field(default_factory=dict)
    """Settings of the task that all have in common."""
    evaluate: tuple[str, ...] = ()
    """Tasks that all are evaluated on; by default the grid's own."""
    seeds: int = 3
    whole: bool = False
    """All combinations, rather than all data with all algorithms, and other reward models and prompts at the first data."""

    def __post_init__(self) -> None:
        for name in ("data", "algorithms", "rewards", "prompts"):
            require(bool(getattr(self, name)), f"a grid needs at least one of its {name}")
        for name, level in [(START, self.start), *self.algorithms.items()]:
            require(level.updates >= 1, f"{name} needs a number of updates")
            if isinstance(level.method, RewardModelling):
                raise BadSetting(f"{name} is to train a policy, which {level.method.name} does not")
        for name, model in self.rewards.items():
            if model is not None and not isinstance(model.method, RewardModelling):
                raise BadSetting(f"{name} is to train a reward model, which {model.method.name} does not")
        require(self.seeds >= 1, f"a grid needs at least one seed, got {self.seeds}")

    # What there is to train.

    def cells(self) -> list[Cell]:
        """Every cell: data by algorithms, and for those that ask, by reward models and prompts."""
        first = {name: next(iter(getattr(self, name))) for name in ("data", "rewards", "prompts")}
        found = []
        for (name, level), data in itertools.product(self.algorithms.items(), self.data):
            if not level.asks:
                found.append(Cell(data, name))
                continue
            for reward, prompts in itertools.product(self.rewards, self.prompts):
                changed = (reward != first["rewards"]) + (prompts != first["prompts"])
                if self.whole or not changed or (changed == 1 and data == first["data"]):
                    found.append(Cell(data, name, reward, prompts))
        return found

    def arms(self) -> dict[str, Arm]:
        """What is trained: the start, the reward models that some cell learns from, and every variant of every cell."""
        start = self._arm(self.start.method, self.start.updates, self.start.settings)
        modelled = {(cell.data, cell.reward): cell for cell in self.cells() if self._learns_from_model(cell)}
        models = [(cell.model, self._model(cell)) for cell in modelled.values()]
        return _apart([(START, start), *models, *(pair for cell in self.cells() for pair in self._variants(cell))])

    def _learns_from_model(self, cell: Cell) -> bool:
        return self.rewards.get(cell.reward) is not None

    def _arm(self, method: Method, updates: int, *levels: Settings, **others: Any) -> Arm:
        task, settings = self.task, dict(self.settings)
        for level in levels:
            own = dict(level)
            if "task" in own:
                task, settings = own.pop("task"), {}
            settings |= own
        return Arm(method, task, updates=updates, seeds=self.seeds, settings=settings, **others)

    def _model(self, cell: Cell) -> Arm:
        """The reward model of a cell."""
        level = self.rewards[cell.reward]
        assert level is not None
        begins_with = START if getattr(level.method, "model", "") == START else None
        levels = self.data[cell.data], level.settings
        return self._arm(level.method, level.updates, *levels, begins_with=begins_with, beside=(START,))

    def _variants(self, cell: Cell) -> Iterator[tuple[str, Arm]]:
        level = self.algorithms[cell.algorithm]
        levels = self.data[cell.data], self.prompts.get(cell.prompts, {}), level.settings
        named = {"reward_model": cell.model} if self._learns_from_model(cell) else {}
        unset = {"reward_model": "set by the arm"} if named else {}
        for said, method in level.variants().items():
            label = f"{cell}, {said}" if said else str(cell)
            yield label, self._arm(replace(method, **unset), level.updates, *levels, begins_with=START, named=named)

    def labels(self, cell: Cell) -> list[str]:
        """The arms of a cell, one for each of its variants."""
        return [label for label, _ in self._variants(cell)]

    def check(self) -> None:
        """Refuse a grid of which something cannot be trained, or is trained on prompts that all is evaluated on.

        Raises:
            BadSetting: named by such a prompt, and what would learn from it.
            PalaestraError: an arm, which is named, has settings that do not fit, or a method that does not fit its task.
        """
        told = [*self._evaluated(), self._first_data()]
        held = {key_of(row["prompt"]): task.name for task in told for row in task.rows("test") if not shows(row)}
        seen = set()
        for label, arm in self.arms().items():
            task = _checked(label, arm)
            if (data := (arm.task, repr(arm.settings))) in seen:
                continue
            seen.add(data)
            for row in task.rows("train"):
                if not shows(row) and (key := key_of(row["prompt"])) in held:
                    raise BadSetting(
                        f"{label} would learn from the prompt {shown(shown_prompt(row['prompt']))}, which {held[key]} holds out "
                        "to evaluate on; hold out the same prompts of all data (test = ...)"
                    )

    def _first_data(self) -> TextTask:
        """The first data, whose held-out pairs reward models are asked about."""
        first = self._arm(self.start.method, 1, next(iter(self.data.values())))
        return as_task(first.task, **first.settings)  # type: ignore[return-value]

    # What is measured.

    def measure(self, run: Run) -> dict[str, float]:
        """Of a policy, the mean score of each group of held-out prompts; of a reward model, how often it is right about held-out
        pairs of the first data, and what the best of the start's answers in its eyes are worth."""
        assert isinstance(run, Trial)
        policy = run.policy
        if isinstance(policy, RewardPolicy):
            right = policy.agreement(self._first_data(), PROMPTS, run.seed).mean
            start = Anchor(LanguagePolicy.make(str(run.other(START))))
            chosen = best_of(start, policy, self._evaluated()[0], BEST_OF, SELECTED, run.seed)
            return {RIGHT: right} | {f"best of {b.samples}": b.gold for b in chosen}
        assert isinstance(policy, LanguagePolicy)
        choosing, told = (
            {name: x for task in self._evaluated() for name, x in groups_of(policy, task, run.seed, half).items()}
            for half in (0, 1)
        )
        return {AVERAGE: _average(told), **told, CHOOSING: _average(choosing)}

    def _evaluated(self) -> list[TextTask]:
        own = [as_task(self.task, **self.settings)] if not self.evaluate else [as_task(name) for name in self.evaluate]
        for task in own:
            if not isinstance(task, TextTask):
                raise BadSetting(f"{task.name} is no task in text, on which a grid could be evaluated")
        return own  # type: ignore[return-value]

    # What came out.

    def chosen(self, records: Records, cell: Cell) -> str:
        """The variant of a cell that counts: the best on prompts that nothing else is told of."""
        return max(self.labels(cell), key=lambda label: float(records.measure(label, CHOOSING).mean()))

    def scores(self, records: Records, cell: Cell, group: str = AVERAGE) -> np.ndarray:
        """The score of every seed of a cell, in one group of the evaluation or on average."""
        return records.measure(self.chosen(records, cell), group)

    def groups(self, records: Records) -> list[str]:
        """The groups of the evaluation."""
        return [name for name in next(r for r in records if r.arm == START).measures if name not in (AVERAGE, CHOOSING)]

    def tables(self, records: Records) -> dict[str, Table]:
        """The grid, a row for each cell, and what there is to say of its reward models."""
        start = records.measure(START, AVERAGE)
        groups = self.groups(records)
        head = ["algorithm", "data", "reward model", "prompts", "of those tried", AVERAGE, "over the start", *groups]
        base = [_shown(mean(start)), "", *(_shown(mean(records.measure(START, g))) for g in groups)]
        rows = [head, [START, *[""] * 4, *base]]
        for cell in self.cells():
            label, own = self.chosen(records, cell), self.scores(records, cell)
            found = [mean(own), mean(own - start), *(mean(records.measure(label, g)) for g in groups)]
            tried = label.removeprefix(str(cell)).removeprefix(", ")
            rows.append([cell.algorithm, cell.data, cell.reward, cell.prompts, tried, *map(_shown, found)])
        tables = {"Grid": rows}
        models = dict.fromkeys(cell.model for cell in self.cells() if self._learns_from_model(cell))
        if models:
            names = [RIGHT, *(f"best of {n}" for n in BEST_OF)]
            told = [[label, *(_shown(mean(records.measure(label, name))) for name in names)] for label in models]
            tables["Reward models"] = [["", *names], *told]
        return tables


def _apart(named: list[tuple[str, Arm]]) -> dict[str, Arm]:
    """Arms by their labels, refused where one folder would keep the runs of two."""
    folders: dict[str, str] = {}
    for label, _ in named:
        if (folder := plain(label)) in folders:
            raise BadSetting(
                f"'{folders[folder]}' and '{label}' would both be kept in the folder {folder}; give one of their levels "
                "another name"
            )
        folders[folder] = label
    return dict(named)


def _checked(label: str, arm: Arm) -> TextTask:
    """The task of an arm, once its method is found to fit it."""
    try:
        task = as_task(arm.task, **arm.settings)
        arm.method.check()
        arm.method.check_task(task)
    except PalaestraError as error:
        raise type(error)(f"{label}: {error}") from None
    return task  # type: ignore[return-value]


def groups_of(policy: LanguagePolicy, task: TextTask, seed: int, half: int) -> dict[str, float]:
    """The mean score of a policy's answers to every other held-out prompt, by what the task's judge tells apart, else under the
    task's name."""
    rows = task.rows("test")
    how = {"max_tokens": task.max_tokens, "stop": task.stop, "environment": task.environment}
    asked = [rows[i] for i in range(half, min(PROMPTS, len(rows)), 2)]
    samples = policy.answer(asked, greedy=not task.sampled, seed=seed_for(seed, "test", half), **how)  # type: ignore[arg-type]
    with task.gold() as judge:
        scores = judge(samples)
    if len(scores.parts) == 1:
        return {task.name: float(scores.total.nanmean())}
    return {name: float(score.nanmean()) for name, score in scores.parts.items()}


def _average(groups: Mapping[str, float]) -> float:
    return float(np.mean(list(groups.values())))


def _said(settings: Settings) -> str:
    return " ".join(f"{name}={_written(value)}" for name, value in settings.items())


def _written(value: Any) -> str:
    """A value in a word that no other value has."""
    if isinstance(value, tuple):
        return "x".join(map(_written, value))
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def _shown(number: Estimate) -> str:
    return f"{number.value:.3f} [{number.low:.3f}, {number.high:.3f}]"
