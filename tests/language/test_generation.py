"""The generation engine: exact log-probabilities, independence of neighbours, stops, turns and branches."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting, Diverged, Unsupported
from palaestra.language.generation import engine
from palaestra.language.generation.decoder import TransformersDecoder, make_decoder
from palaestra.language.generation.engine import Ending, Request, copy_seeds, generate
from palaestra.language.generation.llama import LlamaDecoder
from palaestra.language.generation.sampling import Sampling, penalised
from palaestra.language.llama import fits
from palaestra.language.packing import body

from .tiny_models import FAMILIES, FAST, SHAPE, tiny_model

ENDS = Ending(ids=(3, 4, 5))
PLAIN, GREEDY = Sampling(), Sampling(temperature=0)
CUT = Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01)
PENALISED = Sampling(temperature=0.8, repetition_penalty=1.5)


def requests(lengths=((5, 3, 20), (9, 2, 30), (2, 4, 7), (12, 1, 25))) -> list[Request]:
    """(prompt length, copies, largest number of tokens) of each."""
    g = torch.Generator().manual_seed(1)
    return [
        Request(torch.randint(6, 40, (length,), generator=g), copy_seeds(3, f"{i}", copies), most)
        for i, (length, copies, most) in enumerate(lengths)
    ]


def slow(monkeypatch) -> None:
    monkeypatch.setattr(engine, "make_decoder", lambda model, *sizes: TransformersDecoder(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_log_probabilities_are_those_of_one_forward_pass_over_the_whole_sequence(family):
    model, asked = tiny_model(family), requests()
    for said in generate(model, asked, PLAIN, ENDS):
        prompt = asked[said.request].ids
        with torch.no_grad():
            logits = model(torch.cat([prompt, said.ids]).unsqueeze(0)).logits[0]
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, said.ids.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(said.logp, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", [PLAIN, CUT, GREEDY, PENALISED], ids=["plain", "cut", "greedy", "penalised"])
def test_what_a_sequence_says_does_not_depend_on_who_shares_its_batch(family, sampling):
    model = tiny_model(family)
    together = generate(model, requests(), sampling, ENDS)
    for rows in (1, 4):
        for one, other in zip(together, generate(model, requests(), sampling, ENDS, rows=rows), strict=True):
            assert (one.request, one.copy, one.truncated) == (other.request, other.copy, other.truncated)
            assert one.ids.tolist() == other.ids.tolist()
            torch.testing.assert_close(one.logp, other.logp, atol=2e-4, rtol=1e-4)


@settings(max_examples=12)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.8, 1.0]),
    st.sampled_from([0.7, 1.3, 20.0]),
)
def test_a_penalty_goes_by_the_sequence_s_own_tokens_whoever_comes_and_goes(lengths, rows, temperature, penalty):
    model, asked = tiny_model("llama"), requests(lengths)
    sampling = Sampling(temperature=temperature, top_p=0.95, repetition_penalty=penalty)
    for said in generate(model, asked, sampling, ENDS, rows=rows):
        request = asked[said.request]
        (alone,) = generate(
            model, [Request(request.ids, [request.seeds[said.copy]], request.max_tokens)], sampling, ENDS
        )
        assert said.ids.tolist() == alone.ids.tolist()
        torch.testing.assert_close(said.sampled_logp, alone.sampled_logp, atol=2e-4, rtol=1e-4)


def both_logps(model, prompt, said, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each token of an answer, under the model and under the penalised distribution, by one forward pass."""
    ids = torch.cat([prompt, said.ids])
    with torch.no_grad():
        logits = model(ids.unsqueeze(0)).logits[0, len(prompt) - 1 : -1]
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for i, row in enumerate(seen):
        row[ids[: len(prompt) + i]] = True
    drawn = penalised(logits, seen, sampling.repetition_penalty) / sampling.temperature
    own, drawn = (x.log_softmax(-1).gather(-1, said.ids.unsqueeze(1)).squeeze(1) for x in (logits, drawn))
    return own * said.mask, drawn * said.mask


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_under_a_penalty_both_log_probabilities_are_those_of_one_forward_pass(family):
    model, asked = tiny_model(family), requests()
    for said in generate(model, asked, PENALISED, ENDS, rows=4):
        own, drawn = both_logps(model, asked[said.request].ids, said, PENALISED)
        torch.testing.assert_close(said.logp, own, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(said.sampled_logp, drawn, atol=2e-4, rtol=1e-4)


def test_what_an_environment_said_is_penalised_as_what_the_policy_said():
    model, asked = tiny_model("llama"), Request(torch.tensor([7, 8]), copy_seeds(0, "x", 8), 24)
    asked.respond = lambda: lambda said: [20, 21, 22] if len(said) % 2 else None
    answers = generate(model, [asked], PENALISED, ENDS)
    assert any(bool(said.mask[1:].diff().any()) for said in answers)
    for said in answers:
        torch.testing.assert_close(
            said.sampled_logp, both_logps(model, asked.ids, said, PENALISED)[1], atol=2e-4, rtol=1e-4
        )


def test_greedy_under_a_penalty_says_what_transformers_says():
    model, greedy = tiny_model("llama"), Sampling(temperature=0, repetition_penalty=1.7)
    asked = requests([(5, 1, 20), (9, 1, 20)])
    plain = generate(model, asked, GREEDY, Ending(ids=()))
    for said, without in zip(generate(model, asked, greedy, Ending(ids=())), plain, strict=True):
        prompt = asked[said.request].ids.unsqueeze(0)
        theirs = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=20,
            do_sample=False,
            repetition_penalty=1.7,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert said.ids.tolist() == theirs[0, prompt.shape[1] :].tolist()
        assert said.ids.tolist() != without.ids.tolist()


@pytest.mark.parametrize("family", FAST)
def test_both_decoders_say_the_same(family, monkeypatch):
    model = tiny_model(family)
    assert fits(body(model))
    fast = generate(model, requests(), PLAIN, ENDS, rows=4)
    slow(monkeypatch)
    for one, other in zip(fast, generate(model, requests(), PLAIN, ENDS, rows=4), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(one.logp, other.logp, atol=2e-4, rtol=1e-4)


def test_models_of_other_shapes_are_left_to_transformers():
    assert not any(fits(body(tiny_model(family))) for family in FAMILIES if family not in FAST)


def test_a_long_queue_reuses_the_columns_of_those_that_left():
    """More tokens go through two rows than the decoder has columns for."""
    model, asked = tiny_model("llama"), requests([(3, 1, 15)] * 12)
    few = generate(model, asked, PLAIN, Ending(ids=(3,)), rows=2)
    many = generate(model, asked, PLAIN, Ending(ids=(3,)))
    assert [x.ids.tolist() for x in few] == [x.ids.tolist() for x in many]


def test_a_longer_prompt_may_join_whatever_memory_held_before():
    """The columns in front of those that stand are read then, and were never written."""
    model, asked = tiny_model("llama"), requests([(3, 1, 20), (2, 1, 3), (10, 2, 20)])
    together = generate(model, asked, PLAIN, ENDS)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        joined = generate(model, asked, PLAIN, ENDS, rows=2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [x.ids.tolist() for x in joined] == [x.ids.tolist() for x in together]


def test_a_prompt_is_read_once_for_all_its_answers(monkeypatch):
    read = []
    admit = LlamaDecoder.admit
    monkeypatch.setattr(
        LlamaDecoder, "admit", lambda self, prompts, copies: read.extend(prompts) or admit(self, prompts, copies)
    )
    generate(tiny_model("llama"), requests([(5, 8, 4), (7, 8, 4)]), PLAIN, ENDS)
    assert [len(p) for p in read] == [5, 7]


def test_answers_end_at_the_end_token_or_are_marked_as_cut():
    for said in generate(tiny_model("llama"), requests([(4, 40, 12)]), PLAIN, ENDS):
        ends = [i for i, token in enumerate(said.ids.tolist()) if token in ENDS.ids]
        assert ends == ([] if said.truncated else [len(said.ids) - 1])
        assert len(said.ids) <= 12


def test_an_answer_that_ends_exactly_at_the_limit_is_not_cut():
    model = tiny_model("llama")
    asked = requests([(4, 60, 12)])
    free = generate(model, asked, PLAIN, ENDS)
    whole = next(x for x in free if not x.truncated and len(x.ids) > 1)
    seeds = [asked[0].seeds[whole.copy]]
    again = generate(model, [Request(asked[0].ids, seeds, len(whole.ids))], PLAIN, ENDS)[0]
    assert again.ids.tolist() == whole.ids.tolist()
    assert not again.truncated
    shorter = generate(model, [Request(asked[0].ids, seeds, len(whole.ids) - 1)], PLAIN, ENDS)[0]
    assert shorter.ids.tolist() == whole.ids[:-1].tolist()
    assert shorter.truncated


def letters(ids: list[int]) -> str:
    """Tokens as text: 6 is a, 7 is b, …, and 30 and above are two letters each."""
    return "".join(chr(91 + i) if i < 30 else chr(67 + i) + "!" for i in ids)


def test_a_stop_text_that_spans_tokens_ends_an_answer_at_the_token_that_completes_it():
    model, asked = tiny_model("llama"), requests([(4, 30, 25)])
    free = generate(model, asked, PLAIN, Ending(ids=()))
    text = letters(free[0].ids.tolist())
    stop = text[4:7]
    closers = torch.tensor([stop[-1] in letters([i]) for i in range(40)])
    stopped = generate(model, asked, PLAIN, Ending((), (stop,), letters, closers))
    for one, other in zip(free, stopped, strict=True):
        said = letters(one.ids.tolist())
        n = len(other.ids)
        assert other.ids.tolist() == one.ids[:n].tolist()
        assert other.truncated == (stop not in said)
        assert (stop in letters(other.ids.tolist())) == (stop in said)
        assert stop not in letters(other.ids[:-1].tolist())


def test_a_stop_text_that_an_opening_begins_ends_the_answer_where_it_ends_the_whole():
    model, asked = tiny_model("llama"), requests([(4, 1, 25)])[0]
    free = generate(model, [asked], GREEDY, Ending(ids=()))[0]
    stop = letters(free.ids.tolist())[4:7]
    closers = torch.tensor([stop[-1] in letters([i]) for i in range(40)])
    ending = Ending((), (stop,), letters, closers)
    whole = generate(model, [asked], GREEDY, ending)[0].ids
    for opened in range(1, len(whole)):
        branch = Request(torch.cat([asked.ids, whole[:opened]]), asked.seeds, 25 - opened, opened=opened)
        said = generate(model, [branch], GREEDY, ending)[0]
        assert said.ids.tolist() == whole[opened:].tolist() and not said.truncated


@pytest.mark.parametrize("decoder", ["fast", "slow"])
def test_an_environment_speaks_between_turns_and_its_words_are_no_choices(decoder, monkeypatch):
    if decoder == "slow":
        slow(monkeypatch)
    heard = []

    def environment():
        def respond(said: list[int]):
            heard.append(said)
            return [20, 21, 22] if len(said) % 2 else None

        return respond

    asked = Request(torch.tensor([7, 8]), copy_seeds(0, "x", 6), 24, environment)
    model = tiny_model("llama")
    for said in generate(model, [asked], PLAIN, ENDS):
        ids, mask = said.ids.tolist(), said.mask.tolist()
        forced = [i for i, m in enumerate(mask) if not m]
        assert all(ids[i] in (20, 21, 22) for i in forced)
        assert all(said.logp[i] == 0 and said.sampled_logp[i] == 0 for i in forced)
        with torch.no_grad():
            logits = model(torch.cat([asked.ids, said.ids]).unsqueeze(0)).logits[0].log_softmax(-1)
        chosen = said.mask.nonzero().squeeze(1)
        expected = logits[chosen + 1, said.ids[chosen]]
        torch.testing.assert_close(said.logp[chosen], expected, atol=2e-4, rtol=1e-4)
    assert heard
    assert all(turn[-1] in ENDS.ids and 20 not in turn[:0] for turn in heard)


@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_conversation_is_cut_where_a_reply_finds_no_room_or_fills_it(room):
    model, asked = tiny_model("llama"), requests([(4, 60, 12)])
    turn = next(x for x in generate(model, asked, PLAIN, ENDS) if not x.truncated)
    seeds, most = [asked[0].seeds[turn.copy]], len(turn.ids) + room
    for reply, cut in (([20, 21, 22], True), (None, False)):
        request = Request(asked[0].ids, seeds, most, lambda reply=reply: lambda said: reply)
        said = generate(model, [request], PLAIN, ENDS)[0]
        assert said.ids[: len(turn.ids)].tolist() == turn.ids.tolist()
        assert said.truncated == cut


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_a_branch_goes_on_from_a_prefix_as_the_whole_would(penalty):
    """What follows a prefix has the same distribution, however the prefix came about."""
    model, asked, greedy = tiny_model("qwen2"), requests([(4, 1, 10)]), Sampling(0, repetition_penalty=penalty)
    whole = generate(model, asked, greedy, Ending(ids=()))[0]
    branch = Request(torch.cat([asked[0].ids, whole.ids[:6]]), copy_seeds(1, "b", 2), 4)
    for said in generate(model, [branch], greedy, Ending(ids=())):
        assert said.ids.tolist() == whole.ids[6:].tolist()


def test_nothing_asked_is_nothing_said():
    assert generate(tiny_model("llama"), [], PLAIN, ENDS) == []
    assert generate(tiny_model("llama"), requests([(3, 0, 5)]), PLAIN, ENDS) == []


def test_what_the_model_has_no_positions_for_is_refused_before_anything_is_generated():
    with pytest.raises(BadSetting, match="need 130 positions, but the model has 96"):
        generate(tiny_model("llama"), [Request(torch.tensor([7] * 30), [0], 100)], PLAIN, ENDS)
    with pytest.raises(BadSetting, match="no tokens"):
        generate(tiny_model("llama"), [Request(torch.tensor([], dtype=torch.int64), [0], 5)], PLAIN, ENDS)


def test_a_refusal_tells_what_would_fit_behind_the_prompt():
    with pytest.raises(BadSetting, match=r"prompt of 30 tokens.*at most 66 "):
        generate(tiny_model("llama"), [Request(torch.tensor([7] * 30), [0], 100)], PLAIN, ENDS)
    with pytest.raises(BadSetting, match=r"prompt of 96 tokens.*has 96; leave out"):
        generate(tiny_model("llama"), [Request(torch.tensor([7] * 96), [0], 1)], PLAIN, ENDS)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_room_is_for_each_request_s_own_prompt_and_answer(family):
    """A long prompt with a short answer and a short one with a long answer, both as long as the model has positions."""
    model, asked = tiny_model(family), requests([(90, 2, 6), (6, 2, 90)])
    together = generate(model, asked, PLAIN, Ending(ids=()))
    assert [len(said.ids) for said in together] == [6, 6, 90, 90]
    alone = [said for request in asked for said in generate(model, [request], PLAIN, Ending(ids=()))]
    assert [said.ids.tolist() for said in together] == [said.ids.tolist() for said in alone]


@pytest.mark.parametrize("sampling", [PLAIN, CUT, GREEDY, PENALISED], ids=["plain", "cut", "greedy", "penalised"])
@pytest.mark.parametrize(("family", "value"), [("llama", float("nan")), ("gpt2", float("inf"))])
def test_a_model_whose_logits_are_no_numbers_has_diverged(family, value, sampling):
    model = tiny_model(family)
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = value
    with pytest.raises(Diverged, match="logits"):
        generate(model, requests(), sampling, ENDS)


def test_logits_that_a_temperature_makes_infinite_draw_no_token():
    with pytest.raises(Diverged, match="logits"):
        generate(tiny_model("llama"), requests(), Sampling(temperature=1e-40), ENDS)


def test_samples_can_be_trained_on():
    """They are no inference tensors, which autograd refuses."""
    said = generate(tiny_model("llama"), requests([(4, 1, 5)]), PLAIN, ENDS)[0]
    assert not any(x.is_inference() for x in (said.ids, said.mask, said.logp, said.sampled_logp))


def test_the_decoder_is_chosen_by_the_model():
    assert isinstance(make_decoder(tiny_model("qwen3"), 2, 4, 4, 0), LlamaDecoder)
    assert isinstance(make_decoder(tiny_model("gpt2"), 2, 4, 4, 0), TransformersDecoder)


def no_generator(family: str) -> Any:
    import transformers as t

    torch.manual_seed(0)
    if family == "roberta":  # behind padding, positions are counted otherwise
        shape = {name: n for name, n in SHAPE.items() if name != "num_key_value_heads"}
        return t.RobertaForCausalLM(t.RobertaConfig(**shape, is_decoder=True)).eval()
    if family == "rwkv":  # a memory of its own
        return t.RwkvForCausalLM(t.RwkvConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2)).eval()
    return t.OpenAIGPTLMHeadModel(t.OpenAIGPTConfig(vocab_size=40, n_embd=32, n_layer=2, n_head=4)).eval()  # no memory


@pytest.mark.parametrize("family", ["roberta", "rwkv", "gpt1"])
def test_a_model_that_would_say_something_else_from_its_memory_is_refused(family):
    model = no_generator(family)
    with pytest.raises(Unsupported, match=rf"{type(model).__name__} .*give another one"):
        generate(model, requests(), PLAIN, ENDS)


def test_a_model_is_tried_once(monkeypatch):
    model = tiny_model("gpt2")
    generate(model, requests([(4, 1, 2)]), PLAIN, ENDS)
    passes = 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal passes
        passes += 1
        return forward(*given, **named)

    forward = model.forward
    monkeypatch.setattr(model, "forward", counted)
    generate(model, requests([(4, 1, 2)]), PLAIN, Ending(ids=()))
    assert passes == 2


LONG_ANSWERS = """
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from palaestra.language.generation.engine import Ending, Request, Sampling, generate

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
shape = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=512)
model = LlamaForCausalLM(LlamaConfig(vocab_size=50_000, **shape)).eval()
used = torch.zeros(7_500_000)  # by something else before, so that the allocator keeps what is freed
del used

def answer(tokens):
    generate(model, [Request(torch.tensor([7]), range(32), tokens)], Sampling(), Ending(()))

for tokens in (8, 8, 8):
    answer(tokens)
before = peak()
for _ in range(3):
    answer(300)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_answer_needs_no_more_memory_for_its_logits_than_a_short_one():
    done = subprocess.run([sys.executable, "-c", LONG_ANSWERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 200  # the logits of 300 steps have 1,920 MB
