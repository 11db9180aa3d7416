"""Logs from elsewhere: what arrives is what was logged, and what is missing is asked for, never guessed."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting
from palaestra.data.importing import Limits, dataset_from, import_dataset
from palaestra.data.load import load_dataset
from palaestra.data.logs import read_log
from tests.datasets import random_dataset


@pytest.fixture(autouse=True)
def _kept_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "kept"))


def arrays(lengths: list[int], ended: list[str], **changed) -> dict[str, np.ndarray]:
    """Steps whose observation is (row, episode) and whose true next observation is (row + 1, episode)."""
    n = sum(lengths)
    episode = np.repeat(np.arange(len(lengths)), lengths)
    lasts = np.cumsum(lengths) - 1
    terminated, truncated = np.zeros(n), np.zeros(n)
    for last, how in zip(lasts, ended, strict=True):
        (terminated if how == "terminated" else truncated)[last] = how != "open"
    obs = np.stack([np.arange(n), episode], 1).astype(np.float64)
    made = {
        "observations": obs,
        "actions": np.linspace(-1, 1, n)[:, None],
        "rewards": np.arange(n, dtype=np.float64),
        "terminals": terminated,
        "timeouts": truncated,
        "next_observations": obs + np.array([1, 0]),
    }
    return {key: value for key, value in {**made, **changed}.items() if value is not None}


def imported(given: dict[str, np.ndarray], **limits):
    return dataset_from(given, name="logs", limits=Limits(**limits))


def notes(logs) -> str:
    return "; ".join(logs.about["notes"])


def test_arrays_arrive_as_they_are():
    given = arrays([3, 2], ["terminated", "truncated"])
    logs = imported(given)
    assert logs.lengths.tolist() == [3, 2] and logs.returns.tolist() == [3, 7]
    assert logs.steps.obs.numpy() == pytest.approx(given["observations"])
    assert logs.steps.next_obs.numpy() == pytest.approx(given["next_observations"])
    assert logs.steps.action.numpy() == pytest.approx(given["actions"])
    assert logs.steps.terminated.tolist() == [0, 0, 1, 0, 0] and logs.steps.truncated.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "names", [("obs", "action", "reward", "next_obs", "terminated", "truncated"), ("observations", "actions", "rewards",
              "next_observations", "terminations", "truncations")]
)  # fmt: skip
def test_names_may_be_those_of_any_of_the_three_vocabularies(names):
    given = arrays([3], ["truncated"])
    usual = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    renamed = {name: given[old] for name, old in zip(names, usual, strict=True)}
    assert torch.equal(imported(renamed).steps.obs, imported(given).steps.obs)


def test_without_next_observations_they_are_the_following_rows_and_nothing_is_made_up():
    """A terminated step keeps its place, since nothing is bootstrapped from it; a truncated one would be, and is left out."""
    logs = imported(arrays([3, 3, 2], ["terminated", "truncated", "truncated"], next_observations=None))
    assert logs.lengths.tolist() == [3, 2, 1]
    assert logs.steps.obs[:, 0].tolist() == [0, 1, 2, 3, 4, 6]
    assert logs.steps.next_obs[:, 0].tolist() == [1, 2, 2, 4, 5, 7]
    assert logs.steps.truncated.tolist() == [0, 0, 0, 0, 1, 1]
    assert "where 1 terminated steps led is not logged" in notes(logs)
    assert "the last step of 2 truncated episodes is left out" in notes(logs)


def test_a_truncated_episode_of_one_step_that_led_nowhere_known_is_left_out_whole():
    logs = imported(arrays([2, 1, 2], ["terminated", "truncated", "terminated"], next_observations=None))
    assert logs.lengths.tolist() == [2, 2] and logs.steps.obs[:, 0].tolist() == [0, 1, 3, 4]
    with pytest.raises(BadDataset, match="every episode is one step long"):
        imported(arrays([1, 1], ["truncated", "truncated"], next_observations=None))


lengths = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@settings(max_examples=150)
@given(lengths, st.data())
def test_next_observations_are_never_those_of_another_episode(sizes, data):
    ended = [data.draw(st.sampled_from(["terminated", "truncated"])) for _ in sizes]
    if all(n == 1 and how == "truncated" for n, how in zip(sizes, ended, strict=True)):
        ended[0] = "terminated"
    logs = imported(arrays(sizes, ended, next_observations=None))
    obs, led = logs.steps.obs, logs.steps.next_obs
    assert torch.equal(obs[:, 1], led[:, 1])
    stays = logs.steps.terminated > 0
    assert torch.equal(led[:, 0], obs[:, 0] + (~stays).float())
    assert sorted(set(obs[:, 1].tolist())) == [
        float(i) for i, (n, how) in enumerate(zip(sizes, ended, strict=True)) if n > 1 or how == "terminated"
    ]


def test_a_log_that_stops_within_an_episode_is_cut_off_there_and_says_so():
    logs = imported(arrays([2, 3], ["terminated", "open"]))
    assert logs.steps.truncated.tolist() == [0, 0, 0, 0, 1]
    assert "the log stops within an episode" in notes(logs)


def test_episode_labels_may_be_given_and_must_agree():
    given = arrays([3, 2], ["terminated", "truncated"])
    labels = np.array(["a", "a", "a", "b", "b"])
    assert imported({**given, "episode": labels}).lengths.tolist() == [3, 2]
    with pytest.raises(BadDataset, match="the rows of episode a are not together"):
        imported({**given, "episode": np.array(["a", "b", "a", "a", "b"])})
    with pytest.raises(BadDataset, match="the last row of episode b is neither terminated nor truncated"):
        imported({**arrays([3, 2], ["terminated", "open"]), "episode": labels})
    with pytest.raises(BadDataset, match="row 2 ends episode a, but more rows of it follow"):
        imported({**given, "episode": np.array(["a"] * 5)})


def nan_at(row: int, array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array[row] = np.nan
    return array


GIVEN = arrays([3, 2], ["terminated", "truncated"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"timeouts": None},
            r"truncated or truncations or timeouts is missing: terminated is 1 where the task itself ended",
        ),
        (
            {"terminals": None, "dones": np.ones(5)},
            r"'dones' does not say whether the task ended or time ran out.*add both",
        ),
        ({"actions": None}, r"action or actions is missing: add one row of it per step"),
        ({"rewards": np.zeros(4)}, r"different numbers of rows \(obs 5, next_obs 5, action 5, reward 4"),
        ({"terminals": np.zeros(5), "timeouts": np.zeros(5)}, "unknown where episodes end: set one of them to 1"),
        ({"terminals": np.full(5, 0.5)}, r"terminated in row 0 is 0\.5, but it can only be 0 or 1"),
        ({"observations": nan_at(3, GIVEN["observations"])}, "obs in row 3 is NaN"),
        ({"rewards": nan_at(1, GIVEN["rewards"])}, "reward in row 1 is NaN or infinite"),
        ({"rewards": np.full(5, 1e300)}, "reward in row 0 is NaN or infinite"),
        ({"actions": nan_at(2, GIVEN["actions"])}, "action in row 2 is NaN or infinite"),
        ({"rewards": np.zeros((5, 2))}, r"reward has the shape \(2,\) per step, but its space says \(\)"),
        ({"actions": np.array(["left"] * 5)}, "action is of type <U4, which is no number"),
        ({"actions": 2 * GIVEN["actions"]}, r"actions reach from -2 to 2, .* give --action-low and --action-high"),
        (
            {"actions": np.array([0, 1, -1, 0, 1])},
            "an action is -1, but actions that are whole numbers are counted from 0",
        ),
        ({"timeouts": np.array([0, 0, 0, 0, 0])}, "the log stops"),
    ],
)
def test_what_is_missing_or_cannot_be_is_refused_by_name(changed, said):
    given = {key: value for key, value in {**GIVEN, **changed}.items() if value is not None}
    if said == "the log stops":
        assert said in notes(imported(given))
        return
    with pytest.raises(BadDataset, match=said) as caught:
        imported(given)
    assert "\n" not in str(caught.value)


def test_a_seam_inside_an_episode_is_a_missing_boundary():
    given = arrays([6], ["truncated"])
    given["observations"][3:] += 100
    given["next_observations"][3:] += 100
    with pytest.raises(
        BadDataset, match=r"1 steps inside episodes do not lead .* \(the first is row 2\), so boundaries"
    ):
        imported(given)
    given["timeouts"][2] = 1
    assert imported(given).lengths.tolist() == [3, 3]


def test_limits_of_actions_are_given_or_those_that_all_actions_keep():
    assert "limited by -1 and 1" in notes(imported(GIVEN))
    wide = {**GIVEN, "actions": 2 * GIVEN["actions"]}
    logs = imported(wide, action_low=[-2], action_high=[2])
    assert logs.action_space == gym.spaces.Box(-2, 2, (1,), np.float32)
    assert logs.steps.action.numpy() == pytest.approx(GIVEN["actions"])
    with pytest.raises(BadDataset, match=r"2 actions are outside Box.*the first in row 0: \[-2\.0\].*clip them"):
        imported(wide, action_low=[-1.5], action_high=[1.5])
    with pytest.raises(BadSetting, match="--action-low must be below --action-high"):
        imported(wide, action_low=[2], action_high=[-2])
    with pytest.raises(BadSetting, match="--action-low needs one number or 1, got 3"):
        imported(wide, action_low=[-2, -2, -2], action_high=[2])


def test_actions_that_rounding_has_carried_over_their_limit_are_brought_back():
    given = {**GIVEN, "actions": GIVEN["actions"] * (1 + 1e-6)}
    logs = imported(given, action_low=[-1], action_high=[1])
    assert float(logs.steps.action.abs().max()) == 1


def test_actions_that_are_whole_numbers_are_indices():
    logs = imported({**GIVEN, "actions": np.array([0, 2, 1, 0, 0])})
    assert logs.action_space == gym.spaces.Discrete(3) and "taken to be 3 actions" in notes(logs)
    assert logs.steps.action.tolist() == [0, 2, 1, 0, 0]
    assert imported({**GIVEN, "actions": np.array([0, 2, 1, 0, 0])}, action_count=5).action_space.n == 5
    with pytest.raises(BadDataset, match="action in row 1 is outside its space"):
        imported({**GIVEN, "actions": np.array([0, 2, 1, 0, 0])}, action_count=2)


def test_an_environments_spaces_are_taken_and_must_fit():
    given = as_arrays(random_dataset("Pendulum-v1", 450))
    logs = imported(given, env="Pendulum-v1")
    assert logs.action_space == gym.make("Pendulum-v1").action_space and logs.env == "Pendulum-v1"
    assert torch.allclose(logs.steps.action, random_dataset("Pendulum-v1", 450).steps.action, atol=1e-6)
    with pytest.raises(BadDataset, match=r"obs has the shape \(3,\) per step, but its space says \(4,\)"):
        imported(given, env="CartPole-v1")


def as_arrays(logs) -> dict[str, np.ndarray]:
    """A dataset as a file of D4RL would have it."""
    from palaestra.core import spaces

    steps = logs.steps
    return {
        "observations": steps.obs.numpy(),
        "actions": spaces.decode_action(logs.action_space, steps.action),
        "rewards": steps.reward.numpy(),
        "next_observations": steps.next_obs.numpy(),
        "terminals": steps.terminated.numpy().astype(bool),
        "timeouts": steps.truncated.numpy().astype(bool),
    }


def test_structured_observations_and_pixels_arrive_too():
    given = arrays([3], ["truncated"])
    seen = {"camera": np.arange(3 * 12, dtype=np.uint8).reshape(3, 2, 2, 3), "speed": np.ones((3, 1))}
    after = {"camera": np.roll(seen["camera"], -1, 0), "speed": np.ones((3, 1))}
    logs = imported({**given, "observations": seen, "next_observations": after})
    assert logs.observation_space["camera"] == gym.spaces.Box(0, 255, (2, 2, 3), np.uint8)
    assert logs.steps.obs["camera"].dtype == torch.uint8
    with pytest.raises(BadDataset, match="obs has parts camera, speed, but the observation space is"):
        imported({**given, "observations": seen, "next_observations": after}, env="Pendulum-v1")


# Files.


def test_the_three_formats_hold_the_same_steps():
    h5py = pytest.importorskip("h5py")
    given = arrays([3, 2], ["terminated", "truncated"])
    np.savez("logs.npz", **given)
    with h5py.File("logs.hdf5", "w") as file:
        for name, array in given.items():
            file[name] = array
        file["infos/qpos"] = np.zeros((5, 2))
        file["metadata/algorithm"] = "sac"
    write_csv(given)
    by_format = [import_dataset(f"logs.{e}", name=f"from-{e}") for e in ("npz", "hdf5", "csv")]
    for logs in by_format:
        for (name, a), (_, b) in zip(logs.steps.items(), by_format[0].steps.items(), strict=True):
            assert torch.equal(a, b), (logs.name, name)
        assert len(load_dataset(logs.name)) == 5


def test_a_d4rl_file_is_named_where_it_lies_and_converted_once(monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File("hopper.hdf5", "w") as file:
        for name, array in arrays([3, 2], ["terminated", "truncated"]).items():
            file[name] = array
    assert len(load_dataset("d4rl:hopper.hdf5")) == 5
    with monkeypatch.context() as patch:
        patch.setattr("palaestra.data.importing.dataset_from", lambda *given, **named: pytest.fail("converted again"))
        assert len(load_dataset("d4rl:hopper.hdf5")) == 5
    with h5py.File("hopper.hdf5", "w") as file:
        for name, array in arrays([3, 4], ["terminated", "truncated"]).items():
            file[name] = array
    assert len(load_dataset("d4rl:hopper.hdf5")) == 7
    with pytest.raises(pal.PalaestraError, match="there is no file"):
        load_dataset("d4rl:other.hdf5")


def write_csv(given: dict[str, np.ndarray], path: str = "logs.csv") -> None:
    ends = given["terminals"] + given["timeouts"] > 0
    episode = np.concatenate([[0], np.cumsum(ends)[:-1]])
    step = np.arange(len(ends)) - np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])[episode]
    lines = ["episode,step,obs_row,obs_episode,action_0,reward,terminated,truncated,next_obs_row,next_obs_episode"]
    for i in range(len(ends)):
        cells = [episode[i], step[i], *given["observations"][i], *given["actions"][i], given["rewards"][i]]
        cells += [bool(given["terminals"][i]), bool(given["timeouts"][i]), *given["next_observations"][i]]
        lines.append(",".join(map(str, cells)))
    Path(path).write_text("\n".join(lines) + "\n")


TABLE = """episode,step,obs_speed,obs_place,action,reward,terminated,truncated
a,0,0.0,1.0,0,1,0,0
a,1,0.5,1.5,1,1,0,0
a,2,1.0,2.5,1,2,1,0
b,0,0.0,1.0,1,1,0,0
b,1,0.1,1.1,0,1,0,1
b,2,0.2,1.2,,,,
"""


def table(text: str = TABLE, **limits):
    Path("logs.csv").write_text(text)
    return dataset_from("logs.csv", name="logs", limits=Limits(**limits))


def test_a_table_of_episodes_by_hand():
    logs = table()
    assert logs.lengths.tolist() == [3, 2] and logs.returns.tolist() == [4, 2]
    assert logs.action_space == gym.spaces.Discrete(2) and logs.steps.action.tolist() == [0, 1, 1, 1, 0]
    assert logs.steps.obs.numpy() == pytest.approx(np.array([[0, 1], [0.5, 1.5], [1, 2.5], [0, 1], [0.1, 1.1]]))
    assert logs.steps.next_obs.numpy() == pytest.approx(
        np.array([[0.5, 1.5], [1, 2.5], [1, 2.5], [0.1, 1.1], [0.2, 1.2]])
    )
    assert logs.steps.truncated.tolist() == [0, 0, 0, 0, 1]
    assert logs.about["imported"] == "logs.csv" and "observations hold speed, place" in notes(logs)


def test_without_the_line_that_says_where_it_led_the_last_truncated_step_is_left_out():
    logs = table(TABLE.replace("b,2,0.2,1.2,,,,\n", ""))
    assert logs.lengths.tolist() == [3, 1] and "left out" in notes(logs)


def test_columns_with_other_names_are_left_out_and_named():
    lines = TABLE.splitlines()
    logs = table("\n".join([lines[0] + ",operator", *(line + ",Ada" for line in lines[1:])]))
    assert "the columns operator are left out" in notes(logs)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("truncated", "done", r"truncated or truncations or timeouts is missing: 'done' does not say"),
        ("episode", "run", "no column 'episode': add which episode a line belongs to"),
        ("step", "t", "no column 'step'"),
        ("obs_speed,obs_place", "speed,place", r"no obs_… columns; add the numbers"),
        (",action,", ",act,", "no action; add 'action'"),
        ("obs_speed", "obs_place", "names 'obs_place' twice"),
        (",action,reward", ",action,action_0", "keep the ones that are meant"),
        ("a,1,0.5,", "a,2,0.5,", "line 3: episode a goes from step 0 to 2"),
        ("a,1,0.5,1.5,1,1", "a,1,0.5,1.5,left,1", "line 3: action 'left' is no number"),
        ("a,1,0.5,", "a,1,,", "line 3: obs_speed is empty"),
        ("a,1,0.5,", "a,1,nan,", "obs in row 1 is NaN"),
        ("a,1,0.5,1.5,1,", "a,1,0.5,1.5,0.5,", "'action' is an index from 0 and must be whole"),
        ("a,1,0.5,1.5,1,1,", "a,1,0.5,1.5,,,", "line 3: action and reward are empty; only the line after"),
        ("b,2,0.2,1.2,,,,", "b,2,0.2,1.2,,,,\nb,3,0.2,1.2,,,,", "line 7: action and reward are empty"),
        ("b,1,0.1,1.1,0,1,0,1", "b,1,0.1,1.1,0,1,0", "line 6: 7 cells, but the head names 8"),
        ("b,1,0.1,1.1,0,1,0,1", "b,1,0.1,1.1,0,1,0,0", "the last row of episode b is neither"),
        ("a,1,0.5,1.5,1,1,0,0", "a,1,0.5,1.5,1,1,1,0", "row 1 ends episode a, but more rows"),
        ("b,1,0.1,1.1,0,1,0,1\nb", "c,1,0.1,1.1,0,1,0,1\nc", "episode b is neither terminated nor truncated"),
    ],
)
def test_a_table_that_lacks_something_is_refused_with_what_to_add(before, after, said):
    assert before in TABLE
    with pytest.raises(BadDataset, match=said) as caught:
        table(TABLE.replace(before, after, 1))
    assert "\n" not in str(caught.value)


def test_an_empty_table_is_refused():
    with pytest.raises(BadDataset, match="no line below its head"):
        table(TABLE.splitlines()[0])
    for text in ("", "\n", ",,\n,,\n"):
        with pytest.raises(BadDataset, match="the table is empty; its first line names the columns: episode, step"):
            table(text)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(pal.PalaestraError, match="there is no file"):
        read_log(Path("none.csv"))
    Path("logs.txt").write_text("")
    with pytest.raises(BadDataset, match=r"known are \.hdf5, \.h5, \.npz, \.csv"):
        read_log(Path("logs.txt"))
    for ending in ("npz", "hdf5"):
        Path(f"torn.{ending}").write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(BadDataset, match=rf"torn\.{ending} cannot be read"):
            read_log(Path(f"torn.{ending}"))
    Path("bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataset, match=r"bytes\.csv cannot be read"):
        read_log(Path("bytes.csv"))


def test_an_archive_cannot_bring_python_objects():
    np.savez("logs.npz", observations=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadDataset, match="cannot be read"):
        read_log(Path("logs.npz"))


def test_a_name_is_not_given_twice():
    import_dataset(GIVEN, name="mine")
    with pytest.raises(BadSetting, match="is there already"):
        import_dataset(GIVEN, name="mine")
    with pytest.raises(BadSetting, match="letters, digits"):
        import_dataset(GIVEN, name="../mine")


def test_references_are_kept():
    logs = import_dataset(GIVEN, name="mine", references=(0.0, 10.0))
    assert logs.score(5.0) == 50
