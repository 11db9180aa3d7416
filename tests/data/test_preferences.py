"""Preferences: what a teacher says, which pairs fit a dataset, files that come back the same, and files that are refused."""

from __future__ import annotations

import json
import pickle
import re
from contextlib import suppress
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting
from palaestra.core.experience import Experience
from palaestra.core.seeding import Streams
from palaestra.data.dataset import Dataset
from palaestra.data.load import load_dataset
from palaestra.data.pickled import read_numbers
from palaestra.data.preference_files import read_human_labels
from palaestra.data.preferences import FreshPairs, LabelledPairs, PreferenceDataset, ScriptedTeacher
from palaestra.data.windows import windows


def dataset(lengths: tuple[int, ...] = (3, 5), reward: list[float] | None = None, name: str = "made") -> Dataset:
    """Episodes whose observations are the numbers of their rows, and whose rewards are 1, 2, 4, … unless given."""
    count = sum(lengths)
    row = torch.arange(count, dtype=torch.float32)
    ends = torch.tensor(lengths).cumsum(0) - 1
    truncated = torch.zeros(count)
    truncated[ends] = 1.0
    steps = Experience(
        obs=row.unsqueeze(1),
        action=torch.full((count, 1), 0.5),
        reward=2**row if reward is None else torch.tensor(reward),
        next_obs=row.unsqueeze(1) + 1,
        terminated=torch.zeros(count),
        truncated=truncated,
    )
    starts = torch.tensor([0, *(ends[:-1] + 1).tolist()])
    return Dataset(name, steps, starts, gym.spaces.Box(-1, 99, (1,)), gym.spaces.Box(-1, 1, (1,)))


def pairs(**columns) -> PreferenceDataset:
    given = {
        "episode": torch.tensor([[0, 1], [1, 0]]),
        "start": torch.tensor([[0, 2], [1, 1]]),
        "length": torch.tensor([[2, 3], [2, 1]]),
        "label": torch.tensor([0.0, 0.5]),
        **columns,
    }
    return PreferenceDataset("said", dataset(), **given)


# Windows.


def test_windows_stay_in_their_episode_and_are_padded_on_the_left():
    found = windows(dataset(), torch.tensor([0, 1, 7]), 3)
    assert found.obs[..., 0].tolist() == [[0, 1, 2], [0, 1, 2], [0, 0, 7]]
    assert found.mask.tolist() == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]
    assert found.time.tolist() == [[0, 1, 2], [0, 1, 2], [0, 0, 4]]
    assert found.action[..., 0].tolist() == [[0.5, 0.5, 0.5], [0.0, 0.5, 0.5], [0.0, 0.0, 0.5]]


def test_the_windows_of_pairs_have_the_lengths_that_were_compared():
    found, label = pairs().windows(torch.tensor([1, 0]), 3)
    assert found.obs[..., 0].tolist() == [[0, 4, 5], [0, 0, 1], [0, 0, 1], [5, 6, 7]]
    assert found.mask.sum(1).tolist() == [2, 2, 1, 3]
    assert label.tolist() == [0.5, 0.0]


# Pairs.


