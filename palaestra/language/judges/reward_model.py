"""A reward model of transformers as a reward function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from palaestra.core.devices import models_device
from palaestra.core.errors import BadSetting, require
from palaestra.language.chat import ordinary, read
from palaestra.language.models import load_classifier, model_folder
from palaestra.language.reward_policy import RewardPolicy
from palaestra.language.verifiers.verdict import answer_text


class RewardModel:
    """The output of a sequence classifier with one output for a prompt with its answer, in trl's signature.

    `model` is a folder (of a run, too), a hub name, or the model itself with its `tokeniser`. No code that a folder brings is
    executed. `batch` texts are read at a time, of at most `longest` tokens, the last ones.

    A folder of palaestra's is read as it was trained, so that scores are those of its `RewardPolicy`. Other models read text as
    their tokeniser gives it: a prompt and its answer as one, with the tokens that it puts around a text, such as BOS or [CLS];
    messages through its chat template, which writes such tokens itself; and, with `ends`, the end of sequence behind, cut off or
    not.
    """

    def __init__(
        self, model: Any, tokeniser: Any = None, batch: int = 32, longest: int | None = None, ends: bool = False
    ):
        require(batch >= 1, f"batch must be at least 1, got {batch}")
        self.__name__, self.policy = "reward_model", None
        if isinstance(model, str | Path):
            self.__name__ = Path(model).name
            name = str(model)
            model, own = load_classifier(name)
            model.to(models_device())
            tokeniser = tokeniser or own
            if (Path(model_folder(name)) / "policy.json").exists():
                self.policy = RewardPolicy(model, tokeniser)
        if tokeniser is None:
            raise BadSetting("a reward model needs its tokeniser")
        if model.config.num_labels != 1:
            raise BadSetting(
                f"a reward model has one output, but {self.__name__} has {model.config.num_labels}; load it with num_labels=1"
            )
        if tokeniser.pad_token_id is None:
            tokeniser.pad_token = tokeniser.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokeniser.pad_token_id
        self.model, self.tokeniser, self.batch, self.longest = model.eval(), tokeniser, batch, longest
        self.end = [tokeniser.eos_token_id] if ends else []

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], truncated: Sequence[bool] = (), **columns: Any
    ) -> list[float]:
        asked = zip(prompts, completions, truncated or [False] * len(prompts), strict=True)
        texts = [self._ids(*one)[-(self.longest or 0) :] for one in asked]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that little is padded
        scores = [0.0] * len(texts)
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            width = max(1, *(len(texts[i]) for i in places))
            ids = torch.full((len(places), width), self.tokeniser.pad_token_id, device=self.model.device)
            mask = torch.zeros_like(ids)
            for row, place in enumerate(places):
                said = texts[place]
                ids[row, : len(said)] = torch.tensor(said, device=ids.device)
                mask[row, : len(said)] = 1
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, 0]
            for place, score in zip(places, logits.float().tolist()):
                scores[place] = score
        return scores

    def _ids(self, prompt: Any, completion: Any, truncated: bool) -> list[int]:
        if self.policy is not None:
            return torch.cat(self.policy.read(prompt, answer_text(completion), truncated)).tolist()
        if isinstance(prompt, str):
            return [*self.tokeniser(prompt + answer_text(completion)).input_ids, *self.end]
        said = [*prompt, *ordinary(self.tokeniser, completion)]
        return [*read(self.tokeniser, self.tokeniser.apply_chat_template(said, tokenize=False)), *self.end]


def reward_of(name: str) -> Callable[..., list[float]]:
    """`RewardModel(name)` as a reward function that loads the model at its first call, for modules that define it globally."""
    model = cache(lambda: RewardModel(name))

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        return model()(prompts, completions, **columns)

    reward.__name__ = Path(name).name
    return reward
