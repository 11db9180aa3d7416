"""The page that goes from published pairs to an aligned model: its commands, with few pairs of our own and tiny budgets."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from palaestra.cli.main import main
from palaestra.core.errors import BadDataset
from palaestra.data.real import real_data

try:
    STORIES: Path | None = real_data("stories260K")
except BadDataset:
    STORIES = None
PAGE = (Path(__file__).parent.parent / "docs" / "alignment.md").read_text()
SMALL = {
    "--updates": "2",
    "--episodes": "4",
    "--evaluate-episodes": "4",
    "--method.prompts": "2",
    "--method.batch-size": "2",
}


def blocks() -> list[tuple[str, str]]:
    """The language and the text of what is to be typed."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in ("sh", "python")]


@pytest.fixture
def published(tmp_path, monkeypatch) -> None:
    """A folder with a few pairs in the form of those that were published, and the story writer."""
    assert STORIES is not None
    folder = tmp_path / "data" / "hh-rlhf"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "stories260K").symlink_to(STORIES)
    asked = [f"\n\nHuman: How do I bake {i} cakes?\n\nAssistant:" for i in range(40)]
    rows = [{"chosen": f"{text} With flour.", "rejected": f"{text} No."} for text in asked]
    with gzip.open(folder / "harmless-base-test.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "data"))


@pytest.mark.skipif(STORIES is None, reason="stories260K is not here")
def test_the_page_goes_from_pairs_to_an_aligned_model(published, capsys):
    variables: dict[str, str] = {}
    for language, block in blocks():
        if language == "python":
            name = re.match(r"# (\w+\.py)\n", block)
            if name:
                Path(name[1]).write_text(block)
            else:
                small = block.replace("prompts=200", "prompts=4").replace("rows[19]", "rows[0]")
                exec(compile(small, "docs/alignment.md", "exec"), {})
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if given := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[given[1]] = given[2]
            elif line.startswith("palaestra "):
                for name_, value in variables.items():
                    line = line.replace(f"${name_}", value)
                words = shlex.split(line)[1:]
                assert main([SMALL.get(before, word) for before, word in zip(["", *words], words)]) == 0, line
    said = capsys.readouterr().out
    assert "pairs to learn from" in said and "calibration_error" in said
    assert re.search(r"aligned: -?\d+\.\d+ by the first model, -?\d+\.\d+ by the second; \d+ tokens", said)
