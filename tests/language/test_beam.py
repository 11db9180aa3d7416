"""Beam search by likelihood, against all answers there are, and proxy tuning."""

from __future__ import annotations

import itertools

import pytest
import torch

from palaestra.core.errors import BadSetting, Diverged, Unsupported
from palaestra.core.experience import Experience
from palaestra.language.generation.beam import BeamSearch, beam_search
from palaestra.language.generation.proxy import ProxyTuned
from palaestra.language.generation.sampling import Sampling
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.sorting import Sorting

TASK = NoisySort()


def policy(seed: int = 0, task=TASK) -> LanguagePolicy:
    torch.manual_seed(seed)
    made = LanguagePolicy.make("tiny-16x1", task)
    with torch.no_grad():  # far from uniform, so that answers differ in how likely they are
        for p in made.model.parameters():
            p.mul_(3.0)
    return made


def over(made, stop, ids):
    """Whether an answer has ended."""
    said = made.tokeniser.decode(ids, skip_special_tokens=True)
    return made.tokeniser.eos_token_id in ids or any(text in said for text in stop)


def every_answer(made, prompt, most, stop=()):
    """All answers of at most `most` tokens with their log-probability, the likeliest first."""
    found = []
    for length in range(1, most + 1):
        for ids in itertools.product(range(made.model.config.vocab_size), repeat=length):
            if over(made, stop, ids[:-1]) or (length < most and not over(made, stop, ids)):
                continue
            whole = torch.tensor([*prompt.tolist(), *ids])
            with torch.no_grad():
                logp = made.model(input_ids=whole.unsqueeze(0)).logits[0].log_softmax(-1)
            found.append((sum(float(logp[i - 1, whole[i]]) for i in range(len(prompt), len(whole))), ids))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("stop", [(), ("5",), ("53", "1"), tuple("0123456789")])
def test_a_beam_as_wide_as_all_beginnings_finds_the_likeliest_answers(stop):
    made, prompt = policy(), torch.tensor([3, 4])
    size = made.model.config.vocab_size
    (beams,) = beam_search(made.model, [prompt], size, 2, made.ending(stop))
    expected = every_answer(made, prompt, 2, stop)[:size]
    assert [tuple(beam.ids.tolist()) for beam in beams] == [ids for _, ids in expected]
    for beam, (logp, ids) in zip(beams, expected, strict=True):
        assert beam.logp == pytest.approx(logp, abs=1e-4)
        assert beam.ended == over(made, stop, ids)


def test_a_narrow_beam_goes_on_where_most_tokens_are_ends():
    made, stop = policy(), tuple("012345678")
    (beams,) = beam_search(made.model, [torch.tensor([3, 4])], 2, 3, made.ending(stop))
    assert len(beams) == 2
    for beam in beams:
        ids = beam.ids.tolist()
        assert not over(made, stop, ids[:-1]) and beam.ended == over(made, stop, ids)


@pytest.mark.parametrize("stop", [(), ("33", "6")])
def test_a_beam_of_one_goes_the_greedy_way_and_gives_a_likelier_end_that_it_passed(stop):
    made = policy(1)
    rows = [TASK.rows("test")[i] for i in range(20)]
    greedy = made.answer(rows, greedy=True, max_tokens=6, stop=stop)
    made.engine = BeamSearch(1)
    found, same = made.answer(rows, max_tokens=6, stop=stop), 0
    for one, other in zip(found, greedy, strict=True):
        if one.ids.tolist() == other.ids.tolist():
            assert (one.text, one.truncated) == (other.text, other.truncated)
            same += 1
        else:
            assert one.ids[:-1].tolist() == other.ids[: len(one) - 1].tolist() and not one.truncated
            assert float(one.logp.sum()) > float(other.logp.sum())
    assert 0 < same < 20
    at_text = [s for s in found if not s.truncated and int(s.ids[-1]) != made.tokeniser.eos_token_id]
    assert bool(at_text) == bool(stop) and not any(text in s.text for s in at_text for text in stop)


def test_a_prompt_s_beams_do_not_depend_on_what_else_is_searched():
    made = policy(2)
    prompts = [made.prompt_ids(TASK.rows("test")[i]["prompt"]) for i in range(3)] + [torch.tensor([5])]
    together = beam_search(made.model, prompts, 3, 5, made.ending())
    for prompt, beams in zip(prompts, together, strict=True):
        (alone,) = beam_search(made.model, [prompt], 3, 5, made.ending())
        assert [b.ids.tolist() for b in alone] == [b.ids.tolist() for b in beams]


def test_a_beam_without_width_is_refused():
    with pytest.raises(BadSetting, match="width"):
        beam_search(policy().model, [torch.tensor([3])], 0, 4, policy().ending())
    assert beam_search(policy().model, [], 2, 4, policy().ending()) == []


def test_a_beam_over_a_model_whose_logits_are_no_numbers_has_diverged():
    made = policy()
    with torch.no_grad():
        made.model.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(Diverged, match="logits"):
        beam_search(made.model, [torch.tensor([3, 4])], 2, 4, made.ending())


