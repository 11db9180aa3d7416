"""Rewards of single tokens drawn over the text of answers, which stays text, whatever a model said."""

from __future__ import annotations

from palaestra.language.readout import Reading, Readout
from palaestra.report.html import Html, h, join, outside, table
from palaestra.report.text import clean, number

MIDDLE = 5
"""The shade of 0. From orange (0) to blue (10), which people with any kind of colour blindness tell apart."""
ABOUT = (
    "Blue: the policy finds the token likelier than the reference does, orange: less likely. Where preferences trained it, "
    "orange is what they blame."
)
LEAST = 3
"""How many of the lowest rewards are named in words."""


def signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def level(reward: float, scale: float) -> int:
    """The shade of a reward, 0 to 10: the middle one is 0, the ends are `scale` and beyond."""
    return MIDDLE + round(MIDDLE * max(-1.0, min(1.0, reward / scale))) if scale > 0 else MIDDLE


def visible(token: str, broken: str = "↵") -> str:
    """A token with its line breaks drawn, and nothing in it that a page or a terminal would obey."""
    return broken.join(clean(line, 1000) for line in token.split("\n"))


def heat(answer: Reading, scale: float) -> Html:
    """An answer with a shade behind each token, whose numbers show where the pointer rests."""
    spans = [
        h("span", visible(token, "↵\n"), class_=f"p{level(reward, scale)}", title=_numbers(reward, logp, ref_logp))
        for token, reward, logp, ref_logp in zip(answer.tokens, answer.rewards, answer.logp, answer.ref_logp)
    ]
    return h("pre", spans, class_="said heat", dir="auto")


def legend(scale: float) -> Html:
    """Which shade is which reward."""
    levels = range(2 * MIDDLE + 1)
    values = [scale * (i - MIDDLE) / MIDDLE for i in levels]
    names = ["≤ " * (i == 0) + "≥ " * (i == levels[-1]) + signed(value) for i, value in zip(levels, values)]
    return h("p", [h("span", name, class_=f"p{i}") for i, name in enumerate(names)], class_="heat scale")


def drawn(readout: Readout, most: int | None = None) -> Html:
    """Answers, or the first `most` of them, as heat maps of one scale."""
    rows = [
        [
            outside(a.prompt, 600),
            outside(a.what, 60),
            heat(a, readout.scale),
            signed(a.total),
            number(a.score),
            _least(a),
        ]
        for a in readout.answers[:most]
    ]
    head = ["Prompt", "Answer", "Its tokens", "Sum", "Score", "Lowest"]
    limits = [h("p", note, class_="note") for note in notes(readout)]
    return join(legend(readout.scale), table(head, rows, "tokens"), limits)


def notes(readout: Readout) -> list[str]:
    """What limits what the numbers say."""
    cut = sum(not answer.ended for answer in readout.answers)
    if not cut:
        return []
    return [f"{cut} of the answers did not come to an end: their sums lack what it is worth to go on."]


def _least(answer: Reading) -> Html:
    """The lowest rewards in words, for who has no pointer."""
    lowest = sorted(zip(answer.rewards, answer.tokens))[:LEAST]
    return join([h("small", f"{visible(token)} {signed(reward)} ") for reward, token in lowest if reward < 0])


def _numbers(reward: float, logp: float, ref_logp: float) -> str:
    return f"{signed(reward)}: log p {number(logp)}, of the reference {number(ref_logp)}"
