"""Minari's datasets in and out.

Minari keeps an HDF5 group per episode, which nothing can draw single steps from at speed. So a dataset is converted once, when
it is first opened, into memory-mapped columns under `root()`, and again only after its files were written.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from palaestra.core import spaces
from palaestra.core.errors import BadDataset, PalaestraError, Unsupported, require
from palaestra.core.experience import Experience, tree_map
from palaestra.data.dataset import Dataset, open_dataset, write_dataset
from palaestra.data.encoding import encode
from palaestra.data.load import cache_folder

COLUMNS = ("observations", "actions", "rewards", "terminations", "truncations")
MINE = "palaestra: "
"""Begins the description of a dataset that was written here."""


def read_minari(dataset_id: str, fetch: bool = True) -> Dataset:
    """A Minari dataset, downloaded by Minari if it is not on this machine, unless not to `fetch`.

    Raises:
        BadDataset: there is none of this id, or it cannot be learnt from.
    """
    data = local_path(dataset_id) / "data"
    if not data.exists():
        if not fetch:
            raise BadDataset(f"minari:{dataset_id} is not on this machine")
        _download(dataset_id)
    folder = cache_folder("minari", dataset_id, [path for path in data.rglob("*") if path.is_file()])
    if not (folder / "dataset.json").exists():
        _convert(data, folder, dataset_id)
    return open_dataset(folder)


def write_minari(dataset: Dataset, dataset_id: str) -> Path:
    """Write a dataset into Minari's folder, with its environment, references and origin; images without loss.

    Raises:
        BadSetting: there is one of this id already.
    """
    minari = _minari()
    from minari.data_collector.episode_buffer import EpisodeBuffer

    place = local_path(dataset_id)
    require(not place.exists(), f"there is a Minari dataset {dataset_id} already, in {place}; give another id")
    buffers = [EpisodeBuffer(id=i, **_decoded(dataset, part)) for i, part in enumerate(dataset.episodes())]
    known = {
        "observation_space": dataset.observation_space,
        "action_space": dataset.action_space,
        "env": _env_spec(dataset),
        "description": MINE + json.dumps({"name": dataset.name, "about": dataset.about}),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about authors and links, which a dataset need not have
            made = minari.create_dataset_from_buffers(dataset_id, buffers, jpeg_encoding=False, **known)
        if dataset.references is not None:
            low, high = dataset.references
            made.storage.update_metadata({"ref_min_score": low, "ref_max_score": high})
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, (ValueError, NotImplementedError)):
            raise BadDataset(f"Minari does not take {dataset.name} as {dataset_id}: {error}") from error
        raise
    return place


def local_path(dataset_id: str) -> Path:
    """Where Minari keeps a dataset: below `MINARI_DATASETS_PATH`, or `.minari/datasets` in the home directory."""
    home = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    require(
        re.fullmatch(r"(?:[\w-]+/)*[\w.-]+-v\d+", dataset_id) is not None,
        f"an id of Minari's is NAME-vN with folders before it, such as mujoco/hopper/medium-v0, got '{dataset_id}'",
    )
    return Path(home) / dataset_id


def _minari() -> Any:
    try:
        import minari
    except ImportError:
        raise PalaestraError("Minari datasets need minari: pip install 'palaestra[offline]'") from None
    return minari


def _download(dataset_id: str) -> None:
    minari = _minari()
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # whatever a server or a network may cause
        message = " ".join(str(error).split())[:300]
        raise BadDataset(
            f"there is no Minari dataset {dataset_id} in {local_path(dataset_id)}, and it cannot be downloaded: {message}"
        ) from error


def _convert(data: Path, folder: Path, dataset_id: str) -> None:
    _minari()
    from minari.dataset.minari_storage import MinariStorage

    try:
        storage = MinariStorage.read(data)
        metadata = storage.metadata
        notes: list[str] = []
        env, env_kwargs = _environment(metadata, notes)
        references = metadata.get("ref_min_score"), metadata.get("ref_max_score")
        write_dataset(
            folder,
            int(metadata["total_steps"]),
            _episodes(storage, metadata, notes),
            name=f"minari:{dataset_id}",
            observation_space=storage.observation_space,
            action_space=storage.action_space,
            env=env,
            env_kwargs=env_kwargs,
            references=None if None in references else tuple(map(float, references)),
            about=_about(metadata, notes),
        )
    except (OSError, ValueError, KeyError, AssertionError, ImportError, NotImplementedError) as error:
        message = " ".join(str(error).split())
        raise BadDataset(f"minari:{dataset_id} cannot be read ({type(error).__name__}: {message})") from error


def _episodes(storage: Any, metadata: dict[str, Any], notes: list[str]) -> Iterator[Experience]:
    """Every episode as columns of a dataset."""
    plain = metadata["data_format"] == "hdf5" and not _encoded_images(storage)
    raw = _hdf5_episodes(storage) if plain else storage.get_episodes(range(storage.total_episodes))
    row, cut_off = 0, 0
    for number, part in enumerate(raw):
        length = len(part["rewards"])
        if length == 0:
            raise ValueError(f"episode {number} has no step")
        flags = {name: np.array(part[name], np.float32) for name in ("terminations", "truncations")}
        over = flags["terminations"] + flags["truncations"] > 0
        if over[:-1].any():
            raise ValueError(f"episode {number} ends at step {int(over.argmax())}, but has {length} steps")
        if not over[-1]:
            flags["truncations"][-1] = 1.0
            cut_off += 1
        obs = part["observations"]
        columns = {
            "obs": _keyed(obs, slice(0, length)),
            "next_obs": _keyed(obs, slice(1, length + 1)),
            "action": part["actions"],
            "reward": part["rewards"],
            "terminated": flags["terminations"],
            "truncated": flags["truncations"],
        }
        yield encode(columns, storage.observation_space, storage.action_space, row)
        row += length
    if cut_off:
        notes.append(f"{cut_off} episodes end without saying how: their last steps count as truncated")


def _hdf5_episodes(storage: Any) -> Iterator[dict[str, Any]]:
    """What Minari's own iterator gives, but for the infos, which take it most of its time."""
    import h5py

    def read(place: str) -> np.ndarray:
        array = h5py.h5d.open(file.id, place.encode())  # several times as fast as file[place][()]
        out: np.ndarray = np.empty(array.shape, array.dtype)
        array.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
        return out

    places: dict[str, Any] = {name: name for name in COLUMNS}
    places |= {"observations": _places(storage.observation_space, "observations")}
    try:
        with h5py.File(storage.data_path / "main_data.hdf5", "r") as file:
            for i in range(storage.total_episodes):
                yield {name: tree_map(lambda place, i=i: read(f"episode_{i}/{place}"), x) for name, x in places.items()}
    except OSError as error:  # which would be taken for one of writing
        raise ValueError(str(error)) from error


