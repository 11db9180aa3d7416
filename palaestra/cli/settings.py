"""Command-line flags made from dataclasses, and text read as the type of a field.

Plain argparse: a method's settings are some twenty flat fields, for which a generator of command lines would cost more
start-up time than the hundred lines below.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from palaestra.core.errors import BadSetting, PalaestraError, unknown
from palaestra.core.hints import alternatives, described

NUMBER = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are palaestra's: one line, with the nearest name for an unknown flag."""

    def __init__(self, prog: str, description: str, **kwargs: Any):
        super().__init__(
            f"palaestra {prog}",
            description=description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )
        self._negative_number_matcher = NUMBER  # argparse's own takes -1e-3 for a flag

    def read(self, arguments: list[str]) -> dict[str, Any]:
        """What was given, by name; flags may be spelt with `-` or `_`."""
        words = [_hyphened(argument) for argument in arguments]
        given, extra = self.parse_known_args(words)
        if extra:
            name = extra[0].partition("=")[0]
            if name.startswith("--"):
                raise unknown("option", name, self._known(name))
            raise PalaestraError(f"'{name}' was not expected{_place(extra[0], words)}; see {self.prog} --help")
        return vars(given)

    def error(self, message: str) -> NoReturn:
        raise PalaestraError(f"{message}; see {self.prog} --help")

    def _known(self, name: str) -> list[str]:
        """The options that `name` may have been meant to be: those with the same prefix, if it has one."""
        prefix = name.rpartition(".")[0] + "."
        options = [option for option in self._option_string_actions if option.startswith("--")]
        return [option for option in options if option.startswith(prefix)] or options


def add_settings(parser: Parser, cls: type, prefix: str, title: str) -> None:
    """A flag `--<prefix>.<field>` for every setting of a method's class."""
    group = parser.add_argument_group(title)
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    for field in _settings(cls):
        group.add_argument(
            f"--{prefix}.{_flag(field.name)}",
            dest=f"{prefix}.{field.name}",
            **_arity(hints[field.name]),
            metavar=_metavar(hints[field.name]),
            help=_help(docs.get(field.name, ""), field),
        )


def add_options(parser: Parser, cls: type, title: str) -> None:
    """A flag `--<field>` for every field of a dataclass of options; a truth value has `--no-<field>` too."""
    group = parser.add_argument_group(title)
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    for field in _settings(cls):
        text = _help(docs.get(field.name, ""), field)
        flag = f"--{_flag(field.name)}"
        if bool in alternatives(hints[field.name]):
            flags = [flag] if field.default is False else [flag, f"--no-{_flag(field.name)}"]
            group.add_argument(*flags, dest=field.name, action=_Switch, help=text)
        else:
            group.add_argument(flag, dest=field.name, metavar=_metavar(hints[field.name]), help=text)


def settings_from(given: Mapping[str, Any], cls: type, prefix: str = "") -> dict[str, Any]:
    """The fields of `cls` among what was given as text (or as the values of a YAML file), each read as its type."""
    hints = typing.get_type_hints(cls)
    found = {}
    for field in _settings(cls):
        name = f"{prefix}{field.name}"
        if name in given:
            value = given[name]
            texts = [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
            found[field.name] = read_value(
                texts, hints[field.name], f"--{prefix}{_flag(field.name)}" if prefix else name
            )
    return found


def read_value(texts: Sequence[str], hint: Any, name: str) -> Any:
    """Text as a value of type `hint`; a whole number may be written 1e6, a tuple with spaces or commas."""
    for kind in alternatives(hint):
        try:
            return _read(texts, kind)
        except ValueError:
            continue
    raise BadSetting(f"{name} takes {described(hint)}, got '{' '.join(texts)}'")


def read_number(text: str | None, kind: type, name: str) -> Any:
    """A flag's text as a number, None where it was not given."""
    return None if text is None else read_value([text], kind, name)


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # a class of a notebook or REPL
            continue
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for field, doc in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[typing.cast(ast.Name, field.target).id] = " ".join(str(doc.value.value).split())
    return docs


class _Switch(argparse.Action):
    """A flag without a value: true, or false if spelt with `no-`."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def _settings(cls: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _hyphened(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    prefix, dot, name = flag.rpartition(".")  # a prefix may be the name of a user's class
    return f"{prefix}{dot}{name.replace('_', '-')}{equals}{value}"


def _place(extra: str, words: list[str]) -> str:
    """After which option a word too many stands, if it is after any; what follows an option at once may be its own."""
    places = [i for i, word in enumerate(words) if word == extra]
    place = next((i for i in places if not words[i - 1].startswith("--")), places[0])
    options = [word.partition("=")[0] for word in words[:place] if word.startswith("--")]
    return f" after {options[-1]}" if options else ""


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _read(texts: Sequence[str], kind: Any) -> Any:
    """One alternative of a type; ValueError if the text is not of it."""
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        return tuple(_read([part], element) for text in texts for part in text.split(",") if part)
    if len(texts) != 1:
        raise ValueError
    text = texts[0]
    if kind is type(None) or kind is bool:
        words = {"none": None} if kind is type(None) else {"true": True, "false": False}
        if text.lower() not in words:
            raise ValueError
        return words[text.lower()]
    if kind is int:
        number = float(text)
        if not number.is_integer():
            raise ValueError
        return int(number)
    if kind is float or kind is str:
        return kind(text)
    if typing.get_origin(kind) is typing.Literal:
        named = {str(choice): choice for choice in typing.get_args(kind)}
        if text not in named:
            raise ValueError
        return named[text]
    raise ValueError  # a type that only Python can give, such as a function


def _arity(hint: Any) -> dict[str, str]:
    """How many words a flag takes: a tuple several, a truth value none or one."""
    kinds = alternatives(hint)
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return {"nargs": "+"}
    return {"nargs": "?", "const": "true"} if bool in kinds else {}


def _metavar(hint: Any) -> str:
    names = {int: "N", float: "X", str: "NAME", bool: "true|false", type(None): "none"}
    shown = []
    for kind in reversed(alternatives(hint)):
        if typing.get_origin(kind) is typing.Literal:
            shown += [str(choice) for choice in typing.get_args(kind)]
        else:
            shown.append(names.get(typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind, "X"))
    return "|".join(dict.fromkeys(shown))


def _help(doc: str, field: dataclasses.Field[Any]) -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
    return f"{doc} [{shown}]".strip().replace("%", "%%")
