"""Models of llama2.c as ordinary folders: against its arithmetic and its tokeniser written down plainly, and for stories260K."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palaestra.core.errors import BadCheckpoint, BadSetting
from palaestra.language.convert import BYTES, convert_llama2c, read_model, read_pieces
from palaestra.language.models import converted, pretrained

transformers = pytest.importorskip("transformers")

WORDS = [" t", "he", " the", "ab", "bc", "abc", " a", "aa", " ", "e", "a", "t", "h", "b", "c", "é", "\n"]
"""Pieces of a small tokeniser, in the order of their scores."""
SHAPE = (16, 24, 2, 4, 2, BYTES.stop + len(WORDS), 32)
"""Width, hidden width, layers, heads, key and value heads, pieces, context."""


def forward(path: Path, ids: list[int]) -> np.ndarray:
    """Logits `(T, vocabulary)` of a version-0 file in float64, one position after the other, as llama2.c computes them."""
    dim, hidden, layers, heads, kv, vocabulary, context = struct.unpack("<7i", path.read_bytes()[:28])
    tied, vocabulary, head = vocabulary > 0, abs(vocabulary), dim // heads
    numbers = np.fromfile(path, dtype="<f4", offset=28).astype(np.float64)

    def take(*shape):
        nonlocal numbers
        taken, numbers = numbers[: np.prod(shape)].reshape(shape), numbers[np.prod(shape) :]
        return taken

    def norm(x, weight):
        return weight * x / np.sqrt((x * x).mean() + 1e-5)

    def rotated(x, position):
        turned = x.copy()
        for i in range(0, len(x), 2):
            angle = position / 10000.0 ** ((i % head) / head)
            turned[i] = x[i] * np.cos(angle) - x[i + 1] * np.sin(angle)
            turned[i + 1] = x[i] * np.sin(angle) + x[i + 1] * np.cos(angle)
        return turned

    embedding, norm1 = take(vocabulary, dim), take(layers, dim)
    q, k = take(layers, dim, dim), take(layers, kv * head, dim)
    v, o = take(layers, kv * head, dim), take(layers, dim, dim)
    norm2, gate, down, up = (
        take(layers, dim),
        take(layers, hidden, dim),
        take(layers, dim, hidden),
        take(layers, hidden, dim),
    )
    last = take(dim)
    take(2, context, head // 2)
    output = embedding if tied else take(vocabulary, dim)
    keys, values, logits = [[] for _ in range(layers)], [[] for _ in range(layers)], []
    for position, token in enumerate(ids):
        x = embedding[token]
        for layer in range(layers):
            y = norm(x, norm1[layer])
            query = rotated(q[layer] @ y, position)
            keys[layer].append(rotated(k[layer] @ y, position))
            values[layer].append(v[layer] @ y)
            mixed = []
            for h in range(heads):
                at = slice(h // (heads // kv) * head, (h // (heads // kv) + 1) * head)
                scores = np.array([query[h * head : (h + 1) * head] @ key[at] for key in keys[layer]]) / np.sqrt(head)
                weights = np.exp(scores - scores.max())
                mixed.append(sum(w * value[at] for w, value in zip(weights / weights.sum(), values[layer])))
            x = x + o[layer] @ np.concatenate(mixed)
            y = norm(x, norm2[layer])
            gated = gate[layer] @ y
            x = x + down[layer] @ (gated / (1 + np.exp(-gated)) * (up[layer] @ y))
        logits.append(output @ norm(x, last))
    return np.array(logits)


def encode(pieces: list[tuple[str, float]], text: str) -> list[int]:
    """Ids of a text as llama2.c's tokeniser finds them: characters or bytes, then the best pair joined until none is left."""
    known = {piece: i for i, (piece, _) in enumerate(pieces)}
    ids = []
    for character in " " + text if text else "":
        ids += [known[character]] if character in known else [3 + byte for byte in character.encode()]
    while True:
        pairs = [
            (-pieces[known[joined]][1], place, known[joined])
            for place in range(len(ids) - 1)
            if (joined := pieces[ids[place]][0] + pieces[ids[place + 1]][0]) in known
        ]
        if not pairs:
            return ids
        _, place, joined = min(pairs)
        ids[place : place + 2] = [joined]


