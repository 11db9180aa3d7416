"""Sentences of models from a few concepts, rated by people: CommonGen (Lin et al. 2020, arXiv:1911.03705)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from palaestra.core.errors import BadDataset, unknown
from palaestra.core.hints import PositiveInt
from palaestra.data.real import real_data
from palaestra.language.judges.judge import Judge
from palaestra.language.rows import Row, Rows
from palaestra.language.task import TextTask
from palaestra.language.tasks.sources import read_rows
from palaestra.language.verifiers.verdict import answer_text

FILES = {"train": "ratings_train.jsonl", "test": "ratings_dev.jsonl"}
ENDINGS = ("ing", "ed", "es", "s", "e")
"""What a word loses, the first that fits, to be compared with its other forms."""
SMALL = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "by", "for", "from", "he", "her", "his", "i", "in"),
        *("into", "is", "it", "its", "of", "on", "or", "she", "that", "the", "their", "they", "to", "with"),
    )
)
"""Stop words."""


@dataclass
class CommonGen(TextTask):
    """`bath newborn tub:` is answered with a sentence that has them all; those of six models come with people's ratings.

    A row has the sentences as `completions`, the mean ratings, 0 to 5, as `scores`, and a sentence that a person wrote as
    `completion`. The published files name no concepts; these are the words that all sentences of people about them share. New
    sentences are scored by the share of the concepts that they have.

    The ratings are as published, where they cannot all be of their sentences: both files begin with the same 60 lists of ratings,
    for different sentences, and the first six sentences of either have the best rating from everybody.
    """

    summary = "Sentences from concepts, with people's ratings of six models' (not shipped)"

    path: str = "commongen"
    """The folder of the published files, anywhere or in the folder that `PALAESTRA_DATA` names."""
    limit: PositiveInt = 32
    """Tokens that an answer may have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.max_tokens = self.limit
        folder = Path(self.path).expanduser()
        folder = folder if folder.is_dir() else real_data(self.path)
        self._splits = {split: list(rated(read_rows(folder / name))) for split, name in FILES.items()}

    def rows(self, split: str) -> Rows:
        if split not in self._splits:
            raise unknown("split", split, self._splits)
        return self._splits[split]

    def judge(self) -> Judge:
        return Judge({"concepts": has_concepts})


def rated(lines: Iterable[Row]) -> Iterable[Row]:
    """Rows of the lines of a file: those about the same sentences of people together.

    Raises:
        BadDataset: a line has not the columns of the published files.
    """
    ratings: dict[str, list[float]] = {}
    people: dict[str, dict[str, None]] = {}
    for number, line in enumerate(lines, 1):
        try:
            said = str(line["candidate"]).strip()
            ratings.setdefault(said, []).append(float(line["score"]))
            people.setdefault(said, {})[str(line["reference"]).strip()] = None
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataset(f"line {number} has no rating of a sentence: {type(error).__name__} {error}") from None
    groups: dict[tuple[str, ...], list[str]] = {}
    for said, by_people in people.items():
        groups.setdefault(tuple(sorted(by_people)), []).append(said)
    for references, sentences in groups.items():
        concepts = shared_words(references)
        if concepts:
            yield {
                "prompt": " ".join(concepts) + ":",
                "completion": " " + min(references, key=len),
                "completions": [" " + said for said in sentences],
                "scores": [fmean(ratings[said]) for said in sentences],
                "concepts": concepts,
            }


def shared_words(sentences: Sequence[str]) -> list[str]:
    """The words that all sentences have in some form, in alphabetical order, each in its shortest form."""
    forms: dict[str, list[str]] = {}
    for sentence in sentences:
        for word in words(sentence):
            forms.setdefault(stem(word), []).append(word)
    everywhere = set.intersection(*({stem(word) for word in words(sentence)} for sentence in sentences))
    return sorted(min(forms[one], key=len) for one in everywhere)


def has_concepts(completions: Sequence[Any], concepts: Sequence[Sequence[str]], **columns: Any) -> list[float]:
    """A reward function: the share of a row's `concepts` that an answer has in some form."""
    said = [{stem(word) for word in words(answer_text(text))} for text in completions]
    return [sum(stem(word) in has for word in sought) / len(sought) for has, sought in zip(said, concepts)]


def words(text: str) -> list[str]:
    """The words of a text but for stop words, in small letters."""
    return [word for word in re.findall("[a-z]+", text.lower()) if word not in SMALL]


def stem(word: str) -> str:
    """A word without its ending: `sits`, `sitting` and `sit` are the same, most of the time."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
