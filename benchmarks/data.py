"""How fast datasets open and are sampled: a Minari dataset of a million steps, and files larger than what was touched before.

    python benchmarks/data.py [--large 20000000] [--folder DIR]

Every figure is from a process of its own, on one thread; "cpu" is processor time, which a busy machine does not lengthen, and
batches per second are of both kinds. Needs the extra `offline` and, for 20 million steps, 4 GB of disk. Writes
results/data-speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

EPISODES, LENGTH = 1000, 1000
WIDTHS = {"obs": 17, "action": 6}
"""Of HalfCheetah."""
ID, BATCH, ROUNDS = "bench/cheetah-v0", 256, 5


def make(rows: int) -> dict[str, float]:
    """Write a million steps as Minari keeps them, with three numbers of infos a step."""
    import gymnasium as gym
    import minari
    import numpy as np
    from minari.data_collector.episode_buffer import EpisodeBuffer

    rng = np.random.default_rng(0)

    def episodes() -> Iterator[Any]:
        for _ in range(EPISODES):
            truncations = [False] * (LENGTH - 1) + [True]
            yield EpisodeBuffer(
                observations=rng.standard_normal((LENGTH + 1, WIDTHS["obs"])),
                actions=rng.uniform(-1, 1, (LENGTH, WIDTHS["action"])).astype(np.float32),
                rewards=rng.standard_normal(LENGTH).tolist(),
                terminations=[False] * LENGTH,
                truncations=truncations,
                infos={name: rng.standard_normal(LENGTH + 1) for name in ("x_position", "x_velocity", "reward_ctrl")},
            )

    warnings.simplefilter("ignore")
    spaces = {
        "observation_space": gym.spaces.Box(-np.inf, np.inf, (WIDTHS["obs"],), np.float64),
        "action_space": gym.spaces.Box(-1, 1, (WIDTHS["action"],), np.float32),
    }
    minari.create_dataset_from_buffers(ID, list(episodes()), **spaces)
    return {}


def iterate(rows: int) -> dict[str, float]:
    """Minari's own pass over all episodes, for comparison."""
    import minari

    began, cpu = perf_counter(), process_time()
    steps = sum(len(episode.rewards) for episode in minari.load_dataset(ID).iterate_episodes())
    assert steps == EPISODES * LENGTH
    return {"seconds": perf_counter() - began, "cpu": process_time() - cpu}


def load(rows: int) -> dict[str, float]:
    """Open it: the first time it is converted."""
    import palaestra as pal

    _ = pal.Dataset, pal.EnvTask  # imported before the clock starts
    began, cpu = perf_counter(), process_time()
    dataset = pal.load_dataset(f"minari:{ID}")
    assert len(dataset) == EPISODES * LENGTH
    return {"seconds": perf_counter() - began, "cpu": process_time() - cpu}


def sample(rows: int) -> dict[str, float]:
    """Batches a second from a dataset that was just opened, uniformly and by returns."""
    import palaestra as pal
    from palaestra.core.seeding import Streams
    from palaestra.data.sampling import Sampler, weights

    dataset = pal.load_dataset(f"minari:{ID}")
    found = speed("first", Sampler(dataset, Streams(0)), 1000) | speed("uniform", Sampler(dataset, Streams(1)), 10_000)
    return found | speed("rw", Sampler(dataset, Streams(2), weights(dataset, "rw")), 10_000)


def make_large(rows: int) -> dict[str, float]:
    """Write a dataset of `rows` steps without ever holding it."""
    import gymnasium as gym
    import numpy as np
    import torch

    from palaestra.core.experience import Experience
    from palaestra.data.dataset import write_dataset
    from palaestra.data.load import stored_folder

    ends = torch.zeros(LENGTH)
    ends[-1] = 1.0
    obs, action = torch.randn(LENGTH + 1, WIDTHS["obs"]), torch.rand(LENGTH, WIDTHS["action"])
    columns = {"obs": obs[:-1], "next_obs": obs[1:], "action": action, "reward": torch.randn(LENGTH)}
    episode = Experience(**columns, terminated=0 * ends, truncated=ends)
    about = {
        "name": "large",
        "observation_space": gym.spaces.Box(-np.inf, np.inf, (WIDTHS["obs"],), np.float32),
        "action_space": gym.spaces.Box(-1, 1, (WIDTHS["action"],), np.float32),
    }
    began = perf_counter()
    write_dataset(stored_folder("large"), rows, (episode for _ in range(rows // LENGTH)), **about)
    return {"seconds": perf_counter() - began}


def sample_large(rows: int) -> dict[str, float]:
    """Batches a second from files that the system was told to forget, at first and later."""
    import palaestra as pal
    from palaestra.core.seeding import Streams
    from palaestra.data.load import stored_folder
    from palaestra.data.sampling import Sampler

    for path in stored_folder("large").glob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = perf_counter()
    dataset = pal.load_dataset("large")
    opened = perf_counter() - began
    sampler = Sampler(dataset, Streams(0))
    found = {"bytes": sum(path.stat().st_size for path in stored_folder("large").glob("*.npy")), "open_seconds": opened}
    found |= speed("first", sampler, 500)
    for _ in range(9):
        found |= speed("later", sampler, 1000)
    return found


def speed(name: str, sampler: Any, batches: int) -> dict[str, float]:
    """Batches a second, by the clock and by the processor's time."""
    began, cpu = perf_counter(), process_time()
    for _ in range(batches):
        sampler.sample(BATCH)
    return {name: batches / (perf_counter() - began), f"{name}_cpu": batches / (process_time() - cpu)}


def alone(part: str, folder: Path, rows: int) -> dict[str, float]:
    """One of the above in a process of its own."""
    env = {"PALAESTRA_DATA": folder / "data", "MINARI_DATASETS_PATH": folder / "minari", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--part", part, "--large", str(rows)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
    return json.loads(done.stdout)


def main(folder: Path, rows: int) -> None:
    alone("make", folder, rows)
    minari = alone("iterate", folder, rows)
    first = alone("load", folder, rows)
    again = [alone("load", folder, rows) for _ in range(ROUNDS)]
    sampled = [alone("sample", folder, rows) for _ in range(ROUNDS)]
    alone("make_large", folder, rows)
    large = alone("sample_large", folder, rows)
    result = {
        "command": "python benchmarks/data.py",
        "steps": EPISODES * LENGTH,
        "minari_iterate": minari,
        "convert_and_open": first,
        "open": {key: statistics.median(o[key] for o in again) for key in first},
        "batch": BATCH,
        "batches_per_second": {key: statistics.median(s[key] for s in sampled) for key in sampled[0]},
        "large": {"steps": rows, **large},
    }
    out = Path(__file__).parent.parent / "results" / "data-speed.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["make", "iterate", "load", "sample", "make_large", "sample_large"])
    parser.add_argument("--large", type=lambda text: int(float(text)), default=20_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.part:
        print(json.dumps(globals()[given.part](given.large)))
    elif given.folder:
        main(given.folder, given.large)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch), given.large)
