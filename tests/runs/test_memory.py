"""A replay buffer of a million steps needs what its arrays need, also while it is saved and resumed."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
import palaestra as pal
from palaestra.core.experience import Experience
from palaestra.runs import checkpoint

def memory(what):
    # Of this process alone: getrusage would count what the parent had in use before it started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

method = pal.SAC(warmup_steps=100, buffer_size=1_000_000).bind(pal.EnvTask("HalfCheetah-v5"), 0, pal.Budget(steps=10_000))
if sys.argv[1] == "save":
    for _ in range(105):
        method.step()
    before = memory("VmRSS")
    for _ in range(100):
        obs, flag = torch.randn(10_000, 17), torch.zeros(10_000)
        method.replay.add(Experience(obs=obs, next_obs=obs, action=obs[:, :6], reward=flag, terminated=flag, truncated=flag))
    method.step()
    checkpoint.save(Path("checkpoints"), 1, {"method": method.state_dict()}, {})
else:
    before = memory("VmRSS")
    state, _ = checkpoint.load(Path("checkpoints/000000000001"))
    method.load_state_dict(state["method"])
assert len(method.replay) == 1_000_000
arrays = sum(value.nbytes for _, value in method.replay.storage.items())
print((memory("VmHWM") - before) / arrays)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_saving_and_resuming_a_million_steps_stays_within_a_fifth_of_the_arrays():
    for act in ("save", "load"):
        done = subprocess.run([sys.executable, "-c", SCRIPT, act], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert 0.9 < float(done.stdout) < 1.2, act
