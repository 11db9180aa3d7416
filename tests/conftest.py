"""Every test runs with one thread and in a folder of its own, and takes as long as the machine lets it.

Properties are tried on the same examples every time; `--hypothesis-profile search` looks for others.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeated", derandomize=True, **PATIENT)
settings.register_profile("search", **PATIENT)
settings.load_profile("repeated")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