def write_model(path: Path, shape=SHAPE, tied: bool = True, seed: int = 0) -> Path:
    """A random model."""
    dim, hidden, layers, heads, kv, vocabulary, context = shape
    head = dim // heads
    count = (
        vocabulary * dim * (1 if tied else 2)
        + dim
        + layers * (2 * dim + 2 * dim * dim + 2 * kv * head * dim + 3 * hidden * dim)
    )
    weights = np.random.default_rng(seed).normal(0, 0.3, count + context * head).astype("<f4")
    path.write_bytes(struct.pack("<7i", *shape[:5], vocabulary if tied else -vocabulary, context) + weights.tobytes())
    return path


def table(words=WORDS) -> bytes:
    """The table of a tokeniser."""
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    scores = [0.0] * BYTES.stop + [-float(i) for i in range(len(words))]
    packed = (struct.pack("<fi", score, len(p.encode())) + p.encode() for p, score in zip(pieces, scores))
    return struct.pack("<i", 7) + b"".join(packed)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small model and its tokeniser, as llama2.c leaves them."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tok.bin").write_bytes(table())
    write_model(tmp_path / "model" / "model.bin")
    return tmp_path / "model"


def load(folder: Path):
    return (
        transformers.AutoModelForCausalLM.from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


def logits(model, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_model_computes_what_the_file_does(folder, tmp_path, tied):
    write_model(folder / "model.bin", tied=tied)
    model, _ = load(convert_llama2c(folder, tmp_path / "out"))
    ids = [1, *range(250, 275)]
    np.testing.assert_allclose(logits(model, ids), forward(folder / "model.bin", ids), atol=1e-4)
    assert model.config.tie_word_embeddings is tied


def test_a_converted_folder_is_an_ordinary_one_with_its_tokeniser(folder, tmp_path):
    model, tokeniser = load(convert_llama2c(folder, tmp_path / "out"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert type(model).__name__ == "LlamaForCausalLM"
    assert tokeniser.bos_token_id == tokeniser.eos_token_id == model.config.eos_token_id == 1
    assert tokeniser.pad_token_id == model.config.pad_token_id == 0 and len(tokeniser) == model.config.vocab_size


def test_changing_a_converted_model_leaves_the_file_as_it_was(folder, tmp_path):
    model, _ = load(convert_llama2c(folder, tmp_path / "out"))
    before = (folder / "model.bin").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (folder / "model.bin").read_bytes() == before


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small tokeniser, and its pieces."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "tok.bin").write_bytes(table())
    write_model(folder / "model.bin")
    return load(convert_llama2c(folder, folder / "out"))[1], read_pieces(folder / "tok.bin", SHAPE[5])


@settings(max_examples=300)
@given(
    st.one_of(
        st.text("abcthe é\nx", max_size=30), st.text(st.characters(codec="utf-8", exclude_characters="▁<"), max_size=30)
    )
)
def test_its_tokeniser_reads_as_llama2c_does_and_writes_what_it_read(small, text):
    tokeniser, pieces = small
    ids = tokeniser(text, add_special_tokens=False)["input_ids"]
    assert ids == encode(pieces, text)
    assert tokeniser.decode(ids) == text


def test_a_story_begins_with_its_beginning(small):
    tokeniser, _ = small
    assert (
        tokeniser("abc")["input_ids"][0] == 1
        and tokeniser.decode(tokeniser("abc")["input_ids"], skip_special_tokens=True) == "abc"
    )


def broken(what: str, folder: Path) -> None:
    model, pieces = folder / "model.bin", folder / "tok.bin"
    data, words = model.read_bytes(), pieces.read_bytes()

    def headed(*header: int) -> bytes:
        return struct.pack("<7i", *header) + data[28:]

    changes = {
        "empty": lambda: model.write_bytes(b""),
        "cut": lambda: model.write_bytes(data[:-4]),
        "longer": lambda: model.write_bytes(data + b"\0" * 4),
        "another version": lambda: model.write_bytes(b"24ka" + data[4:]),
        "text": lambda: model.write_bytes(b"once upon a time" * 1000),
        "zero heads": lambda: model.write_bytes(headed(16, 24, 2, 0, 2, 276, 32)),
        "negative": lambda: model.write_bytes(headed(16, -24, 2, 4, 2, 276, 32)),
        "heads that do not divide": lambda: model.write_bytes(headed(16, 24, 2, 3, 3, 276, 32)),
        "a huge size": lambda: model.write_bytes(headed(2**31 - 4, 2**31 - 1, 2**31 - 1, 2, 2, 2**31 - 1, 2**31 - 1)),
        "NaN": lambda: model.write_bytes(data[:-4000] + struct.pack("<f", float("nan")) + data[-3996:]),
        "no model": lambda: model.unlink(),
        "two models": lambda: (folder / "other.bin").write_bytes(data),
        "no table": lambda: pieces.unlink(),
        "a table cut": lambda: pieces.write_bytes(words[:-1]),
        "a longer table": lambda: pieces.write_bytes(words + b"\0"),
        "another table": lambda: pieces.write_bytes(words.replace(b"<unk>", b"<xyz>")),
        "a piece that is no text": lambda: pieces.write_bytes(words.replace("é".encode(), b"\xff\xff")),
        "a piece too long": lambda: pieces.write_bytes(words.replace(struct.pack("<i", 4), struct.pack("<i", 2**30))),
        "a piece twice": lambda: pieces.write_bytes(table([*WORDS[:-1], WORDS[0]])),
        "a score that is no number": lambda: pieces.write_bytes(
            words[:4] + struct.pack("<f", float("nan")) + words[8:]
        ),
    }
    changes[what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("empty", "0 bytes, fewer than the header"),
        ("cut", r"has \d+ bytes, but a model of its header's shape has \d+"),
        ("longer", "bytes, but a model"),
        ("another version", "later version"),
        ("text", "no llama2.c model|bytes, but"),
        ("zero heads", "no llama2.c model of version 0"),
        ("negative", "no llama2.c model of version 0"),
        ("heads that do not divide", "no llama2.c model of version 0"),
        ("a huge size", "bytes, but a model"),
        ("NaN", "a weight that is not finite"),
        ("no model", r"should hold one model \(a .bin file\), but holds none"),
        ("two models", "holds model.bin, other.bin; name the file"),
        ("no table", "one tokeniser .* holds none"),
        ("a table cut", "is no tokeniser's table: piece 275|ends within piece 275"),
        ("a longer table", "1 bytes more"),
        ("another table", "does not begin with <unk>"),
        ("a piece that is no text", "piece 274 .* is no text"),
        ("a piece too long", "is no tokeniser's table: piece"),
        ("a piece twice", "the same piece twice"),
        ("a score that is no number", "the score nan"),
    ],
)
def test_files_that_are_something_else_are_refused_and_nothing_is_written(folder, tmp_path, what, said):
    broken(what, folder)
    with pytest.raises(BadCheckpoint, match=said):
        convert_llama2c(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_in_it_is_not_replaced(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("work")
    with pytest.raises(BadSetting, match="no folder of a model"):
        convert_llama2c(folder, tmp_path / "out")
    (tmp_path / "out" / "thesis.tex").unlink()
    convert_llama2c(folder, tmp_path / "out")
    convert_llama2c(folder, tmp_path / "out")  # a model's is, as a whole


def test_files_can_be_named(folder, tmp_path):
    (folder / "other.bin").write_bytes((folder / "model.bin").read_bytes())
    (folder / "tok.bin").rename(tmp_path / "words")
    assert convert_llama2c(folder / "model.bin", tmp_path / "out", tokeniser=tmp_path / "words").is_dir()


# The real one.


def stories260k() -> Path | None:
    """Where stories260K.bin is, if it is here."""
    places = [os.environ.get("PALAESTRA_DATA"), Path(__file__).parents[3] / "shared" / "data"]
    found = (Path(place) / "stories260K" for place in places if place)
    return next((folder for folder in found if (folder / "stories260K.bin").exists()), None)


REAL = stories260k()
real = pytest.mark.skipif(REAL is None, reason="stories260K is not here")


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    return load(convert_llama2c(REAL, tmp_path_factory.mktemp("stories") / "260K"))


@real
def test_stories260k_computes_what_its_file_does(stories):
    model, tokeniser = stories
    ids = tokeniser("Once upon a time, there was a little girl named Lily. She saw a “büyük” dog.")["input_ids"]
    np.testing.assert_allclose(logits(model, ids), forward(REAL / "stories260K.bin", ids), atol=1e-4)
    assert model.num_parameters() == 260_032


@real
def test_stories260k_tells_the_story_that_its_page_shows(stories):
    model, tokeniser = stories
    ids = model.generate(torch.tensor([[1]]), max_new_tokens=256, do_sample=False)
    story = tokeniser.decode(ids[0], skip_special_tokens=True)
    assert story.startswith("Once upon a time, there was a little girl named Lily.")
    assert hashlib.sha256(story.encode()).hexdigest() == PUBLISHED


PUBLISHED = "30b2ffb07967932a88bfdf5e23b517a6f4cfcf7231db9e537360d3c12a4e4d10"
"""Of the greedy story on doc/stories260K.md in llama2.c's repository."""


@real
def test_stories260k_is_as_sure_of_its_stories_as_of_those_it_was_validated_on(stories):
    """A calibrated model's loss on its own samples is its loss on data; 1.2968 is published for TinyStories."""
    model, _ = stories
    torch.manual_seed(0)
    ids = model.generate(
        torch.ones(64, 1, dtype=torch.long), max_new_tokens=250, do_sample=True, temperature=1.0, top_k=0
    )
    with torch.no_grad():
        loss = -model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    assert abs(float(loss[ids[:, 1:] != 0].mean()) - 1.2968) < 0.05


@real
@settings(max_examples=300)
@given(st.text(st.characters(exclude_characters="▁<", codec="utf-8"), max_size=60))
def test_stories260k_reads_as_llama2c_does(stories, text):
    pieces = read_pieces(REAL / "tok512.bin", 512)
    ids = stories[1](text, add_special_tokens=False)["input_ids"]
    assert ids == encode(pieces, text) and stories[1].decode(ids) == text


@real
def test_stories260k_reads_its_own_stories_as_it_wrote_them(stories):
    model, tokeniser = stories
    shape, _ = read_model(REAL / "stories260K.bin")
    assert (shape.dim, shape.layers, shape.heads, shape.kv_heads, shape.vocabulary) == (64, 5, 8, 4, 512)
    torch.manual_seed(1)
    ids = model.generate(
        torch.ones(32, 1, dtype=torch.long), max_new_tokens=200, do_sample=True, temperature=1.0, top_k=0
    )
    pieces = read_pieces(REAL / "tok512.bin", 512)
    for text in tokeniser.batch_decode(ids, skip_special_tokens=True):
        assert tokeniser(text, add_special_tokens=False)["input_ids"] == encode(pieces, text)


@real
def test_a_folder_of_llama2c_is_a_model_by_its_name():
    from palaestra.language.policy import LanguagePolicy

    text = LanguagePolicy.make("stories260K").predict("Once upon a time")
    assert text.startswith(", there was a")


def test_a_model_of_llama2c_is_read_without_being_written(folder, tmp_path, monkeypatch):
    """Of several processes, transformers lets the first alone write."""
    written = pretrained(str(convert_llama2c(folder, tmp_path / "out")))
    monkeypatch.setattr(type(written[0]), "save_pretrained", lambda *args, **more: None)
    model, tokeniser = converted(str(folder))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), written[0].parameters(), strict=True))
    assert model.config.eos_token_id == written[0].config.eos_token_id
    assert model.generation_config.eos_token_id == written[0].generation_config.eos_token_id
    assert model.config._attn_implementation == written[0].config._attn_implementation
    assert not model.training
    text = "one two\n"
    assert tokeniser(text)["input_ids"] == written[1](text)["input_ids"] and len(tokeniser) == len(written[1])
    assert tokeniser.special_tokens_map == written[1].special_tokens_map
