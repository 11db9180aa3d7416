"""Squares: images and captions of the same thing, and what counts as right."""

from __future__ import annotations

import random

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.language.diffusion.images import PatchTokeniser
from palaestra.language.tasks.squares import (
    CODES,
    NAMES,
    SIDE,
    Square,
    Squares,
    random_square,
    rendered,
    seen,
    seen_in_text,
    tokeniser,
)
from tests.language.tasks.laws import scores


@pytest.mark.parametrize("ask", ["both", "caption", "draw"])
def test_rows_depend_on_settings_and_index_alone_and_no_combination_is_in_both_splits(ask):
    train, test = (Squares(ask=ask).rows(split) for split in ("train", "test"))
    shown = [train[i] for i in range(200)]
    assert [Squares(ask=ask).rows("train")[i] for i in reversed(range(200))] == shown[::-1]
    assert Squares(ask=ask, seed=1).rows("train")[0] != shown[0]
    seen_in_training = {tuple(row["square"]) for row in shown}
    assert not seen_in_training & {tuple(row["square"]) for row in test[:200]}
    assert {row["modality"] for row in shown} == {"both": {"text", "image"}, "caption": {"text"}, "draw": {"image"}}[
        ask
    ]
    wanted = scores(Squares(), shown, [row["completion"] for row in shown])
    assert set(wanted["total"]) == {1.0}
    assert set(scores(Squares(), shown, [""] * 200)["total"]) == {0.0}


def test_rows_by_hand():
    square, rng = Square(3, "red", "blue", 0, 1), random.Random(0)
    asked = Squares(ask="caption").row(square, rng)
    assert asked["completion"] == "large red square on blue, row 0, column 1"
    assert asked["prompt"].startswith("<mmu><soi><image") and asked["prompt"].endswith("><eoi>")
    assert asked["modality"] == "text"
    drawn = Squares(ask="draw").row(square, rng)
    assert drawn["prompt"] == "<t2i>large red square on blue, row 0, column 1<soi>"
    assert drawn["modality"] == "image"
    codes = drawn["completion"].split(">")[:-1]
    red = [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert len({codes[i] for i in red}) == 1 and len({codes[i] for i in range(16) if i not in red}) == 1


def test_captions_have_8_tokens_and_images_16_and_nothing_is_unknown():
    task = Squares()
    words = task.tokeniser()
    for row in task.rows("train")[:100]:
        ids = words(row["completion"]).input_ids
        assert len(ids) == (16 if row["modality"] == "image" else 8)
        assert words.unk_token_id not in ids + words(row["prompt"]).input_ids
        assert words.decode(ids) == row["completion"]


def test_what_is_drawn_is_seen_through_the_tokeniser_and_back():
    for i in range(300):
        rng = random.Random(i)
        square = random_square(rng)
        image = rendered(square, rng)
        assert seen(image) == square
        assert seen(tokeniser().decode(tokeniser().encode(image[None]))[0]) == square


def test_the_tokeniser_uses_every_code_and_each_is_one_colour_in_one_shade():
    rngs = [random.Random(i) for i in range(300)]
    codes = tokeniser().encode(torch.stack([rendered(random_square(rng), rng) for rng in rngs]))
    assert set(codes.flatten().tolist()) == set(range(CODES)) and CODES == 16
    flat = tokeniser().centres.unflatten(-1, (3, -1))
    assert float(flat.std(-1).max()) < 0.02


def image(*colours: str) -> str:
    """The text of an image of 16 colours."""
    by_name = {}
    for name in NAMES:
        square = Square(3, name, next(other for other in NAMES if other != name), 0, 0)
        by_name[name] = int(tokeniser().encode(rendered(square, random.Random(1))[None])[0, 0])
    return "".join(f"<image{by_name[colour]}>" for colour in colours)


def test_a_square_is_seen_only_where_there_is_exactly_one():
    plain = ["blue"] * 16
    assert seen_in_text(image(*plain)) is None

    def with_red(*places):
        return seen_in_text(image(*("red" if i in places else "blue" for i in range(16))))

    assert with_red(6) == Square(1, "red", "blue", 1, 2)
    assert with_red(0, 1, 4, 5) == Square(2, "red", "blue", 0, 0)
    assert with_red(0, 5) is None  # two of them
    assert with_red(0, 1, 4) is None  # a corner is missing
    assert with_red(0, 1) is None  # no square
    assert with_red(3, 4) is None  # round the edge
    third = ["red", "green"] + ["blue"] * 14
    assert seen_in_text(image(*third)) is None
    for text in ("", "<image1>", image(*plain) + "<image1>", "<image99>" * 16, "red"):
        assert seen_in_text(text) is None


def test_each_answer_is_judged_by_what_was_asked_for():
    rows = [Squares(ask=ask).rows("train")[0] for ask in ("caption", "draw")]
    right = scores(Squares(), rows, [row["completion"] for row in rows])
    assert right["total"] == [1.0, 1.0]
    wrong = scores(Squares(), rows, [rows[0]["completion"] + ".", rows[0]["completion"]])
    assert wrong["total"] == [0.0, 0.0]


def test_a_drawing_may_choose_its_shades():
    row = Squares(ask="draw").rows("train")[3]
    others = {Squares(ask="draw").row(Square(*row["square"]), random.Random(i))["completion"] for i in range(40)}
    assert len(others) == 4
    assert scores(Squares(), [row] * 4, sorted(others))["total"] == [1.0] * 4


def test_centres_are_found_whatever_the_order_of_the_patches():
    points = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(4)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    for order in (torch.arange(12), torch.randperm(12, generator=torch.Generator().manual_seed(0))):
        found = PatchTokeniser.fit(points[order], 3, 2)
        assert found.centres.mean(-1).tolist() == [0.0, 0.5, 1.0]
        codes = torch.arange(SIDE).remainder(3)[None]
        assert bool((found.encode(found.decode(codes)) == codes).all())
    with pytest.raises(BadSetting, match="square"):
        found.decode(torch.zeros(1, 3, dtype=torch.long))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(BadSetting, match="both, caption or draw"):
        Squares(ask="sing")


def test_fewer_colours_smaller_squares_and_one_shade_are_easier():
    task = Squares(ask="caption", colours=3, largest=2, shades=False)
    rows = task.rows("train")[:100]
    assert {colour for row in rows for colour in row["square"][1:3]} == {"black", "white", "red"}
    assert {row["square"][0] for row in rows} == {1, 2}
    codes = {code.split(">")[0] for row in rows for code in row["prompt"].split("<image")[1:]}
    assert len(codes) == 3


@pytest.mark.parametrize("settings", [{"colours": 1}, {"colours": 9}, {"largest": 0}, {"largest": 4}])
def test_colours_and_sizes_that_there_are_not_are_refused(settings):
    with pytest.raises(BadSetting):
        Squares(**settings)
