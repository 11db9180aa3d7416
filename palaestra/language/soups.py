"""Soups: the average of several models' weights, and whether the way between two of them leads over a barrier."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from palaestra.core.errors import BadSetting, Unsupported, require
from palaestra.core.experience import Experience
from palaestra.language.preferences import cut_off

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from palaestra.language.policy import LanguagePolicy
    from palaestra.language.rows import Row
    from palaestra.language.task import TextTask

NAME = "soup:"
"""`soup:FOLDER,FOLDER` is the model that those average to, `soup:FOLDER*0.3,FOLDER*0.7` with weights."""
LINE = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where a way between two models is looked at."""
LONGER_LINE = (-0.5, -0.25, *LINE, 1.25, 1.5)
"""The same, with what lies beyond its ends."""

INERT = {
    "_name_or_path",
    "answer_tokens",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "router_aux_loss_coef",
    "transformers_version",
    "unmasking",
    "use_cache",
}
"""What configs tell that does not decide what a model makes of its weights; dropout, which is off, is of the kind, too."""


def soup(policies: Sequence[LanguagePolicy], weights: Sequence[float] | None = None) -> LanguagePolicy:
    """The average of policies, parameter by parameter (Wortsman et al., arXiv 2203.05482); `weights` are made to sum to 1.

    Raises:
        BadSetting: they differ in shape, in what they make of their weights, or in vocabulary.
    """
    require(len(policies) >= 1, "a soup is made of one model or more")
    same_vocabulary([policy.tokeniser for policy in policies])
    model = blend([policy.model for policy in policies], weights or [1.0] * len(policies))
    return type(policies[0])(model, policies[0].tokeniser)


@torch.no_grad()
def blend(models: Sequence[nn.Module], weights: Sequence[float]) -> nn.Module:
    """The average of models of one shape, in double precision; what is whole numbers must be the same in all of them."""
    fits = len(weights) == len(models) and all(math.isfinite(w) and w >= 0 for w in weights) and sum(weights) > 0
    require(
        fits, f"a soup of {len(models)} models needs as many weights, none below 0, got {', '.join(map(str, weights))}"
    )
    if any(hasattr(model, "get_base_model") for model in models):
        raise Unsupported(
            "adapters are not averaged, since their product would not be; save the models, which merges them"
        )
    every = [weights_of(model) for model in models]
    for model, found in zip(models[1:], every[1:], strict=True):
        shapes, others = ({name: tuple(t.shape) for name, t in own.items()} for own in (every[0], found))
        other = next((name for name in {**shapes, **others} if shapes.get(name) != others.get(name)), None)
        if type(model) is not type(models[0]) or other is not None:
            what = "" if other is None else f" ({other}: {shapes.get(other, 'none')} and {others.get(other, 'none')})"
            raise BadSetting(f"a soup is made of models of one shape, and these differ{what}")
        told, others = _decisive(models[0]), _decisive(model)
        entry = next((name for name in {**told, **others} if told.get(name) != others.get(name)), None)
        if entry is not None:
            what = f"{entry}: {told.get(entry)} and {others.get(entry)}"
            raise BadSetting(
                f"a soup is made of models of one shape, and these differ in {what}, as their config.json says"
            )
    mixed = copy.deepcopy(models[0])
    for name, own in weights_of(mixed).items():
        parts = [found[name] for found in every]
        if own.is_floating_point():
            own.copy_(torch.stack([w / sum(weights) * p.double() for w, p in zip(weights, parts, strict=True)]).sum(0))
        elif any(not torch.equal(own, part) for part in parts):
            raise BadSetting(f"a soup is made of models of one shape, and these differ in the whole numbers of {name}")
    return mixed


