"""Text is read as the type of the setting it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from palaestra.cli.settings import Parser, add_options, add_settings, field_docs, read_value, settings_from
from palaestra.core.errors import BadSetting


@dataclass
class Base:
    size: int = 3
    """How large."""


@dataclass
class Config(Base):
    rate: float | None = None
    """How fast,
    in metres."""
    shape: tuple[int, ...] = (2, 2)
    """Of it."""
    bounds: tuple[float, float] | None = None
    on: bool = True
    """Whether."""
    mode: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("texts", "hint", "value"),
    [
        (["1e6"], int, 1_000_000),
        (["3e-4"], float, 3e-4),
        (["-1e-3"], float, -1e-3),
        (["None"], float | None, None),
        (["0.5"], float | None, 0.5),
        (["256", "128"], tuple[int, ...], (256, 128)),
        (["256,128"], tuple[int, ...], (256, 128)),
        (["-5", "2"], tuple[float, float] | None, (-5.0, 2.0)),
        (["False"], bool, False),
        (["b"], Literal["a", "b"], "b"),
    ],
)
def test_text_becomes_a_value_of_the_type(texts, hint, value):
    found = read_value(texts, hint, "it")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("texts", "hint", "says"),
    [
        (["1.5"], int, "takes a whole number, got '1.5'"),
        (["maybe"], bool, "takes true or false"),
        (["x"], float | None, "takes a number or none"),
        (["inf"], int, "takes a whole number, got 'inf'"),
        (["c"], Literal["a", "b"], "takes a or b"),
        (["1", "2"], int, "takes a whole number"),
        (["1", "x"], tuple[int, ...], "takes whole numbers"),
    ],
)
def test_text_of_another_type_is_refused_in_words(texts, hint, says):
    with pytest.raises(BadSetting, match=says):
        read_value(texts, hint, "it")


def test_docstrings_of_fields_are_found_in_bases_too():
    assert field_docs(Config) == {
        "size": "How large.",
        "rate": "How fast, in metres.",
        "shape": "Of it.",
        "on": "Whether.",
    }


def test_only_what_was_given_is_returned():
    parser = Parser("x", "y")
    add_settings(parser, Config, "m", "settings")
    given = parser.read(["--m.shape", "4", "5", "--m.on", "false", "--m.rate=-2e-1"])
    assert settings_from(given, Config, "m.") == {"shape": (4, 5), "on": False, "rate": -0.2}


def test_an_option_that_is_on_can_be_switched_off():
    parser = Parser("x", "y")
    add_options(parser, Config, "options")
    assert settings_from(parser.read(["--no-on"]), Config) == {"on": False}