def test_a_base_tuned_by_a_proxy_samples_from_their_product():
    base, proxy, reference = (policy(seed) for seed in range(3))
    prompt = base.prompt_ids("5310=").unsqueeze(0)
    base.engine = ProxyTuned(proxy, reference, beta=0.7)
    samples = base.answer([{"prompt": "5310="}], copies=40, max_tokens=1, seed=3)
    with torch.no_grad():
        one, two, three = (p.model(input_ids=prompt).logits[0, -1].log_softmax(-1) for p in (base, proxy, reference))
    expected = (one + 0.7 * (two - three)).log_softmax(-1)
    for sample in samples:
        assert float(sample.logp[-1]) == pytest.approx(float(expected[sample.ids[-1]]), abs=1e-4)


def test_without_weight_or_with_the_reference_as_proxy_the_base_is_itself():
    base, proxy = policy(0), policy(1)
    rows = [TASK.rows("test")[i] for i in range(4)]
    for sampling in (Sampling(), Sampling(repetition_penalty=3.0)):
        base.engine = None
        plain = [s.text for s in base.answer(rows, seed=5, max_tokens=5, sampling=sampling)]
        for engine in (ProxyTuned(proxy, base, beta=0.0), ProxyTuned(proxy, proxy, beta=2.0)):
            base.engine = engine
            assert [s.text for s in base.answer(rows, seed=5, max_tokens=5, sampling=sampling)] == plain


def test_a_base_with_more_rows_of_padding_than_its_proxy_is_tuned_all_the_same():
    base, proxy, reference = (policy(seed) for seed in range(3))
    base.engine = ProxyTuned(proxy, reference, beta=0.7)
    row = [{"prompt": "5310="}]
    plain = [s.text for s in base.answer(row, copies=8, max_tokens=4, seed=3)]
    base.model.resize_token_embeddings(len(base.tokeniser) + 8, mean_resizing=False)
    assert [s.text for s in base.answer(row, copies=8, max_tokens=4, seed=3)] == plain


def test_a_proxy_with_another_vocabulary_is_refused():
    with pytest.raises(BadSetting, match="vocabularies"):
        ProxyTuned(policy(0), policy(1, Sorting()))


def test_a_policy_whose_engine_is_a_beam_answers_with_the_likeliest_that_it_finds():
    made = policy(2)
    rows = [TASK.rows("test")[i] for i in range(7)]
    prompts = [made.prompt_ids(row["prompt"]) for row in rows]
    expected = beam_search(made.model, prompts, 3, 5, made.ending())
    made.engine = BeamSearch(3)
    for batch in (256, 6):  # two prompts at a time
        samples = made.answer(rows, copies=2, max_tokens=5, seed=9, batch=batch)
        found = [s.completion.tolist() for s in samples]
        assert found == [beam.ids.tolist() for beams in expected for beam in beams[:2]]
        sums = [beam.logp for beams in expected for beam in beams[:2]]
        assert [float(s.logp.sum()) for s in samples] == pytest.approx(sums, abs=1e-4)
    part = Experience(action=samples[0].ids, mask=samples[0].mask, segment=torch.zeros_like(samples[0].ids))
    torch.testing.assert_close(samples[0].logp, made.score(part).logp.detach(), atol=1e-4, rtol=1e-4)


def test_where_there_are_not_as_many_answers_as_asked_all_are_given_and_it_is_said():
    made = policy()
    size = made.model.config.vocab_size
    made.engine = BeamSearch(size + 5)
    with pytest.warns(UserWarning, match=f"{size + 2} answers .* 2 of 3 prompts .* as few as {size}"):
        samples = made.answer(
            [{"prompt": "31="}, {"prompt": "5310="}, {"prompt": "3="}],
            copies=size + 2,
            max_tokens=2,
            prefixes=[torch.tensor([4]), torch.tensor([5]), torch.zeros(0, dtype=torch.int64)],
        )
    assert [s.group for s in samples] == [0] * size + [1] * size + [2] * (size + 2)
    assert len({tuple(s.ids.tolist()) for s in samples}) == len(samples)


def test_answers_of_different_lengths_may_be_searched_for_together():
    made = policy(2)
    rows = [TASK.rows("test")[i] for i in range(3)]
    made.engine = BeamSearch(2)
    prefixes = [torch.tensor([4]), torch.tensor([4, 5]), torch.tensor([5])]
    samples = made.answer(rows, max_tokens=4, prefixes=prefixes)
    assert [s.group for s in samples] == [0, 1, 2] and all(len(s.completion) <= 4 for s in samples)


def test_what_a_beam_cannot_give_is_refused():
    made = policy()
    made.engine = BeamSearch(2)
    with pytest.raises(BadSetting, match="no 3 answers"):
        made.answer([{"prompt": "5310="}], copies=3)
    with pytest.raises(Unsupported, match=r"replies to turns .* leave --beam out"):
        made.answer([{"prompt": "5310="}], environment=lambda row: lambda turn: None)
    with pytest.raises(Unsupported, match="leave repetition_penalty at 1"):
        made.answer([{"prompt": "5310="}], sampling=Sampling(repetition_penalty=1.1))