def test_chosen_first_turns_the_pairs_and_leaves_ties_out():
    turned = pairs(label=torch.tensor([0.25, 0.5])).chosen_first()
    assert (turned.episode.tolist(), turned.start.tolist(), turned.length.tolist()) == ([[1, 0]], [[2, 0]], [[3, 2]])
    assert turned.label.tolist() == [0.75]
    assert turned.rows.tolist() == [[5, 0]]
    with pytest.raises(BadDataset):
        pairs(label=torch.tensor([0.5, 0.5])).chosen_first()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": torch.tensor([0.0, 1.5])}, r"said, pair 1: its label 1\.5 is not in \[0, 1\]"),
        ({"label": torch.tensor([float("nan"), 1.0])}, "pair 0: its label nan"),
        ({"label": torch.tensor([1.0])}, r"need int64 \(N, 2\) .* got episode \(2, 2\), .* label \(1,\)"),
        ({"label": torch.tensor([0, 1])}, "need int64"),
        ({"episode": torch.tensor([[0, 1], [1, 2]])}, r"pair 1: there is no episode \[1, 2\] among the 2 of made"),
        ({"start": torch.tensor([[0, 2], [-1, 1]])}, r"pair 1: a window begins at step \[-1, 1\], before its episode"),
        ({"length": torch.tensor([[2, 3], [0, 1]])}, r"pair 1: a window has \[0, 1\] steps"),
        ({"length": torch.tensor([[4, 3], [2, 1]])}, r"pair 0: a window of \[4, 3\] steps .* runs past the end"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(columns, message):
    with pytest.raises(BadDataset, match=message):
        pairs(**columns)


# Teachers.


def test_a_teacher_sees_as_far_as_it_foresees_and_to_the_end_of_the_episode():
    assert ScriptedTeacher(foresee=2).scores(dataset()).tolist() == [3, 6, 4, 24, 48, 96, 192, 128]
    assert ScriptedTeacher(foresee=2, average=True).scores(dataset()).tolist() == [1.5, 3, 4, 12, 24, 48, 96, 128]
    assert ScriptedTeacher(foresee=99).scores(dataset())[:4].tolist() == [7, 6, 4, 248]


@settings(max_examples=50)
@given(
    rewards=st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8),
    foresee=st.integers(1, 9),
    mean=st.booleans(),
)
def test_scores_are_sums_within_episodes(rewards, foresee, mean):
    found = ScriptedTeacher(foresee, mean).scores(dataset(reward=rewards))
    for row in range(8):
        seen = rewards[row : min(row + foresee, 3 if row < 3 else 8)]
        assert float(found[row]) == pytest.approx(sum(seen) / (len(seen) if mean else 1), abs=1e-4)


def test_equal_rewards_are_ties_whatever_their_rounding():
    teacher, constant = ScriptedTeacher(3), dataset((40, 40), reward=[0.1] * 80)
    said = teacher.label(constant, 200, length=4)
    short = (constant.lengths[said.episode] - said.start).clamp(max=3)
    assert torch.equal(said.label == 0.5, short[:, 0] == short[:, 1])
    assert bool((ScriptedTeacher(3, average=True).label(constant, 200, length=4).label == 0.5).all())


def test_labels_say_which_is_better_ties_are_ties_and_flips_turn_strict_ones():
    first, second = torch.tensor([3.0, 1.0, 2.0, 2.4]), torch.tensor([1.0, 3.0, 2.0, 2.0])
    g = torch.Generator()
    assert ScriptedTeacher().labels(first, second, g).tolist() == [1, 0, 0.5, 1]
    assert ScriptedTeacher(tie=0.5).labels(first, second, g).tolist() == [1, 0, 0.5, 0.5]
    assert ScriptedTeacher(flip=1.0).labels(first, second, g).tolist() == [0, 1, 0.5, 0]
    many = torch.ones(20_000)
    assert ScriptedTeacher(flip=0.3).labels(many, 0 * many, g).mean() == pytest.approx(0.7, abs=0.02)


