"""Masked-diffusion models: tiny and from scratch, from a folder, or LLaDA and its kin by hub name, without running their code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from palaestra.core.errors import BadCheckpoint, BadSetting, PalaestraError
from palaestra.language.models import SCRATCH, brief, heads_of, model_folder, tokeniser_of, unmapped
from palaestra.language.soups import named_soup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from palaestra.language.diffusion.model import MaskedDiffusionModel
    from palaestra.language.task import TextTask

LLADA = ("llada", "mmada")
"""Model types of LLaDA (Nie et al. 2025) and of MMaDA, whose folders name weights in their own way."""
LLADA_NAMES = {
    "attn_norm": "attention_norm",
    "ff_norm": "perceptron_norm",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "attn_out": "out",
    "ff_proj": "gate",
    "up_proj": "up",
    "ff_out": "down",
}
"""Parts of a block, theirs and ours."""


def image_symbol(code: int) -> str:
    """What an image code is called in text."""
    return f"<image{code}>"


def load_diffusion_model(
    name: str, task: TextTask | None = None
) -> tuple[MaskedDiffusionModel, PreTrainedTokenizerBase]:
    """A masked-diffusion model and its tokeniser: `mdm-64x3`, a folder (of a run, too), or a hub name such as
    GSAI-ML/LLaDA-8B-Instruct.

    A model from scratch takes the tokeniser of its task. Where a task draws images and the model knows none, its vocabulary grows
    by the task's codes.

    Raises:
        BadSetting: a model from scratch without a task that has a tokeniser.
        PalaestraError: there is no such model, or it is of another kind.
    """
    fresh = SCRATCH.fullmatch(name)
    if fresh is None or fresh[1] != "mdm":
        model, tokeniser = named_soup(name, partial(load_diffusion_model, task=task)) or pretrained(name)
    else:
        tokeniser = tokeniser_of(task, name)
        model = from_scratch(int(fresh[2]), int(fresh[3]), tokeniser)
    symbols = getattr(task, "image_symbols", ())
    if symbols and not model.config.image_codes:
        add_images(model, tokeniser, symbols, task.image_tokens)  # type: ignore[union-attr]
    if model.config.mask_token_id is None:
        raise PalaestraError(f"{name} has no mask token, so that nothing can be masked")
    return model.eval(), tokeniser


def from_scratch(width: int, layers: int, tokeniser: PreTrainedTokenizerBase) -> MaskedDiffusionModel:
    """A model with random weights, `heads_of` its width, and a perceptron four times as wide."""
    from palaestra.language.diffusion.model import MaskedDiffusionConfig, MaskedDiffusionModel

    heads = heads_of(width, layers)
    if tokeniser.mask_token_id is None:
        raise BadSetting("the tokeniser of the task has no mask token, which masked diffusion needs")
    config = MaskedDiffusionConfig(
        vocab_size=len(tokeniser),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        initializer_range=width**-0.5,  # products keep their size; the 0.02 of large models learns far more slowly here
        mask_token_id=tokeniser.mask_token_id,
        bos_token_id=tokeniser.bos_token_id,
        eos_token_id=tokeniser.eos_token_id,
        pad_token_id=tokeniser.pad_token_id,
    )
    return MaskedDiffusionModel(config)


def add_images(model: Any, tokeniser: PreTrainedTokenizerBase, symbols: tuple[str, ...], tokens: int) -> None:
    """Let a model and its tokeniser know images of `tokens` codes each, called `symbols`; what is new begins at random."""
    missing = [
        symbol for symbol in symbols if tokeniser.convert_tokens_to_ids(symbol) in (None, tokeniser.unk_token_id)
    ]
    if missing:
        tokeniser.add_tokens(missing)
    ids = [tokeniser.convert_tokens_to_ids(symbol) for symbol in symbols]
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise BadSetting("the image codes of a task must stand one after the other in its tokeniser")
    if len(tokeniser) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokeniser))
    model.config.image_offset, model.config.image_codes, model.config.image_tokens = ids[0], len(ids), tokens


def pretrained(name: str) -> tuple[MaskedDiffusionModel, PreTrainedTokenizerBase]:
    """The model and its tokeniser from a folder or the hub."""
    from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    from palaestra.language.diffusion.model import MaskedDiffusionConfig

    disable_progress_bar()
    folder = model_folder(name)
    try:
        # Its description first: without a network, that alone says so, once.
        described, _ = PreTrainedConfig.get_config_dict(folder)
        kind = described.get("model_type")
        if kind in LLADA:
            tokeniser = PreTrainedTokenizerFast.from_pretrained(folder)
            model = from_llada(folder, described, len(tokeniser))
            tokeniser.add_tokens([image_symbol(code) for code in range(model.config.image_codes)])
            return model, tokeniser
        if kind == MaskedDiffusionConfig.model_type:
            model = AutoModel.from_pretrained(folder, dtype="float32", use_safetensors=True)
            return unmapped(model), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise PalaestraError(f"{name} cannot be loaded as a masked-diffusion model: {brief(name, error)}") from None
    raise PalaestraError(
        f"{name} is no masked-diffusion model (its type is {kind}); those that are: folders of mdm-sft and unigrpo, and LLaDA "
        "and MMaDA models"
    )


def from_llada(folder: str, described: Mapping[str, Any], text_tokens: int) -> MaskedDiffusionModel:
    """LLaDA's or MMaDA's weights, from a folder or the hub, in palaestra's own model."""
    from safetensors.torch import load_file

    from palaestra.language.diffusion.model import MaskedDiffusionModel

    config = llada_config(described, text_tokens)
    with torch.device("meta"):
        model = MaskedDiffusionModel(config)
    weights = {llada_name(name): tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}
    for name, parameter in model.state_dict().items():
        if name not in weights or weights[name].shape != parameter.shape:
            found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise BadCheckpoint(f"{folder}: {name}, which should have shape {tuple(parameter.shape)}, {found}")
    model.load_state_dict({name: weights[name].float() for name in model.state_dict()}, assign=True)
    return model.requires_grad_(True)


