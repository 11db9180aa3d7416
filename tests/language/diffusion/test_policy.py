"""Masked-diffusion policies: answers as samples, scores under masks, files, and real checkpoints' names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

import palaestra as pal
from palaestra.core.errors import BadCheckpoint, BadSetting, PalaestraError, Unsupported
from palaestra.core.experience import Experience
from palaestra.language.diffusion import loading
from palaestra.language.diffusion.loading import llada_name, load_diffusion_model, pretrained
from palaestra.language.diffusion.magvit import MagvitV2
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.generation.sampling import Sampling
from palaestra.language.tasks.arithmetic import Arithmetic
from palaestra.language.tasks.squares import Squares
from palaestra.language.tokenisers import word_tokeniser


@pytest.fixture
def policy() -> DiffusionLanguagePolicy:
    torch.manual_seed(0)
    return DiffusionLanguagePolicy.make("mdm-16x1", Squares())


def asked(count: int, ask: str = "both") -> list:
    return Squares(ask=ask).rows("train")[:count]


def test_answers_are_samples_of_their_rows_and_groups(policy):
    rows = asked(5)
    samples = policy.answer(rows, copies=2, max_tokens=7)
    assert [s.group for s in samples] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    words, config = policy.tokeniser, policy.model.config
    for s in samples:
        assert s.row is rows[s.group]
        assert torch.equal(s.ids[: s.prompt], policy.prompt_ids(s.row["prompt"]))
        assert s.mask.tolist() == [False] * s.prompt + [True] * len(s.completion)
        assert s.text == words.decode(s.completion, skip_special_tokens=True)
        assert not bool((s.completion == config.mask_token_id).any())
        codes = (s.completion >= config.image_offset) & (s.completion < config.image_offset + config.image_codes)
        if s.row["modality"] == "image":
            assert len(s.completion) == 16 and bool(codes.all()) and not s.truncated
        else:
            assert len(s.completion) <= 7 and not bool(codes.any())
            ends = (s.completion == words.eos_token_id).nonzero().flatten().tolist()
            assert ends == ([] if s.truncated else [len(s.completion) - 1])


def test_an_answer_depends_on_its_own_seed_and_not_on_its_neighbours(policy):
    rows = asked(8)
    whole = policy.answer(rows, copies=2, seed=3)
    for batch in (1, 3):
        again = policy.answer(rows, copies=2, seed=3, batch=batch)
        assert [s.ids.tolist() for s in again] == [s.ids.tolist() for s in whole]
    other = policy.answer(rows, copies=2, seed=4)
    assert [s.ids.tolist() for s in other] != [s.ids.tolist() for s in whole]


def test_padding_on_the_left_changes_no_logits(policy):
    short, long = (policy.prompt_ids(row["prompt"]) for row in (asked(1, "draw")[0], asked(1, "caption")[0]))
    ids = torch.zeros(2, len(long), dtype=torch.long)
    ids[0, -len(short) :], ids[1] = short, long
    visible = torch.ones_like(ids)
    visible[0, : -len(short)] = 0
    padded = policy.model(ids, visible).logits
    torch.testing.assert_close(padded[0, -len(short) :], policy.model(short[None]).logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded[1], policy.model(long[None]).logits[0], atol=1e-5, rtol=1e-4)


def test_logits_are_of_the_same_position_and_see_both_sides(policy):
    ids = torch.randint(5, 20, (1, 6), generator=torch.Generator().manual_seed(0))
    before = policy.model(ids).logits
    ids[0, 5] += 1
    changed = (policy.model(ids).logits - before).abs().amax(-1)[0]
    assert bool((changed > 0).all())


def test_a_prompt_with_a_mask_is_refused_and_filled_in_by_fill(policy):
    with pytest.raises(BadSetting, match="mask token"):
        policy.answer([{"prompt": "large <mask>"}])
    text = "large <mask> square on <mask>, row 0, column 1"
    filled = policy.fill(text)
    assert "<mask>" not in filled and filled.startswith("large ") and " square on " in filled
    assert policy.fill(filled.replace("row 0", "row <mask>")) != text
    image = "<image1>" * 8 + "<mask>" * 8
    drawn = policy.fill(image, image=True)
    assert drawn.startswith("<image1>" * 8) and drawn.count("<image") == 16
    with pytest.raises(BadSetting, match="no <mask>"):
        policy.fill("red")


def test_answers_that_a_stop_text_ends_are_cut_there(policy):
    policy.answers_by(6)
    whole = policy.answer([{"prompt": "red"}], seed=1)[0]
    first = policy.tokeniser.decode(whole.completion[:1])
    cut = policy.answer([{"prompt": "red"}], seed=1, stop=[first])[0]
    assert len(cut.completion) == 1 and cut.text == "" and not cut.truncated


def test_a_special_token_that_is_a_stop_ends_an_answer(policy):
    policy.tokeniser.add_special_tokens({"additional_special_tokens": ["red"]})
    red = policy.tokeniser.convert_tokens_to_ids("red")
    said = torch.tensor([red + 1, red, red + 1])
    assert policy._length(said, ["red"]) == (2, True) and policy._length(said, []) == (3, False)


def test_guidance_moves_logits_away_from_those_of_a_masked_prompt(policy):
    rows = asked(4, "caption")
    plain = [s.ids.tolist() for s in policy.answer(rows, greedy=True)]
    policy.answers_by(guidance=0.0)
    assert [s.ids.tolist() for s in policy.answer(rows, greedy=True)] == plain
    prompt = policy.prompt_ids(rows[0]["prompt"])
    ids = torch.cat([prompt, torch.full((1,), policy.mask_id)])[None]
    blind = torch.full_like(ids, policy.mask_id)
    with torch.no_grad():
        with_, without = policy.model(ids).logits[0, -1], policy.model(blind).logits[0, -1]
    policy.answers_by(1, guidance=2.0)
    wanted = (without + 3 * (with_ - without)).masked_fill(policy.forbidden(False), -torch.inf)
    found = policy.answer(rows[:1], greedy=True)[0]
    assert int(found.completion[0]) == int(wanted.argmax())
    assert float(found.logp[-1]) == pytest.approx(float(wanted.log_softmax(-1).max()), abs=1e-5)


def test_scores_are_those_of_a_plain_pass_at_masked_places_alone(policy):
    g = torch.Generator().manual_seed(0)
    lengths = [5, 9, 7]
    parts = []
    for i, n in enumerate(lengths):
        action = torch.randint(5, 30, (n,), generator=g)
        mask = torch.rand(n, generator=g) < 0.5
        shown = action.masked_fill(mask, policy.mask_id)
        parts.append(Experience(obs=shown, action=action, mask=mask, segment=torch.full((n,), i)))
    found = policy.score(Experience.cat(parts)).logp.split(lengths)
    for part, logp in zip(parts, found, strict=True):
        plain = policy.model(part.obs[None]).logits[0].log_softmax(-1).gather(-1, part.action[:, None]).squeeze(-1)
        torch.testing.assert_close(logp, plain * part.mask, atol=1e-5, rtol=1e-5)


def test_a_saved_policy_is_loaded_by_name_and_answers_alike(policy, tmp_path):
    policy.answers_by(6, steps=2, block=3, image_steps=5)
    rows = asked(3)
    said = [s.ids.tolist() for s in policy.answer(rows, seed=5)]
    policy.save(tmp_path / "policy")
    loaded = pal.load_policy(tmp_path / "policy")
    assert isinstance(loaded, DiffusionLanguagePolicy)
    assert loaded.unmasking == policy.unmasking and loaded.model.config.answer_tokens == 6
    assert [s.ids.tolist() for s in loaded.answer(rows, seed=5)] == said
    assert loaded.predict("red") == policy.predict("red")
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(tmp_path / "policy")
    ids = torch.arange(5, 12)[None]
    assert torch.equal(plain(ids).logits, policy.model(ids).logits)


def test_images_are_drawn_as_codes(policy):
    codes = policy.generate_image([row["prompt"] for row in asked(3, "draw")])
    assert codes.shape == (3, 16) and int(codes.min()) >= 0 and int(codes.max()) < 16


def test_a_model_without_images_refuses_to_draw_and_learns_their_codes_from_a_task(tmp_path):
    DiffusionLanguagePolicy.make("mdm-16x1", Arithmetic()).save(tmp_path / "text")
    policy = DiffusionLanguagePolicy.make(str(tmp_path / "text"))
    with pytest.raises(BadSetting, match="knows no images"):
        policy.generate_image(["1+1="])
    grown = DiffusionLanguagePolicy.make(str(tmp_path / "text"), Squares())
    config = grown.model.config
    assert (config.image_codes, config.image_tokens) == (16, 16)
    assert config.vocab_size == len(grown.tokeniser) == grown.model(torch.tensor([[5]])).logits.shape[-1]
    assert grown.tokeniser("<image3>").input_ids == [config.image_offset + 3]
    ids = torch.tensor([[6, 7, 8]])
    old = policy.model(ids).logits
    torch.testing.assert_close(grown.model(ids).logits[..., : old.shape[-1]], old)


def test_adapters_alone_are_trained_and_are_merged_when_saved(tmp_path):
    policy = DiffusionLanguagePolicy.make("mdm-16x1", Arithmetic(), adapter=2)
    names = {name for name, p in policy.model.named_parameters() if p.requires_grad}
    assert names and all("lora" in name for name in names)
    with torch.no_grad():
        for p in policy.trainable():
            p.add_(0.1)
    rows = Arithmetic().rows("test")[:2]
    said = policy.answer(rows, greedy=True, max_tokens=9)
    loaded = pal.load_policy(policy.save(tmp_path / "p"))
    again = loaded.answer(rows, greedy=True, max_tokens=9)
    assert [s.text for s in again] == [s.text for s in said]
    torch.testing.assert_close(again[0].logp, said[0].logp, atol=1e-5, rtol=1e-4)


def test_one_token_at_a_time_is_not_its_way(policy):
    with pytest.raises(Unsupported, match="whole answers"):
        policy.act(torch.tensor([[1]]))


def test_tokens_that_are_filled_in_repeat_nothing_so_that_a_penalty_is_refused(policy):
    with pytest.raises(Unsupported, match="leave repetition_penalty at 1"):
        policy.answer(asked(1, "caption"), sampling=Sampling(repetition_penalty=1.1))


def test_sampling_at_a_low_temperature_is_greedy(policy):
    rows = asked(4, "caption")
    cold = policy.answer(rows, sampling=Sampling(temperature=1e-9), seed=9)
    assert [s.text for s in cold] == [s.text for s in policy.answer(rows, greedy=True)]


# Real checkpoints.

LLADA = {
    "model_type": "llada",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "d_model": 32,
    "n_heads": 2,
    "n_kv_heads": 1,
    "n_layers": 2,
    "mlp_hidden_size": 48,
    "rope": True,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "vocab_size": 40,
    "embedding_size": 40,
    "max_sequence_length": 64,
    "weight_tying": False,
    "mask_token_id": 4,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def llada_folder(folder, **changed) -> dict[str, torch.Tensor]:
    """A folder as LLaDA's, with random weights, which are returned under their names."""
    g = torch.Generator().manual_seed(0)
    sizes = {"transformer.wte": (40, 32), "transformer.ln_f": (32,), "transformer.ff_out": (40, 32)}
    block = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "attn_out": (32, 32), "ff_proj": (48, 32)}
    block |= {"up_proj": (48, 32), "ff_out": (32, 48), "attn_norm": (32,), "ff_norm": (32,)}
    sizes |= {f"transformer.blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    weights = {f"model.{name}.weight": torch.randn(shape, generator=g) for name, shape in sizes.items()}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**LLADA, **changed}))
    word_tokeniser("abcdefgh").save_pretrained(folder)
    return weights


def test_llada_folders_are_read_without_their_code(tmp_path):
    weights = llada_folder(tmp_path / "llada")
    model, tokeniser = load_diffusion_model(str(tmp_path / "llada"))
    assert torch.equal(model.blocks[1].down.weight, weights["model.transformer.blocks.1.ff_out.weight"])
    assert torch.equal(model.head.weight, weights["model.transformer.ff_out.weight"])
    assert torch.equal(model.blocks[0].k.weight, weights["model.transformer.blocks.0.k_proj.weight"])
    assert model.config.rope_theta == 500000.0 and model.config.num_key_value_heads == 1
    policy = DiffusionLanguagePolicy(model, tokeniser)
    assert len(policy.answer([{"prompt": "abc"}], max_tokens=4)) == 1
    policy.save(tmp_path / "own")
    again, _ = pretrained(str(tmp_path / "own"))
    ids = torch.tensor([[5, 4, 7]])
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_codes_of_mmada_stand_behind_the_tokens_of_text(tmp_path):
    llada_folder(tmp_path / "mmada", model_type="mmada", codebook_size=8, num_vq_tokens=4, new_vocab_size=40)
    policy = DiffusionLanguagePolicy.make(str(tmp_path / "mmada"))
    config = policy.model.config
    assert (config.image_offset, config.image_codes, config.image_tokens) == (13, 8, 4)
    assert policy.tokeniser("<image5>").input_ids == [18]
    assert policy.generate_image(["abc"]).shape == (1, 4)


def test_what_does_not_fit_is_named(tmp_path):
    llada_folder(tmp_path / "other", block_type="sequential")
    with pytest.raises(PalaestraError, match="block_type = sequential"):
        pretrained(str(tmp_path / "other"))
    llada_folder(tmp_path / "wide", d_model=64)
    with pytest.raises(BadCheckpoint, match=r"embed\.weight, which should have shape"):
        pretrained(str(tmp_path / "wide"))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(PalaestraError, match="its type is gpt2"):
        pretrained(str(tmp_path / "gpt"))
    with pytest.raises(BadSetting, match="tokeniser of its task"):
        load_diffusion_model("mdm-16x1")
    with pytest.raises(BadSetting, match="multiple of 16"):
        load_diffusion_model("mdm-20x1", Arithmetic())


@pytest.mark.parametrize("load", [lambda name: pretrained(name), lambda name: MagvitV2.from_pretrained(name)])
def test_without_a_network_a_hub_name_says_so_in_one_line(load, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PalaestraError, match="palaestra-tests/no-such-model cannot be loaded") as error:
        load("palaestra-tests/no-such-model")
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("; without a network, download it elsewhere and name its folder")


def test_names_of_llada_weights():
    assert llada_name("model.transformer.blocks.3.ff_proj.weight") == "blocks.3.gate.weight"
    assert llada_name("model.transformer.wte.weight") == "embed.weight"
    assert set(loading.LLADA_NAMES.values()) | {"attention_norm"} == {
        "attention_norm", "perceptron_norm", "q", "k", "v", "out", "gate", "up", "down"
    }  # fmt: skip


# MAGVIT-v2.


def test_magvit_codes_are_signs_and_images_keep_their_size():
    torch.manual_seed(0)
    model = MagvitV2(width=32, bits=5).eval()
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        codes = model.encode(images)
        numbers = model.encoder(2 * images - 1)
        assert codes.shape == (2, 6)
        signs = (numbers > 0).flatten(2)[0, :, 4].tolist()
        assert int(codes[0, 4]) == sum(2 ** (4 - i) for i, positive in enumerate(signs) if positive)
        assert model.decode(codes, (2, 3)).shape == images.shape
    with pytest.raises(BadSetting, match="multiples of 16"):
        model.encode(torch.rand(1, 3, 20, 16))
    with pytest.raises(BadSetting, match="do not make"):
        model.decode(codes)


def test_magvit_has_the_names_and_sizes_of_the_published_weights():
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in MagvitV2().state_dict().items()}
    assert len(shapes) == 380
    assert shapes["encoder.quant_conv.weight"] == (13, 13, 1, 1)
    assert shapes["encoder.down.3.block.0.nin_shortcut.weight"] == (512, 256, 1, 1)
    assert shapes["decoder.up.4.upsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.mid.attn_1.proj_out.bias"] == (512,)


def test_magvit_folders_of_other_weights_are_refused(tmp_path):
    with pytest.raises(PalaestraError, match="no weights as safetensors"):
        MagvitV2.from_pretrained(str(tmp_path))
    save_file({"encoder.conv_in.bias": torch.zeros(3)}, tmp_path / "pytorch_model.safetensors")
    with pytest.raises(BadCheckpoint, match="do not fit"):
        MagvitV2.from_pretrained(str(tmp_path))
