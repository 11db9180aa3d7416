"""Anchors: frozen models that a method compares with, known by their hash, and what they say."""

from __future__ import annotations

import copy
import dataclasses
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.errors import BadSetting, require
from palaestra.core.experience import Experience
from palaestra.core.files import Frozen
from palaestra.language import kept
from palaestra.language.policy import LanguagePolicy
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.language.soups import same_vocabulary, weights_of
from palaestra.language.task import TextTask, talks
from palaestra.nets.shards import whole

ASKED = {"copies", "max_tokens", "sampling", "greedy", "stop", "seed", "first"}
"""What decides an answer besides the model and the prompt."""
ORIGIN = {
    "_name_or_path",
    "architectures",
    "base_model_name_or_path",
    "dtype",
    "inference_mode",
    "peft_version",
    "revision",
    "transformers_version",
}
"""What configs tell of where a model is from, which decides nothing that it says."""


class Anchor:
    """A frozen policy: a copy, a named model or soup, the policy of the round before, a moving average.

    A checkpoint holds no more than its hash; its weights are a file beside, written once for as long as they stay the same.
    """

    def __init__(self, policy: LanguagePolicy, shared: frozenset[int] = frozenset()):
        """Freeze `policy`; its tensors whose `id` is in `shared` are another policy's too, which does not train them."""
        self.policy = policy
        self.policy.requires_grad_(False)
        self._shared = shared
        self._hash: str | None = None
        self._frozen: Frozen | None = None

    @staticmethod
    def of(policy: LanguagePolicy) -> Anchor:
        """A copy of a policy as it is now. What it does not train, such as the model under its adapters, both have in common."""
        still = {id(p): p for p in policy.parameters() if not p.requires_grad} if policy.trainable() else {}
        twin = copy.deepcopy(policy, {**still, id(policy.tokeniser): policy.tokeniser})
        return Anchor(twin, frozenset(still))

    @staticmethod
    def named(name: str, task: TextTask | None = None) -> Anchor:
        """A model by its name, its folder, or the soup that it is of."""
        return Anchor(LanguagePolicy.make(name, task))

    @staticmethod
    def beside(policy: LanguagePolicy, name: str = "", task: TextTask | None = None) -> Anchor:
        """What a policy is compared with: a model by its name, of the same kind and vocabulary, or the policy as it is now.

        Either looks at the clips that the policy does.
        """
        if not name:
            return Anchor.of(policy)
        anchor = Anchor(type(policy).make(name, task))
        same_vocabulary([policy.tokeniser, anchor.policy.tokeniser])
        anchor.policy.clip_table = policy.clip_table
        return anchor

    @property
    def hash(self) -> str:
        """What it is known by: the sha256 of its weights, of how they are computed with, and of its vocabulary."""
        if self._hash is None:
            vocabulary = json.dumps(sorted(self.policy.tokeniser.get_vocab().items())).encode()
            tensors = files.pack_tensors(weights_of(self.policy))
            self._hash = files.sha256(*tensors, _computed(self.policy.model), vocabulary)
        return self._hash

    # Anchors that move.

    @torch.no_grad()
    def refresh(self, policy: LanguagePolicy) -> None:
        """Take a policy's weights as they are now: from then on this is the policy of the round before."""
        with whole(policy):
            for own, theirs in self._pairs(policy):
                own.copy_(theirs)
        self._changed()

    @torch.no_grad()
    def towards(self, policy: LanguagePolicy, rate: float) -> None:
        """Go a share of the way to a policy's weights: a moving average, whose decay is 1 - rate."""
        require(0 <= rate <= 1, f"an anchor goes a share of the way, between 0 and 1, got {rate}")
        with whole(policy):
            for own, theirs in self._pairs(policy):
                own.copy_(own.lerp(theirs.to(own), rate) if own.is_floating_point() else theirs)
        self._changed()

    def _pairs(self, policy: LanguagePolicy) -> Iterator[tuple[Tensor, Tensor]]:
        """Its own weights, each with that of `policy`."""
        own, theirs = weights_of(self.policy), weights_of(policy)
        for name in {**own, **theirs}:
            if name not in own or name not in theirs or own[name].shape != theirs[name].shape:
                raise BadSetting(f"an anchor takes the weights of a model of its own shape alone; {name} is another")
            if id(own[name]) in self._shared and own[name] is not theirs[name]:
                raise BadSetting(
                    f"the anchor has {name} in common with the policy that it is a copy of, and not with this one"
                )
        return ((own[name], theirs[name]) for name in self._own())

    def _own(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in weights_of(self.policy).items() if id(tensor) not in self._shared}

    def _changed(self) -> None:
        self._hash = self._frozen = None

    # What it says.

    def logp(self, parts: Sequence[Experience], temperature: float = 1.0, micro_tokens: int = 16_384) -> list[Tensor]:
        """Log-probabilities `(L,)` of each sequence's tokens, 0 where its mask is 0.

        They are computed once for all that ask the same where that is kept (`language.kept`): the same sequences together, since
        which ones share a pass decides how their sums are rounded. So nothing depends on what is kept.
        """
        score = partial(self.policy.logps, parts, temperature, micro_tokens)
        if self.policy.sees:  # what they are shown is not among what is hashed
            return score()

        def question() -> dict[str, Any]:
            how = {"temperature": temperature, "micro_tokens": micro_tokens}
            return {"model": self.hash, "sequences": _digest(parts), **how}

        found = kept.once(question, lambda: {"logp": kept.joined(score())})
        return list(found["logp"].split([len(part) for part in parts]))

    @property
    def tokeniser(self) -> Any:
        return self.policy.tokeniser

    def answer(self, rows: Sequence[Row], *, environment: Any = None, **how: Any) -> list[Sample]:
        """What `LanguagePolicy.answer` gives, once for all that ask the same where answers are kept (`language.kept`)."""
        policy = self.policy
        draw = partial(policy.answer, rows, environment=environment, **how)
        if not kept.keeps() or policy.sees or policy.engine is not None or not how.keys() <= ASKED:
            return draw()
        if any(talks(environment, row) for row in rows):
            return draw()

        def question() -> dict[str, Any]:
            prompts = [policy.prompt_ids(row["prompt"], row.get("tools")).tolist() for row in rows]
            told = {name: dataclasses.asdict(x) if name == "sampling" and x else x for name, x in sorted(how.items())}
            ends = policy.ending(how.get("stop", ())).ids  # which the generation config decides, too
            return {"model": self.hash, "prompts": prompts, "ends": ends, **told}

        return kept.answered(question, rows, draw)

    # Checkpoints.

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its own weights; what it shares is saved with the policy that it shares it with."""
        if self._frozen is None:
            self._frozen = Frozen.of(self._own())
        return self._frozen

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, own in self._own().items():
            own.copy_(state[name])
        self._changed()


def _computed(model: Any) -> bytes:
    """What a model does with its weights, by its config and those of its adapters."""
    configs = [model.config, *getattr(model, "peft_config", {}).values()]
    told = [{name: x for name, x in config.to_dict().items() if name not in ORIGIN} for config in configs]
    return json.dumps(told, sort_keys=True, default=lambda x: sorted(x) if isinstance(x, set) else str(x)).encode()


def _digest(parts: Sequence[Experience]) -> str:
    """The hash of sequences, whose order and whose common prompts decide how they are packed."""
    digest = blake2b(digest_size=16)
    for part in parts:
        for field in (part.action, part.mask, part.group):
            if field is not None:
                digest.update(struct.pack("<q", len(field)))
                digest.update(field.contiguous().cpu().numpy().data)
    return digest.hexdigest()
