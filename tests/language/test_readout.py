"""Answers read token by token: their texts, their numbers, and the file that keeps them."""

from __future__ import annotations

import json

import pytest
import torch

from palaestra.core.errors import BadCheckpoint
from palaestra.language.judges.implicit import ImplicitRewards
from palaestra.language.policy import LanguagePolicy
from palaestra.language.readout import Reading, Readout, pieces, read, read_judged, read_samples
from palaestra.language.tasks.noisy_sort import NoisySort

TASK = NoisySort(answers=3)


@pytest.fixture
def judge() -> ImplicitRewards:
    made = []
    for seed in range(2):
        torch.manual_seed(seed)
        made.append(LanguagePolicy.make("tiny-16x1", TASK))
    return ImplicitRewards(*made, beta=0.5)


def reading(rewards=(0.5, -2.0), **fields) -> Reading:
    tokens = tuple("ab"[: len(rewards)])
    return Reading(
        **{
            "prompt": "p",
            "what": "chosen",
            "tokens": tokens,
            "rewards": rewards,
            "logp": rewards,
            "ref_logp": rewards,
            **fields,
        }
    )


class Bytes:
    """A tokeniser whose tokens are bytes, 256 ends."""

    all_special_ids = (256,)

    def decode(self, ids, clean_up_tokenization_spaces=True):
        return bytes(ids).decode(errors="replace")

    def convert_ids_to_tokens(self, token):
        return "</s>"


def test_pieces_side_by_side_are_the_text_and_of_a_character_in_several_tokens_the_last_has_it():
    ids = list("né €!".encode())
    found = pieces(Bytes(), [*ids, 256])
    assert "".join(found[:-1]) == "né €!" and found[-1] == "</s>"
    assert found[:5] == ["n", "", "é", " ", ""]
    assert pieces(Bytes(), list("€".encode())[:2])[-1]  # what stays broken is shown broken
    assert pieces(Bytes(), []) == []


def test_an_answer_s_numbers_are_the_judge_s_and_its_end_is_called_by_its_name(judge):
    ids = judge.policy.completion_ids("0135")
    (found,) = read(judge, [{"prompt": "5310="}], [ids], [("yours", 0.8, True)])
    (rewards,) = judge([{"prompt": "5310="}], [ids])
    assert found.tokens == ("0", "1", "3", "5", judge.policy.tokeniser.eos_token)
    assert found.rewards == tuple(rewards.tolist())
    assert found.total == pytest.approx(0.5 * (sum(found.logp) - sum(found.ref_logp)), abs=1e-5)


def test_of_a_row_s_answers_the_best_is_the_chosen_one(judge):
    found = read_judged(judge, TASK, 4, seed=0)
    assert len(found) == 12
    for i in range(0, 12, 3):
        group = found[i : i + 3]
        best = max(answer.score for answer in group)
        level = len({answer.score for answer in group}) == 1
        assert [a.what for a in group] == [
            "given" if level else "chosen" if a.score == best else "rejected" for a in group
        ]
        assert {a.prompt for a in group} == {group[0].prompt}


def test_an_answer_that_was_cut_off_is_known_to_be(judge):
    samples, scores = TASK.answered(judge.reference, 6, 0, max_tokens=2)
    found = read_samples(judge, samples, scores, "the reference's")
    assert [a.ended for a in found] == [not s.truncated for s in samples] and not all(a.ended for a in found)
    assert [a.score for a in found] == pytest.approx(scores.tolist())


def test_full_colour_is_what_all_but_a_twentieth_of_the_tokens_stay_below():
    small = tuple(0.01 * i for i in range(20))
    readout = Readout(
        "a", "b", 1.0, "", (reading((*small[:-1], -9.0), tokens=("x",) * 20, logp=small, ref_logp=small),)
    )
    assert readout.scale == pytest.approx(0.18)
    assert Readout("a", "b", 1.0, "", ()).scale == 0.0


def test_a_read_out_is_read_back_as_it_was_written(tmp_path):
    readout = Readout("a", "b", 0.1, "t", (reading(), reading((1.0,), what="rejected", score=0.5, ended=False)))
    readout.save(tmp_path / "tokens.json")
    assert Readout.load(tmp_path / "tokens.json") == readout
    assert list(readout.kinds()) == ["chosen", "rejected"]


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "[]",
        "{}",
        '{"policy": "a", "reference": "b", "beta": 1, "task": "", "answers": [{}]}',
        "[" * 100_000,
        {"rewards": [1.0]},
        {"rewards": [1.0, float("nan")]},
        {"logp": ["x", "y"]},
        {"tokens": None},
    ],
    ids=lambda broken: str(broken)[:30],
)
def test_a_file_that_holds_anything_else_is_refused_by_name(broken, tmp_path):
    path = tmp_path / "tokens.json"
    if isinstance(broken, dict):
        Readout("a", "b", 1.0, "", (reading(),)).save(path)
        content = json.loads(path.read_text())
        content["answers"][0].update(broken)
        broken = json.dumps(content)
    path.write_text(broken)
    with pytest.raises(BadCheckpoint, match=r"tokens\.json is no read-out"):
        Readout.load(path)
