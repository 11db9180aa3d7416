"""Start-up times and the memory of a million-step replay buffer.

    python benchmarks/startup.py

Writes results/speed-startup.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7

# Fills SAC's default buffer with steps of HalfCheetah-v5's sizes, updates a few times, saves a checkpoint.
MEMORY = """
import resource, tempfile, torch
import palaestra as pal
from palaestra.core.experience import Experience
from palaestra.runs import checkpoint
from pathlib import Path

base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
method = pal.SAC(warmup_steps=10).bind(pal.EnvTask("HalfCheetah-v5"), 0, pal.Budget(steps=1_000_000))
for _ in range(50):
    method.step()
ready = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 10_000
for _ in range(100):
    method.replay.add(Experience(
        obs=torch.randn(rows, 17), action=torch.randn(rows, 6), reward=torch.randn(rows), next_obs=torch.randn(rows, 17),
        terminated=torch.zeros(rows), truncated=torch.zeros(rows)))
for _ in range(5):
    method.step()
with tempfile.TemporaryDirectory() as folder:
    checkpoint.save(Path(folder), 1, {"method": method.state_dict()}, {})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arrays = sum(t.nbytes for _, t in method.replay.storage.items()) / 1024
print(arrays / 1024, (peak - ready) / 1024, peak / 1024)
"""


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def median(command: list[str]) -> float:
    return statistics.median(seconds(command) for _ in range(ROUNDS))


def main() -> None:
    python = sys.executable
    imports = "import time, torch; a = time.perf_counter(); import palaestra; print(time.perf_counter() - a)"
    extra = [
        float(subprocess.run([python, "-c", imports], check=True, capture_output=True, text=True).stdout)
        for _ in range(ROUNDS)
    ]
    memory = subprocess.run([python, "-c", MEMORY], check=True, capture_output=True, text=True).stdout.split()
    arrays, grown, peak = map(float, memory)
    result = {
        "command": "python benchmarks/startup.py",
        "import_torch_seconds": median([python, "-c", "import torch"]),
        "import_palaestra_after_torch_seconds": statistics.median(extra),
        "palaestra_methods_seconds": median([python, "-m", "palaestra", "methods"]),
        "replay_arrays_mib": arrays,
        "peak_growth_with_full_buffer_and_checkpoint_mib": grown,
        "peak_over_arrays": grown / arrays,
        "peak_rss_mib": peak,
    }
    out = Path(__file__).parent.parent / "results" / "speed-startup.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
