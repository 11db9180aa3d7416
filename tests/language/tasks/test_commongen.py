"""CommonGen: sentences with ratings become lists of answers with scores, and concepts are what people's sentences share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palaestra.core.errors import BadDataset, BadSetting, UnknownName
from palaestra.data.real import real_data
from palaestra.language.preferences import ranked_of
from palaestra.language.tasks.commongen import CommonGen, rated, shared_words, stem
from tests.language.tasks.laws import scores

try:
    REAL: Path | None = real_data("commongen")
except BadDataset:
    REAL = None
real = pytest.mark.skipif(REAL is None, reason="CommonGen's ratings are not here")
PEOPLE = ("A dog is running to catch the ball.", "The dogs run and catch balls in the park.")
LINES = [
    {"score": score, "reference": reference, "candidate": candidate}
    for candidate, ratings in (("a dog runs", (1, 2)), ("the ball catches", (0, 1)))
    for reference in PEOPLE
    for score in ratings
]


def test_ratings_of_a_sentence_are_averaged_and_sentences_about_the_same_stand_together():
    (row,) = rated(LINES)
    assert row["prompt"] == "ball catch dog run:" and row["concepts"] == ["ball", "catch", "dog", "run"]
    ranked = ranked_of(row)
    assert ranked.answers == [" a dog runs", " the ball catches"] and ranked.scores == [1.5, 0.5]
    assert row["completion"].strip() in PEOPLE


def test_concepts_are_the_words_that_all_sentences_of_people_share_in_some_form():
    assert shared_words(PEOPLE) == ["ball", "catch", "dog", "run"]
    assert shared_words(["a cat", "the dog"]) == []
    assert len({stem(word) for word in ("sit", "sits", "sitting")}) == 1
    assert len({stem(word) for word in ("bake", "baking", "baked", "bakes")}) == 1


@pytest.fixture
def published(tmp_path) -> Path:
    for name in ("ratings_train.jsonl", "ratings_dev.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, LINES)))
    return tmp_path


def test_new_sentences_are_scored_by_their_share_of_the_concepts(published):
    task = CommonGen(str(published))
    row = task.rows("test")[0]
    assert scores(task, [row] * 3, [" Dogs ran.", " The dog runs and catches a ball.", ""])["total"] == [0.25, 1.0, 0.0]


def test_lines_without_a_rating_and_settings_out_of_range_are_refused(published):
    for line in ({"reference": "a", "candidate": "b"}, {"score": "good", "reference": "a", "candidate": "b"}):
        with pytest.raises(BadDataset, match="line 1 has no rating"):
            list(rated([line]))
    with pytest.raises(BadSetting):
        CommonGen(str(published), limit=0)
    with pytest.raises(UnknownName):
        CommonGen(str(published)).rows("validation")


@real
def test_the_published_ratings_are_lists_of_six_sentences_about_83_and_10_sets_of_concepts():
    task = CommonGen()
    assert (len(task.rows("train")), len(task.rows("test"))) == (83, 10)
    for row in [*task.rows("train"), *task.rows("test")]:
        ranked = ranked_of(row)
        assert 4 <= len(ranked.answers) <= 6 and all(0 <= score <= 5 for score in ranked.scores)


@real
def test_both_published_files_begin_with_the_same_ratings_of_different_sentences():
    task = CommonGen()
    train, test = (task.rows(split)[:2] for split in ("train", "test"))
    assert [row["scores"] for row in train] == [row["scores"] for row in test]
    assert [row["prompt"] for row in train] != [row["prompt"] for row in test]
    assert train[0]["scores"] == [5.0] * 6
