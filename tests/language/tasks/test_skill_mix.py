"""Sorting, reversing and finding the largest: what is right in each, and what data of other qualities hold."""

from __future__ import annotations

import math

import pytest

from palaestra.core.errors import BadSetting
from palaestra.language.tasks.skill_mix import SKILLS, SkillMix
from tests.language.tasks.laws import scores


def skills(task: SkillMix, split: str) -> set[str]:
    return {row["skill"] for row in task.rows(split)[:300]}


def test_rows_are_text_that_the_tokeniser_gives_back():
    task = SkillMix()
    tokeniser = task.tokeniser()
    for row in [*task.rows("train")[:100], *task.rows("test")[:100]]:
        for text in (row["prompt"], *row["completions"]):
            ids = tokeniser(text).input_ids
            assert tokeniser.decode(ids) == text and tokeniser.unk_token_id not in ids
        assert len(tokeniser(row["prompt"]).input_ids) == 6
        assert len(row["completion"]) + 1 <= task.max_tokens


@pytest.mark.parametrize(("skill", "truth"), [("sort", "0135"), ("reverse", "1035"), ("max", "5")])
def test_each_skill_has_its_own_right_answer(skill, truth):
    assert SKILLS[skill]("5301") == truth
    rows = [row for row in SkillMix(noise=0.0).rows("train")[:100] if row["skill"] == skill]
    assert rows and all(row["completion"] == SKILLS[skill](row["prompt"].split(" ")[1][:4]) for row in rows)


def test_an_answer_is_scored_under_its_skill_alone():
    rows = [{"prompt": f"{skill} 5301=", "skill": skill, "answer": of("5301")} for skill, of in SKILLS.items()]
    found = scores(SkillMix(scale=2.0), rows, ["0135", "1", "55"])
    assert found["total"] == pytest.approx([2.0, 0.4, 1.0])
    assert found["sort"][0] == 1.0 and math.isnan(found["reverse"][0])
    assert found["reverse"][1] == pytest.approx(0.2) and found["max"][2] == 0.5
    with SkillMix(scale=2.0).gold() as judge:
        assert set(judge.weights.values()) == {1.0}


def test_preferences_may_be_about_some_skills_and_evaluation_is_about_all():
    assert skills(SkillMix(), "train") == set(SKILLS)
    assert skills(SkillMix(skills=("max",)), "train") == {"max"}
    assert skills(SkillMix(skills=("max",)), "test") == set(SKILLS)
    assert SkillMix(skills=("max",)).rows("test")[:50] == SkillMix().rows("test")[:50]


def test_no_held_out_digits_are_trained_on_with_their_skill():
    for task in (SkillMix(), SkillMix(skills=("reverse",))):
        assert not {row["prompt"] for row in task.rows("train")} & {row["prompt"] for row in task.rows("test")}


def test_flipped_rows_differ_in_their_scores_alone():
    for row, other in zip(SkillMix().rows("train")[:50], SkillMix(flip=1.0).rows("train")[:50]):
        assert row["completions"] == other["completions"] and row["scores"] == pytest.approx(other["scores"][::-1])


def test_a_setting_out_of_range_is_refused():
    for settings in (
        {"skills": ()},
        {"skills": ("add",)},
        {"noise": 2.0},
        {"flip": -1.0},
        {"answers": 0},
        {"scale": 0},
    ):
        with pytest.raises(BadSetting):
            SkillMix(**settings)
