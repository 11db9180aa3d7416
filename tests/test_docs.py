"""Documentation names what there is: every method has its page and rows, and what the README says to type is understood."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

import palaestra as pal
from palaestra.cli import main as cli
from palaestra.core import registry
from palaestra.objectives.answers import losses

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEADINGS = ["What it is", "Equations", "What differs from the released code", "When to use it", "Settings", "Results"]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language; '' is a block of commands."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line for path in PAGES for block in blocks(path, "") for line in block.splitlines()]
    return sorted({line.partition("  #")[0].strip() for line in lines if line.startswith("palaestra ")})


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_method_has_a_page_with_the_usual_headings(name):
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == HEADINGS


@pytest.mark.parametrize("page", ["README.md", "docs/methods/index.md"])
def test_every_method_is_in_the_table_under_its_arxiv_number(page):
    rows = {row.split("|")[1].strip(): row for row in (ROOT / page).read_text().splitlines() if row.startswith("| ")}
    for name in registry.METHODS:
        row = next(row for cell, row in rows.items() if f"`{name}`" in cell)
        arxiv = registry.method_class(name).paper.arxiv
        assert arxiv is None or f"https://arxiv.org/abs/{arxiv}" in row


def test_the_table_of_losses_is_what_the_losses_declare():
    spec = importlib.util.spec_from_file_location("losses", ROOT / "docs" / "losses.py")
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    text = written.PAGE.read_text()
    assert text == written.page(text), "python docs/losses.py writes it"
    rows = written.table().splitlines()
    assert len(rows) == 2 + len(losses()) and {row.count("|") for row in rows} == {8}


def test_the_site_leads_to_every_page():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = set(re.findall(r"[\w/-]+\.md", str(nav)))
    assert {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} <= listed


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_is_understood(command, monkeypatch, capsys, tmp_path):
    """Options are read and checked, up to where work would begin."""
    monkeypatch.setenv("HOME", str(tmp_path))  # whose datasets may have the names that the text gives to new ones
    monkeypatch.setattr(pal.Run, "train", stop)
    for place in (
        "runs.compare.compare",
        "claims.reproduce.reproduce",
        "runs.record.load_records",
        "envs.checker.check_env",
        "data.behaviour.play",
        "data.make.play",
    ):
        monkeypatch.setattr(f"palaestra.{place}", stop)
    for place in ("train.from_folder", "evaluate._subject", "explain._run", "explain._model"):
        monkeypatch.setattr(f"palaestra.cli.{place}", stop)
    command = command.replace("examples/", f"{ROOT}/examples/")
    try:
        code = cli.main(shlex.split(command)[1:])
    except Begun:
        code = 0
    said = capsys.readouterr().err
    excused = "there is no file" in said or "more packages" in said  # files that the text invites the reader to write
    assert code == 0 or excused, said


class Begun(BaseException):
    pass


def stop(*given, **options):
    raise Begun


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_the_documentation_compiles(path):
    for block in blocks(path, "python"):
        compile(block, str(path), "exec")


def test_links_between_files_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
            made = target in ("cli.md", "results.md")  # pages that building the site makes
            assert made or (path.parent / target).exists(), f"{path.name}: {target}"