def named_soup(
    name: str, load: Callable[[str], tuple[Any, PreTrainedTokenizerBase]]
) -> tuple[Any, PreTrainedTokenizerBase] | None:
    """The soup that a name asks for and its tokeniser, of models that `load` finds; None where it is no soup's name."""
    if not name.startswith(NAME):
        return None
    found, weights = [], []
    for part in name.removeprefix(NAME).split(","):
        model, star, weight = part.strip().partition("*")
        require(
            bool(model), f"{name} lacks a model; give soup:FOLDER,FOLDER, or with weights soup:FOLDER*0.3,FOLDER*0.7"
        )
        try:
            weights.append(float(weight) if star else 1.0)
        except ValueError:
            raise BadSetting(f"{name}: what follows a * is a model's weight, a number, got {weight!r}") from None
        found.append(load(model))
    same_vocabulary([tokeniser for _, tokeniser in found])
    return blend([model for model, _ in found], weights), found[0][1]


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module by name, tied ones once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _decisive(model: Any) -> dict[str, Any]:
    """The entries of a model's config, those of its parts among them, that decide what it makes of its weights."""
    return _entries(model.config.to_dict()) if hasattr(model, "config") else {}


def _entries(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, Mapping):
            found |= _entries(value, f"{prefix}{name}.")
        elif name not in INERT and "dropout" not in name and "pdrop" not in name:
            found[f"{prefix}{name}"] = value
    return found


def same_vocabulary(tokenisers: Sequence[PreTrainedTokenizerBase]) -> None:
    """Refuse models to which the same ids are other tokens."""
    first = tokenisers[0]
    for other in tokenisers[1:]:
        if other is not first and (other.get_vocab() != first.get_vocab() or other.eos_token_id != first.eos_token_id):
            raise BadSetting(
                f"the models have different vocabularies, of {len(first)} and {len(other)} tokens, so that their ids cannot be "
                "compared"
            )


@dataclass(frozen=True)
class Barrier:
    """The loss on the straight line from one model to another."""

    share: tuple[float, ...]  # of the second model, from 0 to 1
    loss: tuple[float, ...]  # nats per token

    @property
    def height(self) -> float:
        """How far the loss rises above what lies between the ends' (Frankle et al., arXiv 1912.05671): about 0 where a soup is
        as good as its models, and far above where they do the same in different ways, such as with permuted units."""
        first, last = self.loss[0], self.loss[-1]
        return max(loss - first - a * (last - first) for a, loss in zip(self.share, self.loss, strict=True))


@torch.no_grad()
def barrier(first: LanguagePolicy, second: LanguagePolicy, rows: Sequence[Row], micro_tokens: int = 16_384) -> Barrier:
    """The loss on the `completion` of each row, from one model to another."""
    return Barrier(
        LINE, tuple(loss_of(soup([first, second], [1 - share, share]), rows, micro_tokens) for share in LINE)
    )


def loss_of(policy: LanguagePolicy, rows: Sequence[Row], micro_tokens: int = 16_384) -> float:
    """The loss of a model on the `completion` of each row, in nats a token."""
    parts = []
    for i, row in enumerate(rows):
        ids, mask = policy.with_answer(
            policy.prompt_ids(row["prompt"], row.get("tools")), row["completion"], cut_off(row)
        )
        parts.append(Experience(action=ids, mask=mask, segment=torch.full((len(ids),), i)))
    tokens = sum(int(part.mask.sum()) for part in parts)
    require(tokens > 0, "a barrier is measured on answers; give some rows with a completion")
    return -float(torch.cat(policy.logps(parts, tokens=micro_tokens)).sum()) / tokens


@torch.no_grad()
def on_line(first: LanguagePolicy, second: LanguagePolicy, share: float) -> LanguagePolicy:
    """first + share (second - first), weight by weight: beyond either model where the share is below 0 or above 1."""
    mixed = soup([first, second], [1.0, 0.0])
    own, theirs = weights_of(mixed.model), weights_of(second.model)
    for name, weight in own.items():
        if weight.is_floating_point():
            weight.copy_(weight.double() + share * (theirs[name].double() - weight.double()))
    return mixed


def scores_on_line(
    first: LanguagePolicy,
    second: LanguagePolicy,
    task: TextTask,
    prompts: int,
    seed: int = 0,
    shares: Sequence[float] = LONGER_LINE,
) -> dict[float, float]:
    """The mean score of sampled answers to held-out prompts by share of the second model (Chegini et al., arXiv 2411.01798)."""
    return {share: float(task.answered(on_line(first, second, share), prompts, seed)[1].nanmean()) for share in shares}
