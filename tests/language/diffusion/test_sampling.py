"""Filling in masks: schedules by hand, and laws of both samplers on models that are tables."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.language.diffusion.sampling import (
    Unmasking,
    fill_image,
    fill_text,
    gumbel,
    still_masked,
    surest,
    transfer_counts,
)
from palaestra.language.generation.sampling import Sampling

MASK, SIZE = 0, 6
NEVER = torch.zeros(SIZE, dtype=torch.bool)
NEVER[MASK] = True
GREEDY = Sampling(temperature=0)


def table(logits: torch.Tensor):
    """A model that says the same whatever is shown, `(L, V)`; what it is asked is written down in `asked`."""

    def predict(ids, part):
        predict.asked.append(ids.clone())
        return logits.expand(len(ids), -1, -1)[:, part]

    predict.asked = []
    return predict


def masked(rows: int, prompt: list[int], length: int) -> torch.Tensor:
    return torch.tensor([prompt + [MASK] * length] * rows)


def test_tokens_are_shared_out_evenly_and_the_rest_goes_to_the_first_steps():
    assert transfer_counts(10, 4) == [3, 3, 2, 2]
    assert transfer_counts(3, 4) == [1, 1, 1, 0]
    assert transfer_counts(0, 2) == [0, 0]


def test_an_image_is_unmasked_on_a_cosine_schedule():
    left, unknown = [], 16
    for step in range(4):
        unknown = still_masked(16, unknown, step, 4)
        left.append(unknown)
    assert left == [14, 11, 6, 0]  # 16 cos(pi/8) = 14.8, 16 cos(pi/4) = 11.3, 16 cos(3 pi/8) = 6.1
    assert still_masked(4, 4, 0, 100) == 3  # one is kept, though the cosine would keep none
    assert still_masked(16, 2, 8, 10) == 1


def test_the_surest_tokens_of_the_block_are_kept_first_and_blocks_go_from_left_to_right():
    logits = torch.zeros(6, SIZE)
    for place, (token, sure) in enumerate([(1, 1.0), (2, 3.0), (3, 2.0), (4, 4.0), (5, 9.0), (1, 8.0)]):
        logits[place, token] = sure
    predict = table(logits)
    filled = fill_text(predict, masked(1, [3, 3], 4), 2, MASK, NEVER, [0], GREEDY, Unmasking(steps=4, block=2))
    seen = [ids[0, 2:].tolist() for ids in predict.asked]
    assert seen == [[0, 0, 0, 0], [0, 4, 0, 0], [3, 4, 0, 0], [3, 4, 5, 0]]
    assert filled.ids[0].tolist() == [3, 3, 3, 4, 5, 1]


def test_the_mask_is_never_chosen_and_confidence_is_that_of_the_noiseless_softmax():
    logits = torch.zeros(4, SIZE)
    logits[:, MASK] = 9.0
    logits[2, 3], logits[3, 4] = 1.0, 2.0
    filled = fill_text(table(logits), masked(2, [1, 1], 2), 2, MASK, NEVER, [0, 1], GREEDY, Unmasking())
    assert filled.ids[:, 2:].tolist() == [[3, 4]] * 2
    wanted = [logits[i, 1:].log_softmax(-1).max() for i in (2, 3)]
    torch.testing.assert_close(filled.logp[0, 2:], torch.stack(wanted))
    noisy = Sampling(temperature=3.0)
    filled = fill_text(table(logits), masked(1, [1, 1], 2), 2, MASK, NEVER, [5], noisy, Unmasking())
    for place in (2, 3):
        token = filled.ids[0, place]
        assert float(filled.logp[0, place]) == pytest.approx(float(logits[place, 1:].log_softmax(-1)[token - 1]))
        tempered = (logits[place, 1:] / 3).log_softmax(-1)[token - 1]
        assert float(filled.sampled_logp[0, place]) == pytest.approx(float(tempered))


def test_tokens_are_drawn_from_the_tempered_distribution():
    logits = torch.tensor([[0.0, 0.0, 1.0, 2.0, 0.5, -1.0]])
    n = 4000
    ids = torch.full((n, 1), MASK)
    drawn = fill_text(table(logits), ids, 0, MASK, NEVER, range(n), Sampling(temperature=0.5), Unmasking()).ids
    share = torch.bincount(drawn[:, 0], minlength=SIZE) / n
    torch.testing.assert_close(share[1:], (logits[0, 1:] / 0.5).softmax(-1), atol=0.025, rtol=0)
    nucleus = fill_text(table(logits), ids, 0, MASK, NEVER, range(n), Sampling(top_p=0.5), Unmasking()).ids
    assert set(nucleus.flatten().tolist()) == {3}


def test_noise_is_double_precision_and_belongs_to_a_row():
    def noise(seeds):
        return gumbel((3, 4), [torch.Generator().manual_seed(s) for s in seeds])

    assert noise([1, 2]).dtype == torch.float64
    assert torch.equal(noise([7, 1])[1], noise([1, 2])[0])
    assert float(noise(range(500)).mean()) == pytest.approx(0.5772, abs=0.06)


class Attentive:
    """A model whose logits depend on everything that is shown, by a hash of a kind."""

    def __init__(self, size: int = SIZE):
        self.weight = torch.randn(size, size, generator=torch.Generator().manual_seed(1))

    def __call__(self, ids, part):
        near = self.weight[ids]
        return (near.cumsum(1) + near.flip(1).cumsum(1).flip(1))[:, part]


@settings(max_examples=40)
@given(
    st.sampled_from([(4, 4, 1), (2, 2, 2), (3, 2, 3), (6, 1, 1)]),
    st.integers(0, 1000),
    st.sampled_from([0.0, 1.0, 2.5]),
)
def test_text_no_mask_remains_the_prompt_stays_and_neighbours_do_not_matter(form, seed, temperature):
    block, steps, blocks = form
    unmasking = Unmasking(steps=steps * blocks, block=block)
    ids = masked(3, [2, 5, 1], block * blocks)
    seeds = [seed, seed + 1, seed + 2]
    filled = fill_text(Attentive(), ids, 3, MASK, NEVER, seeds, Sampling(temperature=temperature), unmasking)
    assert not bool((filled.ids == MASK).any())
    assert torch.equal(filled.ids[:, :3], ids[:, :3])
    alone = fill_text(Attentive(), ids[:1], 3, MASK, NEVER, seeds[1:2], Sampling(temperature=temperature), unmasking)
    assert torch.equal(alone.ids[0], filled.ids[1])


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 1000), st.booleans())
def test_images_receive_image_codes_alone_and_no_mask_remains(tokens, steps, seed, greedy):
    forbidden = torch.ones(SIZE, dtype=torch.bool)
    forbidden[3:] = False
    ids = masked(2, [1, 2], tokens)
    sampling = GREEDY if greedy else Sampling()
    filled = fill_image(Attentive(), ids, 2, MASK, forbidden, [seed, seed + 1], sampling, Unmasking(image_steps=steps))
    assert torch.equal(filled.ids[:, :2], ids[:, :2])
    assert bool((filled.ids[:, 2:] >= 3).all())
    alone = fill_image(Attentive(), ids[:1], 2, MASK, forbidden, [seed + 1], sampling, Unmasking(image_steps=steps))
    assert torch.equal(alone.ids[0], filled.ids[1])


def test_what_is_given_in_the_place_of_an_answer_stays():
    ids = torch.tensor([[1, MASK, 4, MASK, 5]])
    filled = fill_text(Attentive(), ids, 0, MASK, NEVER, [0], GREEDY, Unmasking(steps=2)).ids
    assert filled[0, [0, 2, 4]].tolist() == [1, 4, 5] and not bool((filled == MASK).any())


def test_blocks_behind_the_end_of_all_answers_are_left():
    logits = torch.zeros(6, SIZE)
    logits[:, 2] = 1.0
    predict = table(logits)
    fill_text(predict, masked(2, [], 6), 0, MASK, NEVER, [0, 1], GREEDY, Unmasking(steps=3, block=2), end_ids=[2])
    assert len(predict.asked) == 1


@pytest.mark.parametrize(
    ("settings", "length", "message"),
    [
        ({"block": 4}, 10, "not made of blocks of 4"),
        ({"block": 4, "steps": 3}, 8, "cannot be shared out among 2 blocks"),
        ({"steps": 9}, 8, "more than the 8 tokens"),
    ],
)
def test_places_that_blocks_and_steps_do_not_fit_are_refused(settings, length, message):
    with pytest.raises(BadSetting, match=message):
        Unmasking(**settings).plan(length)
    assert Unmasking(block=5).plan(10) == (5, 3)
    assert Unmasking(steps=4).plan(9) == (9, 4)


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"steps": 0}, {"block": 0}, {"image_steps": 0}, {"guidance": -1.0}, {"image_temperature": -0.1}):
        with pytest.raises(BadSetting):
            Unmasking(**wrong)


def test_of_equally_sure_tokens_the_first_are_kept():
    assert surest(torch.tensor([[0.5, 0.7, 0.5, 0.1]]), torch.tensor([2])).tolist() == [[True, True, False, False]]
