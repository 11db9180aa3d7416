"""Clips: what is filmed, what is asked, and that demonstrations are right."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.language.tasks.clips import COLOURS, FRAMES, WAYS, Clips, Scene, film, named, solved


def scenes(count=200, **settings):
    return [Clips(**settings).rows("train")[i] for i in range(count)]


def test_a_row_is_a_function_of_its_index():
    one, again = Clips().rows("train")[7], Clips().rows("train")[7]
    assert torch.equal(one.pop("video"), again.pop("video"))
    assert one == again


def test_demonstrations_are_right_and_fit():
    tokeniser = Clips().tokeniser()
    for row in scenes():
        assert named(row["completion"], row).right
        ids = tokeniser(row["completion"]).input_ids
        assert tokeniser.unk_token_id not in ids + tokeniser(row["prompt"]).input_ids
        assert len(ids) + 1 <= Clips.max_tokens
        assert tokeniser.decode(ids, skip_special_tokens=True) == row["completion"]


def test_an_answer_may_be_written_as_people_write_it():
    assert named("<think>it is Red</think><answer> Red.</answer>", {"answer": "red "}).right
    assert named("<think></think><answer>2</answer>", {"answer": "2;"}).right


@pytest.mark.parametrize("text", ["red ", "<answer>red </answer>", "<think></think><answer>blue </answer>", ""])
def test_wrong_and_malformed_answers_earn_nothing(text):
    assert not named(text, {"answer": "red "}).right


def test_the_square_goes_where_the_answer_says_and_never_out_of_the_frame():
    for row in scenes(300, trivial=0.0):
        lit = row["video"].float().amax(1) > 0
        places = [frame.nonzero().float().mean(0) for frame in lit if frame.any()]
        assert all(int(frame.sum()) in (0, 16) for frame in lit)
        if row["asked"] == "way?":
            step = (places[1] - places[0]).tolist()
            assert tuple(map(int, step)) == WAYS[row["answer"]]


def test_colours_and_dark_frames_are_as_the_answer_says():
    for row in scenes(300):
        video = row["video"]
        if row["asked"] in ("colour?", "first?"):
            assert video[0].amax((1, 2)).tolist() == list(COLOURS[row["answer"].strip()])
        if row["asked"] == "flashes?":
            assert int((video.amax((1, 2, 3)) == 0).sum()) == int(row["answer"].strip(";"))
        if row["asked"] == "colour?":
            assert len({tuple(frame.amax((1, 2)).tolist()) for frame in video}) == 1


def test_what_is_said_before_an_answer_by_hand():
    scene = Scene("flashes?", ("red", "blue"), "down", (0, 3), (1, 6))
    assert solved(scene) == ("red dark red red blue blue dark blue ", "2;")
    assert solved(scene._replace(asked="first?", flashes=())) == ("red " * 4 + "blue " * 4, "red ")
    assert solved(scene._replace(asked="way?")) == ("0;3;7;3;", "down")
    assert film(scene)[6].sum() == 0
    assert film(scene)[7, :, 7:11, 3:7].flatten(1).unique(dim=1).flatten().tolist() == [0, 0, 255]


def test_questions_are_of_all_kinds_and_trivial_ones_as_many_as_wanted():
    asked = [row["asked"] for row in scenes(400, trivial=0.25)]
    assert set(asked) == {"colour?", "first?", "way?", "flashes?"}
    assert 0.15 < asked.count("colour?") / len(asked) < 0.35
    assert {row["asked"] for row in scenes(50, trivial=1.0)} == {"colour?"}
    for settings in ({"trivial": 2.0}, {"scale": 0}, {"limit": -1}):
        with pytest.raises(BadSetting, match=next(iter(settings))):
            Clips(**settings)


def test_a_chat_model_is_asked_in_words_about_a_larger_film():
    plain, chat = Clips().rows("train")[3], Clips(scale=7, chat=True, limit=300).rows("train")[3]
    assert chat["video"].shape == (FRAMES, 3, 112, 112)
    assert torch.equal(chat["video"][:, :, ::7, 3::7], plain["video"])
    [message] = chat["prompt"]
    assert message["content"].count("<|video_pad|>") == 1 and "square" in message["content"]
    assert Clips(limit=300).max_tokens == 300


def test_scenes_of_one_split_are_not_in_the_other():
    held = {str(row["video"].tolist()) + row["asked"] for row in Clips().rows("test")[:200]}
    assert not held & {str(row["video"].tolist()) + row["asked"] for row in scenes(400)}


def test_noise_changes_the_frames_as_much_as_asked_and_nothing_else():
    row = scenes(1)[0]
    noisy = Clips().noised(row, 0.1, torch.Generator().manual_seed(0))
    assert noisy["video"].dtype == torch.uint8 and noisy["video"].shape == (FRAMES, 3, 16, 16)
    assert {k: v for k, v in noisy.items() if k != "video"} == {k: v for k, v in row.items() if k != "video"}
    away = (noisy["video"].float() - row["video"].float())[row["video"] == 0]
    assert away.max() > 25 and away.min() == 0  # what would be darker than black is black
    assert torch.equal(Clips().noised(row, 0.0, torch.Generator())["video"], row["video"])
