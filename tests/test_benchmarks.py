"""What benchmarks write down, with nothing measured."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import language, preferences


@pytest.mark.parametrize("benchmark", [language, preferences])
def test_each_measure_says_what_it_is_of_and_the_others_stay_as_they_were(benchmark, tmp_path, monkeypatch):
    (name, _), (other, _), *_ = benchmark.MEASURES.items()
    old = {"seconds": {"palaestra": [2.0], "trl": [3.0]}, "ratio": 1.5}
    file = tmp_path / "speed.json"
    file.write_text(json.dumps({"command": "python old.py", "threads": 2, "measures": {other: old, name: old}}))
    monkeypatch.setattr(language, "run", lambda script, python, measure, library, threads: 1.0)
    monkeypatch.setattr(sys, "argv", ["x", "--measures", name, "--rounds", "2", "--threads", "1", "--out", str(file)])
    language.compared(["benchmarks/x.py"], benchmark.MEASURES, benchmark.work, "x.json", None)
    found = json.loads(file.read_text())["measures"]
    assert found[other] == old
    assert found[name]["ratio"] == 1.0 and found[name]["command"].startswith(
        f"python benchmarks/x.py --measures {name}"
    )
    assert {"commit", "machine", "torch"} <= set(found[name]["versions"])
