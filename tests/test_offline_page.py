"""The page that goes from a table of logs to a policy in use: its commands, in an empty folder, with tiny budgets."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from palaestra.cli.main import main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "offline.md").read_text()
SMALL = {"--updates": "4", "--seeds": "1", "--episodes": "1", "--evaluate-every": "0"}
REFUSED = ("palaestra data check logs.csv",)
"""Commands that the page shows a problem with."""


def blocks() -> list[tuple[str, str]]:
    """The language and the text of what is to be typed."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in ("sh", "python")]


def small(command: str) -> list[str]:
    words = shlex.split(command)
    return [SMALL.get(before, word) for before, word in zip(["", *words], words)]


def test_the_page_goes_from_a_table_to_a_policy_in_use(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "kept"))
    for language, block in blocks():
        if language == "python":
            exec(compile(block.replace("3_000", "4"), "docs/offline.md", "exec"), {})
            continue
        for command in block.splitlines():
            if command.startswith("python "):
                subprocess.run(
                    [sys.executable, *shlex.split(command.replace("examples/", f"{ROOT}/examples/"))[1:]], check=True
                )
            elif command.startswith("palaestra "):
                assert main(small(command)[1:]) == (command in REFUSED), command
    said = capsys.readouterr().out
    for line in (
        "- actions reach from -2 to 2, and what their limits are is unknown",
        "nothing wrong was found",
        "−938",
    ):
        assert line in said
    assert re.search(r"aw: \d\.\d\d on all, \d\.\d\d on the best two", said)
    assert Path("swing.onnx").exists()


def test_what_the_page_says_was_refused_is_what_is_refused():
    source = "".join(path.read_text() for path in (ROOT / "palaestra" / "data").glob("*.py"))
    for part in ("is missing", "goes from step", "columns are separated by", "and none later", "actions are outside"):
        assert part in PAGE and part in source
