"""A reward model of transformers as a reward function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from palaestra.core.devices import models_device
from palaestra.core.errors import BadCheckpoint, BadSetting, PalaestraError, require
from palaestra.language.models import load_tokeniser, model_folder
from palaestra.language.verifiers.verdict import answer_text


class RewardModel:
    """What a sequence classifier with one output says about a prompt with its answer, in trl's signature.

    `model` is a folder (of a run, too), a hub name, or the model itself with its `tokeniser`. Messages go through the tokeniser's
    chat template. No code that a folder brings is executed. `batch` texts are read at a time, of at most `longest` tokens, the
    last ones. With `ends`, the end of sequence is read behind a text, as it is by default by models that palaestra has trained.
    """

    def __init__(
        self, model: Any, tokeniser: Any = None, batch: int = 32, longest: int | None = None, ends: bool | None = None
    ):
        require(batch >= 1, f"batch must be at least 1, got {batch}")
        self.__name__ = "reward_model"
        if isinstance(model, str | Path):
            self.__name__ = Path(model).name
            name = str(model)
            model, own = load_classifier(name)
            model.to(models_device())
            tokeniser = tokeniser or own
            ends = (Path(model_folder(name)) / "policy.json").exists() if ends is None else ends
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
    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        texts = [self._text(prompt, completion) for prompt, completion in zip(prompts, completions)]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that little is padded
        scores = [0.0] * len(texts)
        for start in range(0, len(order), self.batch):
            places = order[start : start + self.batch]
            read = self.tokeniser([texts[i] for i in places], add_special_tokens=False).input_ids
            read = [[*ids, *self.end][-(self.longest or 0) :] for ids in read]
            width = max(1, *map(len, read))
            ids = torch.full((len(read), width), self.tokeniser.pad_token_id, device=self.model.device)
            mask = torch.zeros_like(ids)
            for row, said in enumerate(read):
                ids[row, : len(said)] = torch.tensor(said, device=ids.device)
                mask[row, : len(said)] = 1
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, 0]
            for place, score in zip(places, logits.float().tolist()):
                scores[place] = score
        return scores

    def _text(self, prompt: Any, completion: Any) -> str:
        if isinstance(prompt, str):
            return prompt + answer_text(completion)
        return self.tokeniser.apply_chat_template([*prompt, *completion], tokenize=False)


def load_classifier(name: str) -> tuple[Any, Any]:
    """A sequence classifier with one output and its tokeniser, from a folder (of a run, too) or the hub.

    Raises:
        BadCheckpoint: there is none, or it lacks weights, as a causal model does a head for scores.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        folder = model_folder(name)
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype="float32", output_loading_info=True
        )
        tokeniser = load_tokeniser(folder)
    except (OSError, ValueError, RuntimeError, PalaestraError) as error:
        raise BadCheckpoint(f"no reward model could be had from {name}: {' '.join(str(error).split())[:300]}") from None
    if told["missing_keys"]:
        raise BadCheckpoint(f"{name} is no reward model: it lacks {', '.join(sorted(told['missing_keys']))}")
    return model.eval(), tokeniser
