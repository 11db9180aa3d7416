"""Randomness as a function: every random number depends on (run seed, stream name, counter) and on nothing else.

No generator state is ever saved: a resumed run asks for the same stream at the same counter and gets the same numbers,
and the order in which streams are used is irrelevant.
"""

from __future__ import annotations

import hashlib

import torch


def seed_for(seed: int, stream: str, counter: int = 0) -> int:
    """A 63-bit seed for draw number `counter` of the stream named `stream` in the run seeded with `seed`."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{counter}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Streams:
    """The random streams of one run."""

    def __init__(self, seed: int):
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}

    def generator(self, stream: str, counter: int = 0) -> torch.Generator:
        """The generator of `stream`, positioned at `counter`; valid until the same stream is asked for again."""
        if stream not in self._generators:
            self._generators[stream] = torch.Generator()
        return self._generators[stream].manual_seed(seed_for(self.seed, stream, counter))

    def integer(self, stream: str, counter: int = 0) -> int:
        """A non-negative 31-bit integer, the range that environments accept as a seed."""
        return seed_for(self.seed, stream, counter) & 0x7FFFFFFF
