"""Signs of sickness in what a run logs, said once each in plain words. Training goes on: they are hints, not errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

SMALLER_STEPS = {"lr": "lower the learning rate", "epochs": "go through a round fewer times (epochs)"}


@dataclass(frozen=True)
class Sign:
    """A quantity that looks sick in `rows` consecutive rows of metrics."""

    name: str
    sick: Callable[[float, float], bool]
    """Of the present value and the first one that was logged."""
    rows: int
    what: str
    """What is wrong, with the value in place of {}."""
    advice: Mapping[str, str]
    """What may help, by the setting that it takes; by no name what any method can do."""

    def said(self, value: float, settings: Mapping[str, Any]) -> str:
        """What is wrong, and what may help a method with these settings that it does not do already."""
        own = [text for name, text in self.advice.items() if not name or name in settings]
        own = [text for text in own if not any(text.endswith(f"({name}={x})") for name, x in settings.items())]
        listed = " or ".join(filter(None, [", ".join(own[:-1]), *own[-1:]]))
        return self.what.format(value) + (f"; {listed}" if own else "")


SIGNS = (
    Sign(
        "policy/kl",
        lambda now, first: now > 0.5,
        3,
        "the policy changes a great deal in each iteration (KL {:.2g})",
        SMALLER_STEPS,
    ),
    Sign(
        "policy/clipped",
        lambda now, first: now > 0.5,
        3,
        "{:.0%} of the ratios are clipped, so most of the batch teaches nothing",
        SMALLER_STEPS,
    ),
    Sign(
        "policy/entropy",
        lambda now, first: 0 <= now < 0.01 * first,
        5,
        "the policy hardly explores any more (entropy {:.2g})",
        {
            "entropy_weight": "give entropy more weight, and a level where there is one (entropy_weight), if returns disappoint"
        },
    ),
    Sign(
        "value/explained_variance",
        lambda now, first: now < 0,
        20,
        "the value function predicts worse than a constant would (explained variance {:.2g})",
        {
            "normalise_reward": "check the scale of the rewards (normalise_reward)",
            "normalise_obs": "check that of the observations (normalise_obs)",
            "reward_scale": "check the scale of the rewards (reward_scale)",
            "value_lr": "change the critic's learning rate (value_lr)",
        },
    ),
    Sign(
        "groups/without_spread",
        lambda now, first: now > 0.9,
        5,
        "{:.0%} of the groups have rewards that are all alike and teach nothing",
        {
            "": "choose prompts that are solved sometimes",
            "model": "start from a model that has seen good answers (sft)",
            "resample": "replace them (resample=3)",
        },
    ),
    Sign(
        "answers/truncated",
        lambda now, first: now > 0.5,
        3,
        "{:.0%} of the answers are cut off by the limit",
        {"max_tokens": "raise max_tokens", "overlong": "leave them out of the loss (overlong=mask)"},
    ),
    Sign(
        "answers/length",
        lambda now, first: now < 0.2 * first,
        5,
        "answers have become short ({:.1f} tokens), which a reward can invite",
        {"": "look at them (answers.jsonl)"},
    ),
    Sign(
        "policy/clipped_up",
        lambda now, first: now > 0.2,
        3,
        "{:.0%} of the tokens are clipped upwards",
        SMALLER_STEPS,
    ),
    Sign(
        "sampler/difference",
        lambda now, first: now > 0.1,
        3,
        "what samples the answers is far from the policy that learns from them ({:.2g} nats a token)",
        {
            "": "give vLLM the precision of training (--dtype of its server)",
            "top_p": "cut less of the distribution (top_k, top_p, min_p)",
            "repetition_penalty": "bring repetition_penalty nearer to 1",
        },
    ),
    Sign(
        "policy/kl_reference",
        lambda now, first: now > 5.0,
        3,
        "the policy is far from the model it began with ({:.2g} nats a token)",
        {"kl_weight": "raise kl_weight if its answers lose sense"},
    ),
    Sign(
        "preference/chosen_logp",
        lambda now, first: now < 3 * first < 0,
        5,
        "the answers that were chosen have become far less likely, too (log-probability {:.3g}): what has gained is neither side "
        "of the pairs. If the sampled score falls",
        {"lr": "lower the learning rate", "beta": "raise beta", "": "stop earlier"},
    ),
    Sign(
        "preference/aim",
        lambda now, first: now > 50,
        1,
        "leads of up to {:.0f} nats are aimed at (gaps of scores over beta), which drive likelihoods to extremes",
        {"beta": "raise beta", "": "bring scores on another scale"},
    ),
    Sign(
        "pairs/prompts_without",
        lambda now, first: now > 0.999,
        2,
        "no prompt has answers that make a pair, so that nothing is learnt",
        {
            "drawn": "let more answers be drawn (drawn)",
            "group": "give more answers to a prompt (group)",
            "bar": "ask less of a pair (margin, bar)",
        },
    ),
    Sign(
        "guide/gated",
        lambda now, first: now < 0.01,
        3,
        "hardly any action in the data is better than its state's value ({:.1%}), so that nothing keeps the policy near the "
        "data",
        {"": "compare its return with td3-bc's"},
    ),
)


@dataclass
class Watch:
    """Looks at every row of metrics, and says each thing once, with what the settings of the method let one do about it."""

    settings: Mapping[str, Any]
    first: dict[str, float] = field(default_factory=dict)
    streak: dict[str, int] = field(default_factory=dict)

    def look(self, row: Mapping[str, float]) -> list[str]:
        """What is to be said after this row."""
        said = []
        for sign in SIGNS:
            if sign.name not in row:
                continue
            value = row[sign.name]
            sick = sign.sick(value, self.first.setdefault(sign.name, value))
            self.streak[sign.name] = self.streak.get(sign.name, 0) + 1 if sick else 0
            if self.streak[sign.name] == sign.rows:
                said.append(sign.said(value, self.settings))
                self.streak[sign.name] = sign.rows - (1 << 60)  # once is enough
        return said