def llada_config(described: Mapping[str, Any], text_tokens: int) -> Any:
    """A `MaskedDiffusionConfig` from the entries of LLaDA's or MMaDA's `config.json`.

    Raises:
        PalaestraError: an entry asks for something that palaestra's model does not have.
    """
    from palaestra.language.diffusion.model import MaskedDiffusionConfig

    fixed = {
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "rope": True,
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "attention_layer_norm": False,
        "input_emb_norm": False,
        "scale_logits": False,
        "weight_tying": False,
    }
    for key, value in fixed.items():
        if described.get(key, value) != value:
            raise PalaestraError(f"{key} = {described[key]} is not supported; masked-diffusion models need {value}")
    width = described["d_model"]
    codes = described.get("codebook_size") or 0
    return MaskedDiffusionConfig(
        vocab_size=described.get("new_vocab_size") or described.get("embedding_size") or described["vocab_size"],
        hidden_size=width,
        intermediate_size=described.get("mlp_hidden_size") or described["mlp_ratio"] * width,
        num_hidden_layers=described["n_layers"],
        num_attention_heads=described["n_heads"],
        num_key_value_heads=described.get("n_kv_heads"),
        max_position_embeddings=described["max_sequence_length"],
        rope_theta=described["rope_theta"],
        rms_norm_eps=described["rms_norm_eps"],
        mask_token_id=described["mask_token_id"],
        eos_token_id=described.get("eos_token_id"),
        pad_token_id=described.get("pad_token_id"),
        image_offset=text_tokens if codes else None,  # MMaDA's codes begin behind the tokens of text
        image_codes=codes,
        image_tokens=described.get("num_vq_tokens") or 0 if codes else 0,
    )


def llada_name(name: str) -> str:
    """The name of one of LLaDA's weights in palaestra's model."""
    inner = name.removeprefix("model.").removeprefix("transformer.")
    block = re.fullmatch(r"blocks\.(\d+)\.(\w+)\.weight", inner)
    if block is not None:
        return f"blocks.{block[1]}.{LLADA_NAMES.get(block[2], block[2])}.weight"
    return {"wte.weight": "embed.weight", "ln_f.weight": "norm.weight", "ff_out.weight": "head.weight"}.get(
        inner, inner
    )


def weight_files(folder: str) -> list[Path]:
    """The safetensors files of a model in a folder, or on the hub, which are then fetched."""
    from transformers.utils import cached_file

    index = cached_file(folder, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
    names = ["model.safetensors"]
    if index is not None:
        names = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
    return [Path(cached_file(folder, name)) for name in names]  # type: ignore[arg-type]