def _places(space: Any, name: str) -> Any:
    """Where in an episode's group the parts of a structured space are."""
    if spaces.kind(space) not in ("dict", "tuple"):
        return name
    prefix = "_index_" if spaces.kind(space) == "tuple" else ""
    return {key: _places(sub, f"{name}/{prefix}{key}") for key, sub in spaces.children(space).items()}


def _keyed(obs: Any, rows: slice) -> Any:
    """Some rows of observations; a tuple's parts under "0", "1", …, as everywhere here."""
    if isinstance(obs, (tuple, list)) and not isinstance(obs, np.ndarray):
        obs = {str(i): part for i, part in enumerate(obs)}
    return tree_map(lambda x: np.asarray(x)[rows], obs)


def _encoded_images(storage: Any) -> bool:
    """Whether an observation or action is kept as JPEG."""
    from minari.dataset.minari_storage import is_image_space

    def leaves(space: Any) -> list[Any]:
        if spaces.kind(space) in ("dict", "tuple"):
            return [leaf for sub in spaces.children(space).values() for leaf in leaves(sub)]
        return [space]

    both = leaves(storage.observation_space) + leaves(storage.action_space)
    return storage.jpeg_encoding and any(is_image_space(space) for space in both)


def _environment(metadata: dict[str, Any], notes: list[str]) -> tuple[str | None, dict[str, Any]]:
    """The environment to evaluate on, by its id and what it is made with."""
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if text is None:
        return None, {}
    spec = json.loads(text)
    wrappers = [wrapper["name"] for wrapper in spec.get("additional_wrappers") or ()]
    if wrappers:
        notes.append(f"{spec['id']} was wrapped ({', '.join(wrappers)}): give an environment to evaluate on yourself")
        return None, {}
    kwargs = {key: value for key, value in (spec.get("kwargs") or {}).items() if key != "render_mode"}
    limit = spec.get("max_episode_steps")
    if limit is not None and limit != _usual_limit(spec["id"]):
        kwargs["max_episode_steps"] = limit
    return spec["id"], kwargs


def _usual_limit(env: str) -> int | None:
    import gymnasium

    return gymnasium.registry[env].max_episode_steps if env in gymnasium.registry else None


def _about(metadata: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Where the data came from; of a dataset that was written here, what was known of it then."""
    description = metadata.get("description") or ""
    if description.startswith(MINE):
        about = json.loads(description.removeprefix(MINE))["about"]
        return {**about, "notes": [*about.get("notes", []), *notes]} if notes else about
    kept = ("dataset_id", "description", "algorithm_name", "author", "code_permalink", "minari_version")
    known = {key: sorted(value) if isinstance(value, set) else value for key, value in metadata.items() if key in kept}
    return {"minari": known, "notes": notes}


def _env_spec(dataset: Dataset) -> Any:
    """The environment as Minari stores it, if Gymnasium knows it."""
    import gymnasium

    if dataset.env not in gymnasium.registry:
        return None
    try:
        return gymnasium.make(dataset.env, disable_env_checker=True, **dataset.env_kwargs).spec
    except Exception as error:
        raise Unsupported(f"{dataset.env}, which {dataset.name} is from, cannot be made: {error}") from error


def _decoded(dataset: Dataset, episode: Experience) -> dict[str, Any]:
    """One episode in the units of its environment: one observation more than there are actions."""
    obs, last = (spaces.decode_obs(dataset.observation_space, x) for x in (episode.obs, episode[-1:].next_obs))
    joined = tree_map(lambda x, y: np.concatenate([x, y]), obs, last)
    return {
        "observations": _structured(dataset.observation_space, joined),
        "actions": spaces.decode_action(dataset.action_space, episode.action),
        "rewards": episode.reward.numpy(),
        "terminations": episode.terminated.numpy() > 0,
        "truncations": episode.truncated.numpy() > 0,
        "infos": {},
    }


def _structured(space: Any, obs: Any) -> Any:
    if spaces.kind(space) == "tuple":
        return tuple(_structured(sub, obs[key]) for key, sub in spaces.children(space).items())
    if spaces.kind(space) == "dict":
        return {key: _structured(sub, obs[key]) for key, sub in spaces.children(space).items()}
    return obs
