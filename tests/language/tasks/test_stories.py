"""Stories: beginnings that never meet across splits, and rewards on endings counted by hand."""

from __future__ import annotations

import json

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.tasks.stories import Length, StoriesTask, ending, mentions, spoken, variety
from tests.language.judges.samples import answer


def test_a_beginning_names_one_and_a_thing_and_asks_for_both():
    for row in StoriesTask().rows("train")[:50]:
        name, thing = row["words"]
        assert row["prompt"].startswith("Once upon a time, there was a little ") and f"named {name}." in row["prompt"]
        assert row["prompt"].endswith(f"{thing}.")
        assert (" girl " in row["prompt"]) == (" she saw " in row["prompt"])
        assert " a old" not in row["prompt"]


def test_no_combination_is_in_both_splits_whatever_the_seed():
    def combinations(seed, split):
        return {(*row["words"], row["prompt"].split()[-2]) for row in StoriesTask(seed=seed).rows(split)[:1000]}

    assert not combinations(0, "train") & combinations(1, "test")


@pytest.mark.parametrize(
    ("text", "words", "share"),
    [
        ("Tim saw the ball.", ["Tim", "ball"], 1.0),
        ("He liked BALLS!", ["Tim", "ball"], 0.5),
        ("He timed a balloon.", ["Tim", "ball"], 0.0),
        ("Tim's ball", ["Tim", "ball"], 1.0),
        ("", ["Tim", "ball"], 0.0),
    ],
)
def test_mentions_are_whole_words(text, words, share):
    assert mentions([text], words=[words]) == [share]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("They were happy.", 1.0),
        ('Mom said, "I am proud of you!" Tim nodded.', 1.0),
        ("They were happy. It rained. It rained again.", 0.5),
        ('She said, "No."', 0.5),
        ("They were happy and then", 0.0),
        ("unhappy.", 0.5),
        ("", 0.0),
        (".", 0.5),
        ('"', 0.0),
    ],
)
def test_an_ending_is_whole_and_happy(text, score):
    assert ending([text]) == [score]


def test_a_length_is_right_between_its_limits_and_worth_less_outside():
    texts = ["", "one", "one two", "a b c d", "a b c d e f", "a " * 8, "a " * 20]
    assert Length(2, 4)(texts) == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]


def test_variety_is_the_share_of_new_runs_of_three_words():
    assert variety(["a b c d", "a b c a b c", "a b", "", "no no no no no"]) == [1.0, 0.75, 0.0, 0.0, 1 / 3]


def test_words_are_letters_of_any_language():
    assert spoken("It's 3 o’clock, Zoë_x -- OK?") == ["it's", "o’clock", "zoë", "x", "ok"]


def test_the_score_is_the_weighted_mean_of_the_rewards():
    sample = answer("She and Tim liked the ball. They were friends", words=["Tim", "ball"])
    with StoriesTask(words=(1, 9)).judge() as judge:
        scores = judge([sample])
    assert {name: part.item() for name, part in scores.parts.items()} == {
        "mentions": 1.0,
        "ending": 0.0,
        "length": 1.0,
        "variety": 1.0,
    }
    assert scores.total.item() == pytest.approx(0.75)
    with StoriesTask(words=(1, 9), ending=0.0).judge() as judge:
        assert judge([sample]).total.item() == pytest.approx(1.0)


def test_messages_are_judged_by_what_they_say():
    assert ending([[{"role": "assistant", "content": "They were happy."}]]) == [1.0]


def test_a_task_is_made_again_from_what_it_describes():
    task = StoriesTask(words=(5, 9), limit=40, seed=3)
    described = json.loads(json.dumps(task.describe()["kwargs"]))
    made = StoriesTask(**described)
    assert made == task and made.name == task.name and made.max_tokens == 40
    assert made.rows("test")[0] == task.rows("test")[0]


@pytest.mark.parametrize(
    "settings", [{"words": (9, 5)}, {"words": (0, 5)}, {"limit": 0}, {"ending": -1.0}, {"test_rows": -1}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting):
        StoriesTask(**settings)


def test_all_weights_0_are_refused():
    with pytest.raises(BadSetting, match="not all 0"):
        StoriesTask(mentions=0.0, ending=0.0, length=0.0, variety=0.0)
