"""Finding files that the library does not ship."""

from __future__ import annotations

import pytest

from palaestra.core.errors import BadDataset
from palaestra.data.real import real_data


def test_the_folder_in_the_environment_comes_first_then_the_shared_one(tmp_path, monkeypatch):
    (tmp_path / "work" / "repository").mkdir(parents=True)
    (tmp_path / "work" / "shared" / "data").mkdir(parents=True)
    (tmp_path / "work" / "shared" / "data" / "corpus-of-this-test").write_text("shared")
    monkeypatch.chdir(tmp_path / "work" / "repository")
    monkeypatch.delenv("PALAESTRA_DATA", raising=False)
    assert real_data("corpus-of-this-test").read_text() == "shared"
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path))
    assert real_data("corpus-of-this-test").read_text() == "shared"
    (tmp_path / "corpus-of-this-test").write_text("own")
    assert real_data("corpus-of-this-test").read_text() == "own"


def test_what_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path))
    with pytest.raises(BadDataset, match=r"no-such-corpus.*PALAESTRA_DATA"):
        real_data("no-such-corpus")
