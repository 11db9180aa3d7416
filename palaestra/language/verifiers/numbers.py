"""Final answers in mathematics: finding them in a text, reading them exactly, and comparing them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from palaestra.language.verifiers.format import between, tags_in_order
from palaestra.language.verifiers.verdict import RIGHT, Verdict, unparseable, wrong

LONGEST = 200
"""Characters of an answer that is looked at; a longer one is none."""
EXPONENT = 100
"""The largest power of ten that is read."""
DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
NUMBER = re.compile(
    rf"""
    (?:(?P<sign>[-+])\s*)?
    (?:(?P<whole>[0-9]+)(?:\s+|(?=\\frac)))?            # of a mixed number
    (?:\\frac\s*\{{\s*(?P<top>-?{DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>-?{DECIMAL})\s*\}}
     |(?P<over>{DECIMAL})\s*/\s*(?P<under>{DECIMAL})
     |(?P<decimal>{DECIMAL})(?:\s*(?:[eE]|(?:\\times|\*|×)\s*10\s*\^)\s*\{{?\s*(?P<power>[-+]?[0-9]+)\s*\}}?)?
    )
    """,
    re.VERBOSE | re.ASCII,
)
PHRASE = re.compile(r"\banswer\s*(?:is\b|:|=)\s*:?", re.IGNORECASE)
SENTENCE = re.compile(r"(?<=[^\sa-zA-Z])\.\s+(?=[A-Z])")
"""The end of a sentence that does not end with a word, which may be an abbreviation."""
LAST = re.compile(rf"(?<![\w.])[-−]?\$?{DECIMAL}(?:[eE][-+]?[0-9]+|\s*/\s*{DECIMAL})?")
NEGATIVE = re.compile(r"\b(?:minus|negative)\s+(?=[\\.0-9])", re.IGNORECASE)
WORDS = re.compile(r"(?:[a-zA-Z][a-zA-Z.'-]+|°C|°F|°|a)")
"""What may stand beside a number: units and other words of at least two letters."""
ALTERING = {"not", "half", "squared", "cubed", "factorial", "root"}
"""Words beside which a number is another one."""
ATTACHED = {
    *("mm", "cm", "km", "in", "ft", "yd", "mi", "mph", "mg", "kg", "oz", "lb", "lbs", "ml", "gal"),
    *("sec", "min", "hr", "hrs", "am", "pm", "st", "nd", "rd", "th"),
}
"""What of at most three letters may stand beside a number without a space; anything else is a product of variables, as in 2ab."""


def final_answer(text: str, anywhere: bool = False) -> str | None:
    """What a text says is its answer; None if it does not.

    In this order: what stands last between answer tags, in the last `\\boxed{}`, after the last `####`, or after the last
    "answer is"; and if `anywhere`, the last number.
    """
    inside = between(text)
    if inside is not None:
        return boxed(inside) or inside.rpartition("####")[2].strip() or None
    found = boxed(text)
    if found is None and "####" in text:
        found = text.rpartition("####")[2].strip().partition("\n")[0]
    if found is None and (phrases := list(PHRASE.finditer(text))):
        found = SENTENCE.split(text[phrases[-1].end() :].partition("\n")[0])[0]
    if found is None and anywhere and (numbers := LAST.findall(text)):
        found = numbers[-1]
    return (found or "").strip() or None


def boxed(text: str) -> str | None:
    """What stands in the last `\\boxed{}` or `\\fbox{}` that is not empty, with braces in pairs."""
    starts = [m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{(?!\s*\})", text)]
    if not starts:
        return None
    depth, start = 1, starts[-1]
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place].strip() or None
    return None


def plain(answer: str) -> str:
    """An answer without what makes no difference: dollar signs, spacing and sizes in LaTeX, degrees, percents, a full stop."""
    answer = re.sub(
        r"\\text(?:bf|rm|it)?\s*\{([^{}]*)\}|\\mathrm\s*\{([^{}]*)\}|\\mbox\s*\{([^{}]*)\}", r" \1\2\3", answer
    )
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = re.sub(r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}", answer)
    answer = re.sub(r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{", answer)
    answer = re.sub(r"\\(?:left|right|displaystyle|[!,;: ])", "", answer.replace("{,}", ","))
    answer = re.sub(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\%|%|\\\$|\$|€|£|\\\(|\\\)|\\\[|\\\]", "", answer)
    answer = re.sub(r"(?<![\w)}])\*\*|\*\*(?![\w(\\])", "", answer)  # bold; between two numbers it is a power
    return answer.replace("−", "-").replace("~", " ").strip("*` \t\n").rstrip(".").strip("*` \t\n")


def read_number(answer: str) -> Fraction | None:
    """The exact value of an answer that is one number, perhaps with a unit or as `x = 5`; None if it is anything else.

    Integers, decimals, fractions, mixed numbers, powers of ten and commas between thousands are read. 50% is 50. What is beside a
    number may be words but none that makes it another, as in `5 squared`, and no variables, as in `5xy`.
    """
    if len(answer) > LONGEST:
        return None
    text = NEGATIVE.sub("-", re.sub(r"^\s*\\?[a-zA-Z]\w*\s*=", "", plain(answer)).strip())
    found = NUMBER.search(text)
    if found is None:
        return None
    before, after = text[: found.start()].split(), text[found.end() :]
    if text[: found.start()][-1:].isalnum() or not all(WORDS.fullmatch(word.rstrip(":,")) for word in before):
        return None
    if not all(WORDS.fullmatch(word.strip(",;:()")) or word in ".," for word in after.split()):
        return None
    attached = re.match("[a-zA-Z]*", after)[0].lower()  # type: ignore[index]
    if 0 < len(attached) <= 3 and attached not in ATTACHED:
        return None
    if not ALTERING.isdisjoint(word.strip(",;:().").lower() for word in (*before, *after.split())):
        return None
    parts = found.groupdict()
    if parts["power"] and abs(int(parts["power"])) > EXPONENT:
        return None
    if parts["whole"] and parts["decimal"]:  # two numbers in a row
        return None
    top = _exact(parts["top"] or parts["over"] or parts["decimal"])
    bottom = _exact(parts["bottom"] or parts["under"] or "1")
    if not bottom:
        return None
    value = top / bottom * Fraction(10) ** int(parts["power"] or 0) + _exact(parts["whole"] or "0")
    return -value if parts["sign"] == "-" else value


def _exact(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").rstrip(".") or "0")


def same(a: str, b: str) -> bool:
    """Whether two answers are equal: as numbers exactly, in lists and intervals one by one, and else letter by letter."""
    x, y = read_number(a), read_number(b)
    if x is not None and y is not None:
        return x == y
    a, b = (re.sub(r"^\\?[a-zA-Z]\w*\s*=", "", plain(text)).strip() for text in (a, b))
    (brackets, first), (others, second) = _parts(a), _parts(b)
    if len(first) > 1 and len(first) == len(second) and brackets == others:
        return all(same(x, y) for x, y in zip(first, second))
    return "".join(a.split()) == "".join(b.split())


def _parts(answer: str) -> tuple[str, list[str]]:
    """The brackets around a list, and what stands between its commas, but for those within further brackets."""
    brackets = ""
    if answer[:1] in ("(", "[") and answer[-1:] in (")", "]"):
        brackets, answer = answer[0] + answer[-1], answer[1:-1]
    depth, parts = 0, [""]
    for letter in answer:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return brackets, [part.strip() for part in parts]


def number(text: str, row: Mapping[str, Any], anywhere: bool = False) -> Verdict:
    """Whether a text's final answer is the row's `answer`.

    No final answer is unparseable, and so is one without any digit where a number is sought.
    """
    sought, found = str(row["answer"]), final_answer(text, anywhere)
    if found is None or len(found) > LONGEST:
        return unparseable("there is no final answer")
    if same(found, sought):
        return RIGHT
    if read_number(sought) is not None and not any(letter.isdigit() for letter in found):
        return unparseable(f"{found[:20]!r} has no number")
    return wrong(f"{found[:20]!r} is not {sought}")


def level(text: str, row: Mapping[str, Any], anywhere: bool = False, tags: bool = True) -> int:
    """TRPA's levels for mathematics: 1 right, 2 wrong, 3 no answer to be read, and 4 tags amiss where `tags` are asked for."""
    if tags and not tags_in_order(text):
        return 4
    return {"right": 1, "wrong": 2, "unparseable": 3}[number(text, row, anywhere).status]
