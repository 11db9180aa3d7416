"""CountDown solved: quickly, to draw problems and short answers, and by depth-first search, which leaves a trace.

The heuristics are those of Stream of Search (Gandhi et al., 2024, arXiv:2404.03683); the search is written afresh, and looks at
no numbers twice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import combinations

from palaestra.language.verifiers.equations import DONE, GIVEN_UP, UNDO, Step, combine

State = tuple[int, ...]
"""The numbers that are left, in order."""
ANY = 10**9
"""A ceiling that no number reaches."""


# ------------------------------------------------------------------------------------------------ which targets, and how


def next_steps(state: State, ceiling: int = ANY) -> Iterator[tuple[Step, State]]:
    """Every step from a state, with what it leaves; no number exceeds `ceiling`."""
    for i, j in combinations(range(len(state)), 2):
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        for step in combine(state[i], state[j]):
            if step.result <= ceiling:
                yield step, tuple(sorted((*rest, step.result)))


def every_path(state: State, ceiling: int = ANY) -> Iterator[list[Step]]:
    """All sequences of steps that leave one number, by brute force."""
    if len(state) == 1:
        yield []
    for step, left in next_steps(state, ceiling):
        for path in every_path(left, ceiling):
            yield [step, *path]


@cache
def _splits(count: int) -> tuple[tuple[State, State], ...]:
    """The ways to part `count` places in two, the first part not the larger."""
    places = range(count)
    parts = []
    for size in range(1, count // 2 + 1):
        for chosen in combinations(places, size):
            if 2 * size < count or 0 in chosen:
                parts.append((chosen, tuple(p for p in places if p not in chosen)))
    return tuple(parts)


@lru_cache(maxsize=1 << 17)
def values(numbers: State, ceiling: int = ANY) -> frozenset[int]:
    """What the numbers, all of them, can become."""
    if len(numbers) == 1:
        return frozenset(numbers)
    found: set[int] = set()
    for first, second in _splits(len(numbers)):
        for a in values(tuple(numbers[i] for i in first), ceiling):
            for b in values(tuple(numbers[i] for i in second), ceiling):
                found.update(step.result for step in combine(a, b))
    return frozenset(x for x in found if x <= ceiling)


@lru_cache(maxsize=1 << 18)
def partners(target: int, a: int) -> frozenset[int]:
    """The numbers with which `a` gives the target in one step, unless both are 0, where all do."""
    found = {target + a}
    if a >= target:
        found.add(a - target)
    else:
        found.add(target - a)
    if a and target % a == 0:
        found.add(target // a)
    if a and target:
        found.add(target * a)
        if a % target == 0:
            found.add(a // target)
    return frozenset(found)


def _partners_of(numbers: State, target: int, a: int, ceiling: int) -> Iterator[int]:
    """What `numbers` can become, so that one step with `a` gives the target."""
    if len(numbers) <= 2 or a == target == 0:
        yield from values(numbers, ceiling) if a == target == 0 else partners(target, a) & values(numbers, ceiling)
        return
    for b in partners(target, a):
        if b <= ceiling and reaches(numbers, b, ceiling):
            yield b


def reaches(numbers: State, target: int, ceiling: int = ANY) -> bool:
    """Whether the numbers, all of them, can become the target: by looking for what the last step would need."""
    if len(numbers) <= 2:
        return target in values(numbers, ceiling)
    if len(numbers) == 3 and target:  # as below, without its detours: most of the time is spent here
        a, b, c = numbers
        return not (
            partners(target, a).isdisjoint(values((b, c), ceiling))
            and partners(target, b).isdisjoint(values((a, c), ceiling))
            and partners(target, c).isdisjoint(values((a, b), ceiling))
        )
    for first, second in _splits(len(numbers)):
        rest = tuple([numbers[i] for i in second])
        for a in values(tuple([numbers[i] for i in first]), ceiling):
            for _ in _partners_of(rest, target, a, ceiling):
                return True
    return False


def solution(numbers: State, target: int, rng: random.Random, ceiling: int = ANY) -> list[Step]:
    """One of the sequences of steps from the numbers to a target that they reach."""
    if len(numbers) == 1:
        return []
    splits = _splits(len(numbers))
    for first, second in rng.sample(splits, len(splits)):
        part, rest = tuple([numbers[i] for i in first]), tuple([numbers[i] for i in second])
        options = sorted(values(part, ceiling))
        for a in rng.sample(options, len(options)):
            found = sorted(_partners_of(rest, target, a, ceiling))
            if found:
                b = rng.choice(found)
                last = rng.choice([step for step in combine(*sorted((a, b))) if step.result == target])
                return [*solution(part, a, rng, ceiling), *solution(rest, b, rng, ceiling), last]
    raise ValueError(f"{numbers} cannot become {target}")


# ------------------------------------------------------------------------------------------------ depth-first search


def h_sum(state: State, target: int) -> float:
    """The mean distance to the target."""
    return sum(abs(x - target) for x in state) / len(state)


@cache
def factors(target: int) -> tuple[int, ...]:
    """The divisors of a target from 2 on, itself among them."""
    return tuple(x for x in range(2, target + 1) if target % x == 0)


def h_mult(state: State, target: int) -> float:
    """The sum of distances, each to the nearest factor of the target."""
    return float(sum(min((abs(x - f) for f in factors(target)), default=abs(x - target)) for x in state))


HEURISTICS: dict[str, Callable[[State, int], float]] = {"sum": h_sum, "mult": h_mult}
ORDERS = ("near", "small", "large", "+*-/", "*+/-", "-/+*", "/*-+", "-+/*")
"""What is tried first: what the heuristic likes, the smallest or the largest result, or operations in this order."""


@dataclass(frozen=True)
class Strategy:
    """How a depth-first search goes about it."""

    heuristic: str = "sum"
    order: str = "near"
    prune: bool = True  # leave out what the heuristic puts farther away than the target itself


STRATEGIES = tuple(Strategy(h, order, prune) for prune in (True, False) for h in HEURISTICS for order in ORDERS)
"""32 of them; the first is the one of `Strategy()`."""


@dataclass
class Node:
    """A step of a search, what it left, and what was tried from there."""

    step: Step | None
    state: State
    tried: list[Node] = field(default_factory=list)


@dataclass
class Search:
    """A finished search: from its root, the last of `tried` at every level is the way to where it stopped, while it is open."""

    root: Node
    nodes: int  # how many steps were tried
    solved: bool
    open: bool  # it stopped on the way: at the target or for want of budget, not because all was tried

    def way(self) -> list[Node]:
        """The nodes that are not taken back at the end."""
        nodes, node = [], self.root
        while self.open and node.tried:
            node = node.tried[-1]
            nodes.append(node)
        return nodes


def search(
    numbers: State, target: int, strategy: Strategy = STRATEGIES[0], budget: int | None = None, ceiling: int = ANY
) -> Search:
    """Depth-first, at most `budget` steps, until all numbers have become the target."""
    root = Node(None, tuple(sorted(numbers)))
    seen, nodes = {root.state}, 0
    heuristic = HEURISTICS[strategy.heuristic]

    def rank(option: tuple[Step, State, float]) -> float:
        step, _, h = option
        if strategy.order == "near":
            return h
        if strategy.order in ("small", "large"):
            return step.result if strategy.order == "small" else -step.result
        return strategy.order.index(step.sign)

    def stopped(node: Node) -> bool:
        nonlocal nodes
        options = [(step, state, heuristic(state, target)) for step, state in next_steps(node.state, ceiling)]
        for step, state, h in sorted(options, key=rank):
            if state in seen or (strategy.prune and h > target):
                continue
            if budget is not None and nodes == budget:
                return True
            nodes += 1
            seen.add(state)
            child = Node(step, state)
            node.tried.append(child)
            if state == (target,) or stopped(child):
                return True
        return False

    is_open = stopped(root)
    result = Search(root, nodes, False, is_open)
    way = result.way()
    result.solved = bool(way) and way[-1].state == (target,)
    return result


def trace(found: Search, dropped: float = 0.0) -> str:
    """A search as text, without the first `dropped` of the subtrees that were left for good.

    Every step stands with what it leaves, `3+7=10(10 12)`, and `<` after all that came of it; `!` ends a search that got there
    and `?` one that did not.
    """
    on_way = {id(node) for node in [found.root, *found.way()]}
    left_for_good = [n for node in [found.root, *found.way()] for n in node.tried if id(n) not in on_way]
    skipped = {id(node) for node in left_for_good[: round(dropped * len(left_for_good))]}
    pieces: list[str] = []

    def write(node: Node) -> None:
        for child in node.tried:
            if id(child) in skipped:
                continue
            pieces.append(str(child.step))
            if len(child.state) > 1:
                pieces.append(f"({' '.join(map(str, child.state))})")
            write(child)
            if id(child) not in on_way:
                pieces.append(UNDO)

    write(found.root)
    return "".join(pieces) + (DONE if found.solved else GIVEN_UP)