def test_a_teacher_labels_reproducibly_and_by_the_seed():
    teacher = ScriptedTeacher(flip=0.2)
    one, same, other = (teacher.label(dataset(), 50, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(one.rows, same.rows) and torch.equal(one.label, same.label)
    assert not torch.equal(one.rows, other.rows)
    assert one.about["flip"] == 0.2 and one.about["teacher"] == "scripted"
    assert int(one.length.max()) == 3


@pytest.mark.parametrize("options", [{"foresee": 0}, {"tie": -1.0}, {"flip": 1.5}])
def test_a_teacher_with_settings_out_of_range_is_refused(options):
    with pytest.raises(BadSetting, match=f"{next(iter(options))} must be"):
        ScriptedTeacher(**options)


def test_rewards_that_are_not_finite_are_refused():
    with pytest.raises(BadDataset, match="rewards that are not finite"):
        ScriptedTeacher().scores(dataset(reward=[float("nan")] * 8))


# Sources.


def test_sources_draw_pairs_and_go_on_where_they_stopped():
    said = ScriptedTeacher(2).label(dataset(), 30, 3)

    def sources():
        return FreshPairs(dataset(), ScriptedTeacher(2, flip=0.5), 3, Streams(0)), LabelledPairs(said, 3, Streams(0))

    for one, two in zip(sources(), sources(), strict=True):
        one.sample(4)
        two.load_state_dict(one.state_dict())
        (batch, label), (again, same) = one.sample(4), two.sample(4)
        assert batch.obs.shape == (8, 3, 1) and label.shape == (4,)
        assert torch.equal(batch.obs, again.obs) and torch.equal(label, same)


def test_fresh_pairs_are_labelled_by_the_rewards_after_their_first_steps():
    batch, label = FreshPairs(dataset(), ScriptedTeacher(1), 3, Streams(0)).sample(50)
    first = torch.where(batch.mask.bool(), batch.obs[..., 0], 99.0).amin(1)
    torch.testing.assert_close(label, 0.5 + 0.5 * torch.sign(first[:50] - first[50:]))


def test_a_window_too_short_for_the_pairs_is_refused():
    with pytest.raises(BadDataset, match="said compares 3 steps; a window of 2 is too short"):
        LabelledPairs(pairs(), 2, Streams(0))


# Files.


def test_saved_pairs_come_back():
    said = ScriptedTeacher(2).label(dataset(), 30, 3)
    loaded = pal.load_preferences(said.save("kept"), dataset())
    for name in ("episode", "start", "length", "label"):
        assert torch.equal(getattr(loaded, name), getattr(said, name))
    assert loaded.about == said.about
    dataset().save("data")
    kept = PreferenceDataset("said", dataset(name="data"), said.episode, said.start, said.length, said.label)
    assert len(pal.load_preferences(kept.save("named"))) == 30
    with pytest.raises(BadDataset, match="kept compares windows of made, and other is another dataset"):
        pal.load_preferences("kept", dataset(reward=[1.0] * 8, name="other"))


def test_damaged_or_missing_preferences_are_refused():
    with pytest.raises(BadDataset, match="there are no preferences 'none'"):
        pal.load_preferences("none", dataset())
    with pytest.raises(BadDataset, match=r"there is no file missing\.npz"):
        pal.load_preferences("missing.npz")
    for missing in ("./missing", Path("missing").absolute(), "../my pairs"):
        with pytest.raises(BadDataset, match=f"there is no folder {re.escape(str(missing))}; .*palaestra data label"):
            pal.load_preferences(missing, dataset())
    Path("empty").mkdir()
    for empty in ("./empty", Path("empty").absolute()):
        with pytest.raises(
            BadDataset, match=f"{re.escape(str(empty))} holds no preferences: it has no preferences.json"
        ):
            pal.load_preferences(empty, dataset())
    folder = pairs().save("kept")
    np.save(folder / "label.npy", np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    with pytest.raises(BadDataset, match="kept is damaged"):
        pal.load_preferences("kept", dataset())
    Path("kept/preferences.json").write_text("[]")
    with pytest.raises(BadDataset, match="kept is damaged"):
        pal.load_preferences("kept", dataset())


HUMAN = {"start_indices": [0, 3, 4], "start_indices_2": [3, 1, 0], "human_label": [0, 1, -1]}


@pytest.mark.parametrize("suffix", ["npz", "json"])
def test_human_labels_are_read(suffix):
    file = Path(f"people.{suffix}")
    np.savez(file, **HUMAN) if suffix == "npz" else file.write_text(json.dumps(HUMAN))
    said = pal.load_preferences(file, dataset(), length=2)
    assert said.label.tolist() == [1.0, 0.0, 0.5]
    assert said.episode.tolist() == [[0, 1], [1, 0], [1, 0]] and said.start.tolist() == [[0, 0], [0, 1], [1, 0]]
    with pytest.raises(BadDataset, match="give the dataset"):
        pal.load_preferences(file)


def test_probabilities_of_either_are_labels_too():
    np.savez("people.npz", **{**HUMAN, "labels": [[1, 0], [0.3, 0.7], [0.5, 0.5]]})
    torch.testing.assert_close(read_human_labels("people.npz", dataset(), 2).label, torch.tensor([1.0, 0.3, 0.5]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"human_label": [0, 1, 3]}, r"a human_label is 0 .* got 3"),
        ({"human_label": [0, 1]}, "need int64"),
        ({"start_indices": [0, 99, 4]}, r"pair 1: made has no rows \[99, 1\], but 8 steps"),
        ({"start_indices": [0, 2, 4]}, r"pair 1: a window of \[2, 2\] steps from step \[2, 1\] runs past the end"),
        ({"start_indices": "here"}, "does not hold numbers in arrays of one length"),
        ({"labels": [[1, 1]] * 3}, "two probabilities that add up to 1"),
    ],
)
def test_human_labels_that_do_not_fit_are_refused(changed, message):
    Path("people.json").write_text(json.dumps({**HUMAN, **changed}))
    with pytest.raises(BadDataset, match=message):
        read_human_labels("people.json", dataset(), 2)


def test_files_of_something_else_are_refused():
    Path("people.json").write_text(json.dumps({"start_indices": [0]}))
    with pytest.raises(
        BadDataset, match=r"needs start_indices, start_indices_2 and human_label .* it holds start_indices"
    ):
        read_human_labels("people.json", dataset())
    with pytest.raises(BadDataset, match=r"there is no file gone\.npz"):
        read_human_labels("gone.npz", dataset())


# Published labels.


def pickled(value) -> bytes:
    """As NumPy 1 and Python 3.8 wrote it, whose labels are published."""
    data = pickle.dumps(value, protocol=4)
    return data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")


def publish(first, second, label, folder: str = "hopper-medium-v2") -> Path:
    """Three files under the names that they are published with: two arrays of rows and a list of labels."""
    place = Path(folder)
    place.mkdir()
    for name, value in (("indices_num3", first), ("indices_2_num3", second), ("label_human", label)):
        (place / name).write_bytes(pickled(value))
    return place


def d4rl_file(name: str, lengths: list[int], followed: bool, open_end: int = 3) -> dict[str, np.ndarray]:
    """A log whose episodes are ended by the clock and, every third, by the task; the last one is not over yet. Observations are
    the numbers of their rows."""
    count = sum(lengths) + open_end
    ends = np.cumsum(lengths) - 1
    columns = {
        "observations": np.arange(count, dtype=np.float32).reshape(-1, 1),
        "actions": np.zeros((count, 1), np.float32),
        "rewards": np.ones(count, np.float32),
        "terminals": np.isin(np.arange(count), ends[2::3]),
        "timeouts": np.isin(np.arange(count), np.setdiff1d(ends, ends[2::3])),
    }
    if followed:
        columns["next_observations"] = columns["observations"] + 1
    with h5py.File(name, "w") as file:
        for key, value in columns.items():
            file[key] = value
    return columns


def qlearning_rows(columns: dict[str, np.ndarray]) -> list[int]:
    """The rows of a log that `d4rl.qlearning_dataset` keeps: all but the last, without those at which time ran out."""
    return [i for i in range(len(columns["rewards"]) - 1) if not columns["timeouts"][i]]


@pytest.mark.parametrize("followed", [True, False])
def test_published_labels_are_about_the_windows_that_people_saw(followed):
    """People saw windows of `qlearning_dataset`; whether an import keeps the steps that this leaves out depends on the log."""
    columns = d4rl_file("logs.hdf5", [7, 9, 8, 7, 9], followed)
    logs = load_dataset("d4rl:logs.hdf5")
    assert (logs.about["left_out"] == 0) == followed
    seen = qlearning_rows(columns)
    shown = [seen.index(row) for row in (1, 8, 11, 17, 25, 34)]
    first, second = np.array([*shown[:3], 5], np.int32), np.array([*shown[3:], 0], np.int32)
    folder = publish(first, second, [0, 1, -1])  # of four pairs three were labelled
    said = pal.load_preferences(folder, logs, length=4)
    assert said.label.tolist() == [1.0, 0.0, 0.5]
    windows = said.windows(torch.arange(3), 4)[0].obs[..., 0]
    assert windows.tolist() == [[float(seen[row + i]) for i in range(4)] for row in shown]


def test_published_labels_need_the_log_that_they_are_about():
    d4rl_file("logs.hdf5", [7, 9], followed=True)
    logs = load_dataset("d4rl:logs.hdf5")
    rows = np.array([0, 1, 2], np.int32)
    with pytest.raises(BadDataset, match="count the rows of a D4RL file, which made was not imported from; import it"):
        read_human_labels(publish(rows, rows, [0, 1, -1], "one"), dataset())
    with pytest.raises(BadDataset, match=r"two has rows from 0 to 99, but d4rl:logs.hdf5 those from 0 to 15"):
        read_human_labels(publish(rows, np.array([0, 99, 1]), [0, 1, -1], "two"), logs)
    with pytest.raises(BadDataset, match=r"three has rows from 0\.0 to 2\.0"):
        read_human_labels(publish(rows, rows.astype(float), [0, 1, -1], "three"), logs)
    with pytest.raises(BadDataset, match=r"a human_label is 0 .* got 2"):
        read_human_labels(publish(rows, rows, [0, 1, 2], "four"), logs)
    Path("four/label_human").rename("four/label_dummy")
    with pytest.raises(BadDataset, match=r"four must hold one file label_human\*, got none"):
        read_human_labels("four", logs)


@pytest.mark.parametrize(
    "value",
    [
        [0, 1, -1, 300, 70_000, -(2**31)],
        [0.5, 1.0],
        [True, False],
        list(range(2500)),
        np.arange(500, dtype=np.int32),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        np.arange(5, dtype=">i4"),
        np.array([True, False]),
        np.zeros((0, 2)),
    ],
)
def test_the_numbers_in_a_pickle_are_read(value):
    for data in (pickled(value), pickle.dumps(value, protocol=4)):
        found = read_numbers(data)
        assert np.array_equal(found, value) and found.dtype == np.asarray(value).dtype


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_no_pickle_is_ever_executed():
    Path("people.pkl").write_bytes(pickle.dumps(Bomb()))
    np.savez("people.npz", **{**HUMAN, "human_label": np.array([Bomb()] * 3, dtype=object)})
    Path("broken.npz").write_bytes(pickle.dumps(Bomb()))
    folder = publish(np.array([0]), np.array([1]), Bomb())
    d4rl_file("logs.hdf5", [7, 9], followed=True)
    with pytest.raises(
        BadDataset, match=r"label_human is something else than pickled numbers: a pickle that would call pathlib"
    ):
        read_human_labels(folder, load_dataset("d4rl:logs.hdf5"))
    with pytest.raises(BadDataset, match="may be a pickle, which could execute anything"):
        read_human_labels("people.pkl", dataset())
    for file in ("people.npz", "broken.npz"):
        with pytest.raises(BadDataset, match="cannot be read without executing what is in it, or is damaged"):
            read_human_labels(file, dataset())
    assert not Path("exploded").exists()


def nested(value: list, times: int) -> list:
    """A list of nine of a list of nine of …, a few bytes that would fill the memory."""
    return nested([value] * 9, times - 1) if times else value


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Bomb(), protocol=4),
        pickle.dumps([1, Bomb()], protocol=4),
        pickle.dumps(np.array([Bomb()], dtype=object), protocol=4),
        pickle.dumps(np.array([{}], dtype=object), protocol=4),
        pickle.dumps(np.array(["text"]), protocol=4),
        pickle.dumps("text", protocol=4),
        pickle.dumps({"a": 1}, protocol=4),
        pickle.dumps([1, 2], protocol=0),
        pickle.dumps(np.arange(3), protocol=4)[:-20],
        pickle.dumps(np.arange(3), protocol=4).replace(b"i8", b"O8"),
        pickle.dumps(np.arange(3), protocol=4).replace(b"K\x03\x85", b"K\x07\x85"),
        pickle.dumps(nested(list(range(9)), 99), protocol=4),
        b"",
        b"start_indices: 3",
        b"\x80\x04.",
        b"\x80\x04e.",
        b"\x80\x04h\x05.",
        b"\x80\x04K\x01K\x02.",
        b"\x80\x04K\x01K\x02R.",
        b"\x80\x04K\x01K\x02b.",
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_not_executed(data):
    with pytest.raises(ValueError):
        read_numbers(data)
    assert not Path("exploded").exists()


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_pickle_is_read_or_refused(data):
    whole = bytearray(pickled(data.draw(st.sampled_from([[0, 1, -1], np.arange(3, dtype=np.int32)]))))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        assert read_numbers(bytes(whole)).dtype.kind in "iufb"


