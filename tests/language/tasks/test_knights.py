"""Knights and knaves: logic against enumeration, thoughts that can be replayed, and puzzles up to names."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.tasks.knights import LINKS, Claim, Knights, Saying, shape, solutions
from palaestra.language.verifiers.knights import level
from tests.language.tasks.laws import holds, scores


def true(saying, roles):
    """What a saying comes to, by its words."""
    first = roles[saying.first.who] == saying.first.knight
    if saying.second is None:
        return first
    second = roles[saying.second.who] == saying.second.knight
    return {" and": first and second, " or": first or second, " if": first or not second}.get(
        saying.link, first == second
    )


@pytest.mark.parametrize("people", range(2, 6))
def test_solutions_are_those_of_looking_at_all(people):
    task, rng = Knights(people=people, links=0.7), random.Random(0)
    for _ in range(100):
        puzzle = tuple(task._saying(i, rng) for i in range(people))
        expected = [
            roles
            for roles in itertools.product([False, True], repeat=people)
            if all(roles[i] == true(saying, roles) for i, saying in enumerate(puzzle))
        ]
        assert sorted(solutions(puzzle)) == expected


def test_a_puzzle_by_hand():
    # Alice says Bob is a knave; Bob says Alice is a knight and Bob is a knave: were Bob a knight, he would lie; so he is a knave,
    # and Alice tells the truth, but then Bob does too
    assert solutions((Saying(Claim(1, False)), Saying(Claim(0, True), " and", Claim(1, False)))) == []
    # Bob says instead that Alice is a knave or he himself is a knight: a lie of a knave beside a knight
    assert solutions((Saying(Claim(1, False)), Saying(Claim(0, False), " and", Claim(1, True)))) == [
        (True, False),
        (False, True),
    ]
    assert solutions((Saying(Claim(1, False)), Saying(Claim(0, True), " and", Claim(1, True)))) == [(True, False)]
    assert solutions((Saying(Claim(1, False)), Saying(Claim(0, False)))) == [(True, False), (False, True)]
    assert solutions((Saying(Claim(1, True)), Saying(Claim(0, False)))) == []


@pytest.mark.parametrize("settings", [{}, {"people": 3}, {"people": 5, "links": 0.8}, {"think": False}, {"people": 8}])
def test_it_keeps_the_contract_of_generated_tasks(settings):
    holds(Knights(**settings), rows=40 if settings.get("people", 2) > 3 else 200)


def test_a_thought_turns_back_only_where_a_saying_does_not_fit_and_ends_at_the_answer():
    for row in Knights(people=3).rows("train")[:100]:
        thought = row["completion"].partition("</think>")[0]
        open_guesses = []
        for name, role, no in re.findall(r" (\w+) is a (knight|knave)|( no)", thought):
            if no:
                open_guesses.pop()
                continue
            assert name not in dict(open_guesses)
            open_guesses.append((name, role == "knight"))
        assert open_guesses == list(zip(row["names"], row["roles"]))


def test_thoughts_turn_back_sometimes():
    rows = Knights(people=3).rows("train")[:200]
    assert 20 < sum(" no" in row["completion"] for row in rows) < 200


def test_all_links_and_both_roles_occur():
    text = "".join(row["prompt"] for row in Knights().rows("train")[:200])
    assert all(link in text for link in LINKS)
    roles = [role for row in Knights().rows("train")[:200] for role in row["roles"]]
    assert 0.2 < sum(roles) / len(roles) < 0.8


def test_the_shape_of_a_puzzle_does_not_depend_on_who_is_who():
    task, rng = Knights(people=4, links=0.7), random.Random(1)
    shapes = set()
    for _ in range(50):
        puzzle = task.draw(rng)
        order = rng.sample(range(4), 4)

        def renamed(claim, order=order):
            return claim and Claim(order[claim.who], claim.knight)

        moved = [puzzle[0]] * 4
        for i, saying in enumerate(puzzle):
            first, second = renamed(saying.first), renamed(saying.second)
            if second and saying.link != " if":
                first, second = second, first
            moved[order[i]] = Saying(first, saying.link, second)
        assert shape(tuple(moved)) == shape(puzzle)
        shapes.add(shape(puzzle))
    assert len(shapes) > 45


def test_noise_spoils_that_share_in_both_ways():
    rows = Knights(noise=0.5).rows("train")[:1000]
    levels = [level(row["completion"], row) for row in rows]
    assert levels.count(1) / 1000 == pytest.approx(0.5, abs=0.06)
    assert levels.count(2) / 1000 == pytest.approx(0.25, abs=0.06)
    assert levels.count(4) / 1000 == pytest.approx(0.25, abs=0.06)


def test_the_judge_scores_by_level_and_says_apart_what_is_right():
    task = Knights()
    row = task.rows("train")[0]
    found = scores(task, [row] * 2, [row["completion"], "what?"])
    assert found == {"total": [3.0, -3.0], "score": [3.0, -3.0], "correct": [1.0, 0.0]}


def test_with_instructions_it_is_plain_english_for_pretrained_models():
    task = Knights(instructions=True, people=3)
    row = task.rows("train")[0]
    assert task.tokeniser() is None
    assert all(name in row["prompt"] for name in row["names"]) and "(3)" in row["prompt"]
    assert level(row["completion"], row) == 1


def test_settings_that_cannot_be_are_refused():
    for settings in ({"people": 1}, {"people": 9}, {"links": 2.0}, {"noise": -0.1}):
        with pytest.raises(BadSetting):
            Knights(**settings)
