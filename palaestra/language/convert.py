"""Models from files of llama2.c (A. Karpathy, 2023), as ordinary `transformers` folders.

A version-0 file is seven int32, then float32 weights grouped by kind. Its tokeniser is a table of pieces with scores. Nothing in
either is executed, and sizes are checked before anything is read.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint, require
from palaestra.core.files import disk_error

HEADER = struct.Struct("<7i")
PIECE = struct.Struct("<fi")
MOST_PIECES = 1 << 20
BYTES = range(3, 259)
"""Ids of the 256 bytes, which spell what no piece spells; ids 0 to 2 are `<unk>`, `<s>` and `</s>`."""
THETA, EPSILON = 10000.0, 1e-5
"""Of the rotation and of the norms, which the file does not tell: llama2.c's own."""


@dataclass(frozen=True)
class Shape:
    """What the first 28 bytes of a file say."""

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    tied: bool  # whether the output's weights are the embeddings

    @property
    def head(self) -> int:
        return self.dim // self.heads

    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights in the file's order."""
        layers, dim, hidden, kv = self.layers, self.dim, self.hidden, self.kv_heads * self.head
        return {
            "embedding": (self.vocabulary, dim),
            "attention_norm": (layers, dim),
            "q": (layers, dim, dim),
            "k": (layers, kv, dim),
            "v": (layers, kv, dim),
            "o": (layers, dim, dim),
            "mlp_norm": (layers, dim),
            "gate": (layers, hidden, dim),
            "down": (layers, dim, hidden),
            "up": (layers, hidden, dim),
            "norm": (dim,),
            "cos": (self.context, self.head // 2),
            "sin": (self.context, self.head // 2),
            **({} if self.tied else {"output": (self.vocabulary, dim)}),
        }


def convert_llama2c(source: str | Path, out: str | Path, tokeniser: str | Path | None = None) -> Path:
    """Write the model in `source` as a `from_pretrained` folder `out`, with its tokeniser, and return that.

    `source` is a version-0 `.bin` file, or a folder with one; `tokeniser` the table of its pieces, by default the `tok*.bin`
    beside it. These models begin a story with `<s>` and end it with the next one's, so that the folder's end of sequence is
    `<s>` too.

    Raises:
        BadCheckpoint: a file is missing, or is not what it should be.
        BadSetting: `out` is there already and is no folder of a model.
    """
    out = Path(out)
    require(
        not out.exists() or (out.is_dir() and (not any(out.iterdir()) or (out / "config.json").exists())),
        f"{out} is there and is no folder of a model; name another place",
    )
    model, made = read_llama2c(source, tokeniser)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with files.replacing(out) as fresh:
        model.save_pretrained(fresh)
        made.save_pretrained(fresh)
    return out


def read_llama2c(source: str | Path, tokeniser: str | Path | None = None) -> tuple[Any, Any]:
    """The model and the tokeniser that `convert_llama2c` writes.

    Raises:
        BadCheckpoint: a file is missing, or is not what it should be.
    """
    model_file, table_file = _find(Path(source), None if tokeniser is None else Path(tokeniser))
    shape, weights = read_model(model_file)
    return _llama(shape, weights), _tokeniser(read_pieces(table_file, shape.vocabulary), shape.context)


def read_model(path: Path) -> tuple[Shape, dict[str, np.ndarray]]:
    """The header and the weights of a version-0 file; the weights stay on disk until they are looked at.

    Raises:
        BadCheckpoint: it has another version or size, or a weight that is not finite.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
    except OSError as error:
        raise BadCheckpoint(f"{path} cannot be read: {disk_error(error, path)}") from error
    if len(head) < HEADER.size:
        raise BadCheckpoint(f"{path} has {size} bytes, fewer than the header of a llama2.c model")
    dim, hidden, layers, heads, kv_heads, vocabulary, context = HEADER.unpack(head)
    if head[:4] == b"24ka":  # "ak42", little-endian, begins later versions
        raise BadCheckpoint(f"{path} is a llama2.c model of a later version; export it again with --version 0")
    shape = Shape(dim, hidden, layers, heads, kv_heads, abs(vocabulary), context, vocabulary > 0)
    sensible = min(dim, hidden, layers, heads, kv_heads, abs(vocabulary), context) > 0
    if not sensible or dim % heads or heads % kv_heads or shape.head % 2:
        raise BadCheckpoint(f"{path} is no llama2.c model of version 0: its header says {shape}")
    arrays = shape.arrays()
    needed = HEADER.size + 4 * sum(math.prod(of) for of in arrays.values())
    if size != needed:
        raise BadCheckpoint(f"{path} has {size} bytes, but a model of its header's shape has {needed}: {shape}")
    flat, weights, start = np.memmap(path, dtype="<f4", mode="r", offset=HEADER.size), {}, 0
    for name, of in arrays.items():
        weights[name] = flat[start : start + math.prod(of)].reshape(of)
        start += math.prod(of)
        if not np.isfinite(weights[name]).all():
            raise BadCheckpoint(f"{path} holds a weight that is not finite, in {name}")
    return shape, weights


def read_pieces(path: Path, count: int) -> list[tuple[str, float]]:
    """The pieces of a tokeniser's table and their scores, by id.

    Raises:
        BadCheckpoint: it does not hold exactly `count` pieces of which texts can be made.
    """
    data = files.read_bytes(path)
    if count > MOST_PIECES or count <= BYTES.stop or len(data) < 4 + count * PIECE.size:
        raise BadCheckpoint(f"{path} has {len(data)} bytes, which no table of {count} pieces has")
    (longest,) = struct.unpack_from("<i", data)
    pieces, place = [], 4
    for i in range(count):
        if place + PIECE.size > len(data):
            raise BadCheckpoint(f"{path} ends within piece {i} of {count}")
        score, length = PIECE.unpack_from(data, place)
        place += PIECE.size
        if not 0 < length <= longest or place + length > len(data) or not math.isfinite(score):
            raise BadCheckpoint(f"{path} is no tokeniser's table: piece {i} has {length} bytes and the score {score}")
        try:
            pieces.append((data[place : place + length].decode(), score))
        except UnicodeDecodeError as error:
            raise BadCheckpoint(f"piece {i} of {path} is no text: {error}") from None
        place += length
    if place != len(data):
        raise BadCheckpoint(f"{path} has {len(data) - place} bytes more than a table of {count} pieces")
    special = [text.strip() for text, _ in pieces[: BYTES.start]]
    spelled = [text for text, _ in pieces[BYTES.start : BYTES.stop]]
    if special != ["<unk>", "<s>", "</s>"] or spelled != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise BadCheckpoint(f"{path} is no table of llama2.c: it does not begin with <unk>, <s>, </s> and the bytes")
    texts = [text for text, _ in pieces[BYTES.stop :]]
    if len(set(texts)) != len(texts):
        raise BadCheckpoint(f"{path} holds the same piece twice")
    return pieces


def _find(source: Path, tokeniser: Path | None) -> tuple[Path, Path]:
    """The files of the model and of its tokeniser."""
    if not source.exists():
        raise BadCheckpoint(f"there is no {source}")
    folder = source if source.is_dir() else source.parent
    tables = sorted(folder.glob("tok*.bin"))
    models = [source] if source.is_file() else sorted(set(folder.glob("*.bin")) - set(tables))
    tables = tables if tokeniser is None else [tokeniser]
    for what, found in (("model (a .bin file)", models), ("tokeniser (tok*.bin)", tables)):
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise BadCheckpoint(f"{folder} should hold one {what}, but holds {names}; name the file")
    return models[0], tables[0]


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a projection for a rotation of (i, i + h/2) instead of (2i, 2i + 1), in each head of h."""
    rows, dim = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, dim).swapaxes(1, 2).reshape(rows, dim)


def _llama(shape: Shape, weights: dict[str, np.ndarray]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=shape.tied,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    named = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["norm"],
        "lm_head.weight": weights["embedding" if shape.tied else "output"],
    }
    for i in range(shape.layers):
        named |= {
            f"model.layers.{i}.input_layernorm.weight": weights["attention_norm"][i],
            f"model.layers.{i}.self_attn.q_proj.weight": _halves(weights["q"][i], shape.heads),
            f"model.layers.{i}.self_attn.k_proj.weight": _halves(weights["k"][i], shape.kv_heads),
            f"model.layers.{i}.self_attn.v_proj.weight": weights["v"][i],
            f"model.layers.{i}.self_attn.o_proj.weight": weights["o"][i],
            f"model.layers.{i}.post_attention_layernorm.weight": weights["mlp_norm"][i],
            f"model.layers.{i}.mlp.gate_proj.weight": weights["gate"][i],
            f"model.layers.{i}.mlp.down_proj.weight": weights["down"][i],
            f"model.layers.{i}.mlp.up_proj.weight": weights["up"][i],
        }
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    tensors = {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in named.items()}
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # no weight, and so not among those that were given
    return model


def _tokeniser(pieces: list[tuple[str, float]], context: int) -> Any:
    """Byte-pair encoding by scores: of all neighbours that are a piece together, those of the best score are joined first."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    texts = ["<unk>", "<s>", "</s>", *(text.replace(" ", "▁") for text, _ in pieces[3:])]
    ids = {text: i for i, text in enumerate(texts)}
    joined: list[tuple[float, int, int, str, str]] = []
    for text, (_, score) in zip(texts[BYTES.stop :], pieces[BYTES.stop :]):
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                joined.append((-score, ids[left], ids[right], left, right))
    merges = [(left, right) for *_, left, right in sorted(joined)]
    made = Tokenizer(BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in texts[: BYTES.start]])
    made.post_processor = TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="<s>",
        unk_token="<unk>",
        pad_token="<unk>",
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