# Rows.


@pytest.fixture
def said() -> PreferenceDataset:
    return ScriptedTeacher(foresee=3).label(dataset((9, 7)), pairs=20, length=4)


def same(one: PreferenceDataset, other: PreferenceDataset) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("episode", "start", "length", "label")
    )


def test_pairs_written_as_lines_come_back_the_same(said):
    file = said.write("said.jsonl")
    assert len(file.read_text().splitlines()) == 20
    assert same(said, pal.load_preferences("said.jsonl", said.dataset))
    assert same(said, read_human_labels("said.jsonl", said.dataset))


def test_pairs_are_rows_of_a_hugging_face_dataset_and_of_a_list(said):
    datasets = pytest.importorskip("datasets")
    for rows in (said.records(), datasets.Dataset.from_list(said.records())):
        assert same(said, pal.load_preferences(rows, said.dataset))


def test_human_labels_may_have_a_line_for_each_pair():
    np.savez("people.npz", **HUMAN)
    lines = [dict(zip(HUMAN, values, strict=True)) for values in zip(*HUMAN.values(), strict=True)]
    Path("people.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert same(*(read_human_labels(file, dataset(), 2) for file in ("people.npz", "people.jsonl")))


PAIR = {"episode": [0, 1], "start": [0, 0], "length": [2, 2], "label": 1.0}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([PAIR, {**PAIR, "who": "me"}], "pair 1: all pairs have the same columns"),
        ([{**PAIR, "start": [0.5, 0]}], "whole numbers, .* start of float64"),
        ([{**PAIR, "label": "first"}], "labels numbers"),
        ([PAIR, {**PAIR, "start": [0]}], "rows of one length"),
        ([{**PAIR, "episode": [0, 2]}], "there is no episode"),
        ([{**PAIR, "label": 2.0}], "its label 2.0 is not in"),
        ([{"start": [0, 0]}], "or episode, start, length, label; it holds start"),
        ([], "it holds nothing"),
        (["a line"], "pair 0"),
    ],
)
def test_rows_that_are_no_pairs_are_refused(rows, why):
    with pytest.raises(BadDataset, match=why):
        pal.load_preferences(rows, dataset())
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadDataset, match=why):
        pal.load_preferences("rows.jsonl", dataset())


def test_rows_do_not_say_which_dataset_they_are_about():
    with pytest.raises(BadDataset, match="give the dataset"):
        pal.load_preferences([PAIR])


def test_a_line_that_is_no_json_is_refused():
    Path("rows.jsonl").write_text("{")
    with pytest.raises(BadDataset, match=r"rows\.jsonl cannot be read"):
        pal.load_preferences("rows.jsonl", dataset())
