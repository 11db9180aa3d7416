"""The method protocol: a typed config, `setup`, `step`, `policy`, and all of its state in `state_dict`.

A method is a dataclass whose fields are its settings. Whatever `setup` and `step` store on `self` beyond those fields is
its state, and is saved: modules, optimisers, sources, buffers, tensors, numbers. There is nothing to register, so nothing
can be forgotten; an attribute that cannot be saved is refused at the first checkpoint, by name.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from palaestra.core import registry, spaces
from palaestra.core.errors import BadSetting, Unsupported, require, unknown
from palaestra.core.hints import check_ranges
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams

if TYPE_CHECKING:
    from palaestra.core.task import Evaluation, Task

Metrics = dict[str, Tensor]
"""Named zero-dimensional tensors; they stay tensors until the engine logs them."""
Tallies = dict[str, list[tuple[str, int]]]
"""What was counted, and of each kind the names that came up most, with how often."""


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    year: int
    arxiv: str | None = None

    @property
    def url(self) -> str | None:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


@dataclass(frozen=True)
class Budget:
    """How long to train: in environment steps, in updates, or until whichever comes first."""

    steps: int | None = None
    updates: int | None = None

    def __post_init__(self) -> None:
        require(self.steps is not None or self.updates is not None, "a budget needs steps or updates")
        for name in ("steps", "updates"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")

    @classmethod
    def of(cls, steps: float | None, updates: float | None) -> Budget:
        """A budget in numbers as they are typed, such as 3e4."""
        for name, value in (("steps", steps), ("updates", updates)):
            require(value is None or float(value).is_integer(), f"{name} must be a whole number, got {value}")
        return cls(*(None if value is None else int(value) for value in (steps, updates)))

    def spent(self, counters: Counters) -> float:
        """The share of the budget that is used up, from 0 to 1."""
        shares = [
            done / total for done, total in ((counters.steps, self.steps), (counters.updates, self.updates)) if total
        ]
        return min(1.0, max(shares))


@dataclass
class Counters:
    """What a run has consumed, kept by the engine and the sources, since most claims are about it."""

    steps: int = 0  # environment steps, real ones
    updates: int = 0  # gradient steps
    episodes: int = 0  # finished training episodes
    evaluation_steps: int = 0
    model_steps: int = 0  # steps in a learned model
    labels: int = 0  # human or scripted labels
    judge_calls: int = 0
    unscored: int = 0  # of these calls, those on which there is no score or verdict
    passed_over: int = 0  # rounds of answers of which none could be scored, or was left to learn from
    both_orders: int = 0  # pairs that a judge was asked about in both orders
    first_shown: float = 0.0  # of these, how many went to what was shown first, a mean over the orders
    turned: int = 0  # and on how many the order decided

    @property
    def measures(self) -> dict[str, float]:
        """What a row of metrics says of them, once there is any: shares without a score, effects of order, rounds in vain."""
        said = {"reward/unscored": self.unscored / self.judge_calls} if self.unscored else {}
        if self.both_orders:
            said["judge/first_shown"] = self.first_shown / self.both_orders
            said["judge/turned"] = self.turned / self.both_orders
        if self.passed_over:
            said["judge/rounds_passed_over"] = float(self.passed_over)
        return said

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


@dataclass
class Method:
    """Base of every method. A subclass is a dataclass with a docstring per field and defines `setup`, `step`, `policy`."""

    paper: ClassVar[Paper]
    family: ClassVar[str] = "online"
    summary: ClassVar[str] = ""
    action_kinds: ClassVar[tuple[str, ...]] = ("box",)
    masks_actions: ClassVar[bool] = False
    learns_from: ClassVar[str] = "env"
    """What a task must offer: "env" (interaction), "dataset" (logged steps), "both" of these, or "prompts" (with a judge)."""
    any_threads: ClassVar[bool] = True
    """Whether results are the same with any number of threads, so that a run may leave cores to others as it goes."""
    evaluates: ClassVar[bool] = True
    """Whether what is trained acts, and can be evaluated; a generator of data does not."""

    task: Any = field(init=False, repr=False, compare=False, default=None)

    def __new__(cls, *values: Any, **settings: Any) -> Self:
        # Before the generated __init__, whose TypeError would not say what was meant.
        taken = inspect.signature(cls.__init__).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
            for key in settings:
                if key not in taken:
                    raise unknown(f"setting of {registry.source_of(cls)}:", key, list(taken)[1:])
        return super().__new__(cls)

    def setup(self, task: Task) -> None:
        """Build networks, optimisers and sources for `task`."""
        raise NotImplementedError

    def step(self) -> Metrics:
        """One unit of training; returns what there is to log, as zero-dimensional tensors."""
        raise NotImplementedError

    def policy(self) -> Policy:
        """The policy to evaluate, save and deploy."""
        raise NotImplementedError

    def tallies(self) -> Tallies:
        """What has been counted by name since training began, to be looked at; the engine writes it down with each checkpoint."""
        return {}

    def reported(self) -> Metrics:
        """What else there is to log after a step: what others, such as reward functions, have reported meanwhile."""
        return {}

    @property
    def failures(self) -> dict[str, int]:
        """How often what others have written has failed so far, by its name."""
        return {}

    @property
    def measures(self) -> dict[str, float]:
        """What has been counted so far and belongs into a row of metrics, once there is any of it."""
        return self.counters.measures | {f"judge/failed/{name}": float(n) for name, n in self.failures.items()}

    def shard(self) -> None:
        """Shard what is large among the processes that train together (`palaestra.core.world`), after `setup`."""
        raise Unsupported(
            f"{self.name} trains in one process; start it without torchrun, and several runs side by side by palaestra compare"
        )

    def evaluates_on(self, task: Task) -> bool:
        """Whether what is trained can be evaluated on a task."""
        return self.evaluates and getattr(task, "evaluates", True)

    def check(self) -> None:
        """Raise `BadSetting` for settings that are out of the ranges in their hints (`core.hints`); a subclass goes on with what
        contradicts itself."""
        check_ranges(self)

    def looked_at(self, evaluation: Evaluation) -> Evaluation:
        """An evaluation of the policy with what the method measures by it; the engine's first process alone asks, and has the
        policy whole."""
        return evaluation

    # What the engine does with a method.

    def bind(self, task: Task, seed: int, budget: Budget) -> Method:
        """A fresh copy of this method, set up on `task` and ready to `step`; `self` stays a mere config."""
        fresh = copy.copy(self)
        fresh.task = task
        fresh.budget = budget
        fresh.counters = Counters()
        fresh.streams = Streams(seed)
        fresh.check()
        fresh.check_task(task)
        with torch.random.fork_rng(devices=[]):
            # Networks initialise from torch's global generator; seed it here and leave the caller's as it was.
            torch.manual_seed(fresh.streams.integer("initialise"))
            fresh.setup(task)
        return fresh

    def check_task(self, task: Task) -> None:
        """Raise `Unsupported` for a task that has not what this method learns from, or takes other actions."""
        self._check_source(task)
        self._check_spaces(task)

    def _check_source(self, task: Task) -> None:
        offered = getattr(task, "offers", "env")
        if (self.learns_from == "prompts") != (offered == "prompts"):
            fits = methods_for("text") if offered == "prompts" else []
            raise Unsupported(
                f"{self.name} does not learn from text, which {task.name} is; methods that do: {', '.join(fits)}"
                if fits
                else f"{self.name} trains language models, and {task.name} is no text; tasks that are: {_text_tasks()}"
            )
        if self.learns_from == "env" and offered == "dataset":
            raise Unsupported(f"{self.name} learns by interaction, but {task.name} is a dataset; use --task ID")
        if self.learns_from in ("dataset", "both") and offered == "env":
            raise Unsupported(
                f"{self.name} learns from data, but {task.name} is an environment; add --dataset NAME, for example "
                f"--dataset local:{task.name}/medium"
            )

    def _check_spaces(self, task: Task) -> None:
        action_kind = spaces.kind(task.action_space)
        if action_kind not in self.action_kinds:
            takes = " or ".join(self.action_kinds)
            raise Unsupported(
                f"{self.name} needs {takes} actions, but {task.name} has {task.action_space}; "
                f"methods that fit: {', '.join(methods_for(action_kind, self.learns_from != 'env'))}"
            )

    def work(self) -> int:
        """Rows times width of a typical product of this method: what decides how many threads it pays to use."""
        config = self.config
        network = config.get("network")
        width = max(network) if isinstance(network, (list, tuple)) and network else 256
        return (config.get("batch_size") or config.get("minibatch") or 1) * width

    @property
    def remaining(self) -> float:
        """The share of the budget still ahead, 1 at the start and 0 at the end: the usual schedule."""
        return 1.0 - self.budget.spent(self.counters)

    @property
    def name(self) -> str:
        return registry.source_of(type(self))

    @property
    def label(self) -> str:
        """What folders are called: the name, and the settings that are not the default ones, as in `sac-lr=0.001`."""
        usual = self.defaults()
        changed = {name: value for name, value in self.config.items() if value != usual[name]}
        return labelled(self.name.rpartition(":")[2], changed)

    @property
    def config(self) -> dict[str, Any]:
        """The settings, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    @classmethod
    def as_now(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that an earlier version stored, under today's names."""
        return dict(settings)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The settings as they are unless they are given."""
        return {
            f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            for f in dataclasses.fields(cls)
            if f.init
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that `setup` and `step` have stored, nested."""
        return {name: _state_of(value, name) for name, value in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in self._state().items():
            if name not in state:
                raise unknown("part of the state", name, state)
            setattr(self, name, _restore(value, state[name]))

    def _state(self) -> dict[str, Any]:
        bound = {f.name for f in dataclasses.fields(self)} | {"task", "budget", "streams"}
        return {name: value for name, value in vars(self).items() if name not in bound}


def labelled(name: str, settings: Mapping[str, Any]) -> str:
    """A name and some settings in one word, as in `sac-lr=0.001`; a long one is cut and ends in its hash."""
    label = "-".join([name, *(f"{key}={_brief(value)}" for key, value in settings.items())])
    return label if len(label) <= 100 else f"{label[:80]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


def _brief(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return "x".join(map(_brief, value))
    return getattr(value, "__name__", f"{value:g}" if isinstance(value, float) else str(value))


def _state_of(value: Any, name: str) -> Any:
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if value is None or isinstance(value, (Tensor, bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_state_of(item, name) for item in value]
    raise BadSetting(
        f"self.{name} is a {type(value).__name__}, which cannot be saved; keep tensors, numbers, text, lists of these, "
        "or objects with state_dict and load_state_dict"
    )


def _restore(value: Any, state: Any) -> Any:
    if hasattr(value, "load_state_dict"):
        value.load_state_dict(state)
        return value
    if isinstance(value, (list, tuple)) and any(hasattr(item, "load_state_dict") for item in value):
        return type(value)(_restore(item, part) for item, part in zip(value, state, strict=True))
    if isinstance(value, Tensor) and value.requires_grad:
        with torch.no_grad():
            value.copy_(state)
        return value
    return state


def methods_for(action_kind: str, logged: bool | None = None) -> list[str]:
    """The names of the registered methods that accept actions of a kind; with `logged`, those that do or do not need data."""
    fits = []
    for name in registry.table("methods"):
        cls = registry.method_class(name)
        if action_kind in cls.action_kinds and logged in (None, cls.learns_from != "env"):
            fits.append(name)
    return fits


def _text_tasks() -> str:
    own = registry.TASKS.items()
    return ", ".join(sorted(name for name, where in own if registry.locate(where).offers == "prompts"))


def make_method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """The method called `name` with some settings changed; an unknown setting is refused, naming the nearest."""
    cls = registry.method_class(name)
    given = cls.as_now(settings or {})
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
