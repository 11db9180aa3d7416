"""The compiled decoder, attention, norms and gates: they say what torch's operations say, whatever the shape."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.language import llama
from palaestra.language.generation.decoder import make_decoder
from palaestra.language.generation.llama import LlamaDecoder
from palaestra.language.generation.native import NativeDecoder
from palaestra.language.layout import Layout
from palaestra.language.native import attention, elementwise
from palaestra.language.native import library as building
from palaestra.language.native.library import library

from .tiny_models import FAST, tiny_model

compiled = pytest.mark.skipif(library() is None, reason="needs a C++ compiler")


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def no_library_yet():
    """The library is looked for again, before and after."""
    library.cache_clear()
    yield
    library.cache_clear()


def model_of(**shape: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    biased = {"attention_bias": True, "max_position_embeddings": 64, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **biased, **shape))
    for p in model.parameters():
        p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@compiled
@pytest.mark.parametrize("family", FAST)
def test_it_is_chosen_for_llama_s_shape_and_agrees_with_torch_as_rows_come_and_go(family):
    sizes = tiny_model(family), 6, 5, 8, 2
    both = LlamaDecoder(*sizes), make_decoder(*sizes)
    assert isinstance(both[1], NativeDecoder)
    for decoder in both:
        decoder.admit([ids(5), ids(2, seed=1)], [2, 1])
    for i in range(9):  # more than the columns hold, so that the window moves
        one, other = (decoder.step(ids(decoder.rows, seed=i)) for decoder in both)
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        for decoder in both:
            if i == 1:
                decoder.keep(torch.tensor([0, 2]))
            if i == 3:
                decoder.admit([ids(4, seed=2)], [3])
            if i == 6:
                decoder.keep(torch.tensor([4, 1, 2]))


@compiled
@pytest.mark.parametrize(
    "shape",
    [
        {"hidden_size": 6, "intermediate_size": 5, "num_attention_heads": 3, "num_key_value_heads": 1},
        {"hidden_size": 2, "intermediate_size": 1, "num_attention_heads": 1, "num_key_value_heads": 1},
        {"hidden_size": 60, "intermediate_size": 70, "num_attention_heads": 6, "num_key_value_heads": 2},
        {
            "hidden_size": 32,
            "intermediate_size": 33,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 40,
        },
    ],
)
@pytest.mark.parametrize("rows", [1, 5, 13])
def test_sizes_that_fill_no_register_and_no_panel_are_computed_as_well(shape, rows):
    sizes = model_of(**shape), rows, 3, 4, 0
    both = LlamaDecoder(*sizes), NativeDecoder(*sizes)
    for decoder in both:
        decoder.admit([ids(3)], [rows])
    for i in range(3):
        one, other = (decoder.step(ids(rows, seed=i)) for decoder in both)
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@compiled
@settings(max_examples=20)
@given(copies=st.lists(st.integers(1, 9), min_size=1, max_size=4), threads=st.integers(1, 3))
def test_a_row_is_given_the_same_to_the_last_bit_whoever_is_beside_it_and_however_many_threads_there_are(
    copies, threads
):
    """Prompts of one length, which torch reads alike in any company."""
    model, prompts, rows = tiny_model("qwen3"), [ids(4, seed=i) for i in range(len(copies))], sum(copies)
    decoder, alone = NativeDecoder(model, rows, 4, 6, 0), NativeDecoder(model, 1, 4, 6, 0)
    decoder.admit(prompts, copies)
    alone.admit(prompts[-1:], [1])
    alone.cache.copy_(decoder.cache[:, :, -1:])
    before = torch.get_num_threads()
    for i in range(6):
        token = ids(rows, seed=i)
        torch.set_num_threads(threads)
        together = decoder.step(token)
        torch.set_num_threads(before)
        assert together[-1].equal(alone.step(token[-1:])[0])


@compiled
def test_a_token_that_the_model_does_not_know_is_named():
    decoder = NativeDecoder(tiny_model("llama"), 2, 3, 4, 0)
    decoder.admit([ids(3)], [2])
    with pytest.raises(IndexError, match="token 40 is none of the 40 that the model knows"):
        decoder.step(torch.tensor([1, 40]))


@compiled
@pytest.mark.parametrize("name", ["embed_tokens", "layers.1.self_attn.k_proj", "layers.1.mlp.gate_proj"])
def test_what_is_no_number_is_not_lost_on_the_way(name):
    model = tiny_model("llama")
    model.model.get_submodule(name).weight.fill_(float("nan"))
    decoder = NativeDecoder(model, 1, 3, 4, 0)
    decoder.admit([ids(3)], [1])
    assert decoder.step(ids(1)).isnan().all()


@pytest.mark.parametrize("why", ["no compiler", "not wanted"])
def test_without_it_torch_s_operations_decode(why, monkeypatch, no_library_yet):
    if why == "no compiler":
        monkeypatch.setattr(building, "compiler", lambda: None)
    monkeypatch.setenv("PALAESTRA_NATIVE", "0" if why == "not wanted" else "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(make_decoder(tiny_model("llama"), 1, 3, 4, 0)) is LlamaDecoder


@compiled
def test_what_the_compiler_complains_of_is_told_and_torch_s_operations_decode(monkeypatch, tmp_path, no_library_yet):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "FLAGS", ("-fno-such-flag",))
    with pytest.warns(UserWarning, match=r"half as fast, since their inner loops were not compiled: .*fno-such-flag"):
        assert library() is None
    assert type(make_decoder(tiny_model("llama"), 1, 3, 4, 0)) is LlamaDecoder


@compiled
def test_a_cache_that_cannot_be_written_is_told(monkeypatch, tmp_path, no_library_yet):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="were not compiled: .*file"):
        assert library() is None


@compiled
def test_it_is_compiled_once_for_a_machine(monkeypatch, tmp_path, no_library_yet):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library() is not None
    (made,) = (tmp_path / "palaestra").iterdir()
    library.cache_clear()
    monkeypatch.setattr(building.subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert library() is not None
    assert made.name.startswith("language-")


PACKED = {
    "one": ([5], None),
    "some": ([80, 3, 1, 49], None),
    "families": ([9, 7, 12, 4, 60, 100], [0, 5, 5, 0, 2, 2]),
    "all but the last": ([130, 97], [0, 96]),
}
"""Lengths of sequences, and how many tokens each shares with the one before it."""


@compiled
@torch.enable_grad()
@pytest.mark.parametrize(("heads", "kv", "size"), [(4, 2, 16), (4, 4, 32), (3, 1, 6), (1, 1, 2), (2, 2, 40)])
@pytest.mark.parametrize("packed", PACKED)
def test_attention_and_its_gradients_are_those_of_torch_over_padded_sequences(packed, heads, kv, size):
    lengths, shared = PACKED[packed]
    layout = Layout.of(torch.tensor(lengths), None if shared is None else torch.tensor(shared))
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(len(layout.position), heads + 2 * kv, size, generator=g, requires_grad=True)
    slope = torch.randn(len(rows), heads * size, generator=g)
    query, key, value = (part.transpose(1, 2) for part in layout.beside(rows).split((heads, kv, kv), 2))
    expected = layout.attend(query, key, value, 1.0).flatten(2)[0]
    found = attention.attend(rows, layout, heads, kv)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    gradients = (torch.autograd.grad(x, rows, slope)[0] for x in (found, expected))
    torch.testing.assert_close(*gradients, atol=3e-5, rtol=1e-4)


@compiled
@torch.enable_grad()
def test_attention_does_not_depend_on_how_many_threads_there_are():
    layout, before = Layout.of(torch.tensor([9, 7, 60, 100]), torch.tensor([0, 5, 0, 2])), torch.get_num_threads()
    rows = torch.randn(len(layout.position), 6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        out = attention.attend(rows, layout, 2, 2)
        found.append((out, torch.autograd.grad(out.square().sum(), rows)[0]))
    torch.set_num_threads(before)
    assert all(a.equal(b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@compiled
def test_a_token_that_attends_to_itself_alone_is_given_its_own_value():
    rows = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    assert attention.attend(rows, Layout.of(torch.tensor([1])), 1, 1).equal(rows[:, 2])


@compiled
def test_attention_by_hand():
    """Two tokens whose scores are 0 and log 3: the second reads a quarter of the first value and three of its own."""
    rows = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [4.0, 8.0]], [[math.log(3), 0.0], [1.0, 5.0], [0.0, 4.0]]])
    found = attention.attend(rows, Layout.of(torch.tensor([2])), 1, 1)
    torch.testing.assert_close(found, torch.tensor([[4.0, 8.0], [1.0, 5.0]]))


@compiled
def test_a_user_without_a_home_is_told(monkeypatch, no_library_yet):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(building.Path, "home", nowhere)
    with pytest.warns(UserWarning, match="were not compiled: Could not determine home"):
        assert library() is None


# Norms and gates.


def tables(rows: int, wide: int, number: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(rows * wide)
    return [3 * torch.randn(rows, wide, generator=g) for _ in range(number)]


@compiled
@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize(("rows", "wide"), [(1, 1), (3, 7), (5, 16), (200, 33), (300, 128)])
def test_norms_and_gates_and_their_gradients_are_those_of_torch(rows, wide, more, monkeypatch):
    x, slope, gate, up, rest = tables(rows, wide, 5)
    floor = torch.tensor(0.7)

    def everything() -> list[torch.Tensor]:
        y, length = llama._normed(x, floor)
        return [
            *(y, length, llama._unnormed(slope.clone(), y, length, rest if more else None)),
            *(llama._gated(gate, up), *llama._ungated(slope.clone(), gate, up)),
        ]

    found = everything()
    monkeypatch.setattr(building, "fits", lambda x: False)
    torch.testing.assert_close(found, everything(), atol=1e-5, rtol=1e-5)


@compiled
def test_norms_and_gates_do_not_depend_on_how_many_threads_there_are():
    x, slope, gate, up = tables(300, 65, 4)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y, length = elementwise.normed(x, torch.tensor(0.1))
        gradient = elementwise.unnormed(slope.clone(), y, length)
        found.append([y, length, gradient, elementwise.gated(gate, up), *elementwise.ungated(slope.clone(), gate, up)])
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@compiled
def test_gates_stay_numbers_however_far_they_are_open_or_shut():
    gate, up = torch.tensor([-1e30, -200.0, -89.0, 0.0, 89.0, 200.0, 1e30]), torch.ones(7)
    product, of_gate, of_up = elementwise.ungated(torch.ones(7), gate, up)
    torch.testing.assert_close(product, torch.tensor([0.0, 0.0, 0.0, 0.0, 89.0, 200.0, 1e30]))
    torch.testing.assert_close(of_gate, torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]))
    assert torch.equal(product, of_up) and torch.equal(product, elementwise.gated(gate, up))


@compiled
def test_what_is_no_number_stays_none_in_norms_and_gates():
    x = torch.tensor([[1.0, math.nan, 2.0]])
    y, _ = elementwise.normed(x, torch.tensor(0.1))
    assert y.isnan().all() and elementwise.gated(x, torch.ones(1, 3)).isnan().tolist() == [[False, True, False]]
