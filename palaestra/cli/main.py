"""The command line: a table of commands, and errors as one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, NamedTuple

from palaestra.core import registry
from palaestra.core.errors import Diverged, PalaestraError, unknown
from palaestra.core.world import started
from palaestra.version import __version__

BAD_INPUT, DIVERGED, UNEXPECTED, INTERRUPTED = 2, 3, 1, 130
"""Exit codes besides 0, and 1 for a claim that does not hold or a run that failed."""

OF_LANGUAGE = ("transformers", "tokenizers", "peft", "datasets")
"""Packages that only language models need."""


class Command(NamedTuple):
    """A command, imported only when it is called: `run(arguments)` returns the exit code."""

    where: str
    does: str

    def run(self, arguments: list[str]) -> int:
        function: Callable[[list[str]], int] = registry.locate(f"palaestra.cli.{self.where}")
        return function(arguments)


COMMANDS = {
    "methods": Command("listing:methods", "the methods there are: paper, family, actions, cost"),
    "tasks": Command("listing:tasks", "the tasks there are, and the methods that fit them"),
    "train": Command("train:train", "train one method on one task"),
    "evaluate": Command("evaluate:evaluate", "play episodes with the policy of a run, or score a language model"),
    "explain": Command("explain:explain", "draw what each token of an answer is worth to a language model's policy"),
    "compare": Command("compare:compare", "train several methods with several seeds, then the table and the report"),
    "data": Command("data:data", "make, import, inspect and export logged data"),
    "report": Command("compare:report", "make the HTML report of some runs"),
    "claims": Command("claims:claims", "the papers' claims there are, and what each costs"),
    "reproduce": Command("claims:reproduce", "run a paper's claim; exit code 0 only if it holds"),
    "study": Command("claims:study", "train a grid of data, algorithms, reward models and prompts, then its table"),
    "check": Command("claims:check", "say in words what is wrong with an environment"),
    "demo": Command("demo:demo", "three papers' methods side by side in about five minutes"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code; a traceback is shown only if PALAESTRA_DEBUG is set."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = bool(os.environ.get("PALAESTRA_DEBUG"))
    speaks = started() == 1 or os.environ["RANK"] == "0"  # the first process, for all
    try:
        with redirect_stdout(sys.stdout if speaks else None), warnings.catch_warnings():
            if not debug:
                warnings.showwarning = _Warnings()
            return _dispatch(arguments)
    except SystemExit as end:  # argparse after --help
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PalaestraError as error:
        if debug:
            raise
        print(f"palaestra: {_one_line(error)}", file=sys.stderr)
        return DIVERGED if isinstance(error, Diverged) else BAD_INPUT
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name in OF_LANGUAGE:
            print("palaestra: language models need more packages: pip install 'palaestra[language]'", file=sys.stderr)
            return BAD_INPUT
        sentence = f"unexpected {type(error).__name__}: {_one_line(error)}"
        print(f"palaestra: {sentence} (PALAESTRA_DEBUG=1 shows where)", file=sys.stderr)
        return UNEXPECTED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(f"palaestra {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    return COMMANDS[name].run(rest)


def _help() -> str:
    rows = [f"  {name:<10} {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "palaestra: train, compare and reproduce policy-learning methods\n",
            "  palaestra train sac --task HalfCheetah-v5 --steps 1e6",
            "  palaestra compare sac dsac-t ppo --task Hopper-v5 --seeds 5 --steps 3e5\n",
            "commands (each with --help):",
            *rows,
        ]
    )


class _Warnings:
    """Warnings as a line each, without the place in the code that they come from; what is said again is left out."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        sentence = _one_line(message)
        if sentence not in self.said:
            self.said.add(sentence)
            print(f"warning: {sentence}", file=sys.stderr)


def _one_line(error: BaseException | str) -> str:
    """What an error or a warning says, without what a name from somebody else's file could do to a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(error).split()))


if __name__ == "__main__":
    sys.exit(main())
