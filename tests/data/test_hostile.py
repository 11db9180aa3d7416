"""Mistaken and hostile data: each is refused in one line that says what to do, and nothing in a file is executed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from palaestra.cli.main import main
from palaestra.data.importing import import_dataset

TABLE = """episode,step,obs_x,action,reward,terminated,truncated
a,0,0.1,0,1,0,0
a,1,0.2,1,1,1,0
b,0,0.3,0,1,0,0
b,1,0.4,1,0,0,1
b,2,0.5,,,,
"""


@pytest.fixture(autouse=True)
def _kept_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PALAESTRA_DATA", str(tmp_path / "kept"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def said(capsys, *command: str) -> tuple[int, str]:
    """The exit code of a command and all that it printed besides notes."""
    code = main(list(command))
    told = capsys.readouterr()
    assert "unexpected" not in told.err and "Traceback" not in told.err and "Warning" not in told.err
    assert told.err.count("\n") <= 1
    return code, "".join(line for line in (told.out + told.err).splitlines(True) if not line.startswith("note:"))


SAME = {
    "as it is": TABLE.encode(),
    "a byte-order mark": b"\xef\xbb\xbf" + TABLE.encode(),
    "lines that end as on Windows": TABLE.replace("\n", "\r\n").encode(),
    "spaces": TABLE.replace(",", " , ").encode(),
    "blank lines": TABLE.replace("\nb,0", "\n\n   \n,,,,,,\nb,0").encode(),
    "an index that a data frame wrote": "\n".join(
        f"{i or ''},{line}" for i, line in enumerate(TABLE.splitlines())
    ).encode(),
    "a comma after every line": TABLE.replace("\n", ",\n").encode(),
}


@pytest.mark.parametrize("text", SAME.values(), ids=list(SAME))
def test_what_programs_do_to_tables_does_no_harm(text, capsys):
    Path("logs.csv").write_bytes(text)
    assert said(capsys, "data", "import", "logs.csv", "--name", "mine")[1].startswith(
        "mine: 4 steps, 2 episodes, mean return 1.5\n"
    )


TABLES = {
    "empty": ("", "the table is empty; its first line names the columns"),
    "blank": ("\n\n\n", "the table is empty"),
    "semicolons": (TABLE.replace(",", ";"), "separated by semicolons; write it with commas, and numbers with points"),
    "decimal commas": (TABLE.replace(",", ";").replace(".", ","), "separated by semicolons"),
    "tabs": (TABLE.replace(",", "\t"), "separated by tabs"),
    "no head": (TABLE.partition("\n")[2], "the first line must name the columns .*, but reads a,0,0.1,0,1,0,0"),
    "another head": (
        TABLE.replace("episode,step", "id,time"),
        "no column 'episode': add which episode a line belongs to$",
    ),
    "a capital": (TABLE.replace("episode", "Episode"), "no column 'episode': add .* is 'Episode' meant"),
    "twice": (TABLE.replace("step,obs_x", "step,step"), "names 'step' twice"),
    "no episodes": ("\n".join(line.partition(",")[2] for line in TABLE.splitlines()), "no column 'episode'"),
    "an empty label": (TABLE.replace("b,0", " ,0"), "line 4: episode is empty"),
    "only a head": (TABLE.splitlines()[0], "has no line below its head"),
    "one open row": ("\n".join(TABLE.splitlines()[:2]), "the last row of episode a is neither terminated nor"),
    "one row": ("\n".join([TABLE.splitlines()[0], "a,0,0.1,0,1,1,0"]), "there is one episode only"),
    "a huge number": (TABLE.replace("0.3", "1e300"), "obs in row 2 is NaN or infinite"),
    "a huge action": (TABLE.replace("0.3,0", "0.3,1e30"), "'action' is an index from 0 and must be whole"),
    "labels": (TABLE.replace("0.3,0", "0.3,48213"), "only 3 of 48214 actions occur; if they are labels, number those"),
    "a word": (TABLE.replace("0.3", "fast"), "line 4: obs_x 'fast' is no number"),
    "a word below blank lines": (TABLE.replace("a,1", "\n\na,1").replace("0.3", "fast"), "line 6: obs_x 'fast'"),
    "thousands": (TABLE.replace("0.3", "1,000"), "line 4: 8 cells, but the head names 7"),
    "a line that never ends": (TABLE + '"' + "x" * 200_000, "cannot be read"),
}


@pytest.mark.parametrize(("text", "expected"), TABLES.values(), ids=list(TABLES))
def test_a_mistaken_table_is_refused_with_what_to_do(text, expected, capsys):
    Path("logs.csv").write_text(text)
    code, told = said(capsys, "data", "check", "logs.csv")
    assert code == 1 and told.startswith("- ") and told.endswith("problem(s)\n")
    assert re.search(expected, told.partition("\nlogs.csv: ")[0])


def arrays(**changed) -> dict[str, np.ndarray]:
    ends = (np.arange(20) % 5 == 4).astype(float)
    made = {
        "observations": np.random.default_rng(0).random((20, 3)),
        "actions": np.linspace(-1, 1, 20)[:, None],
        "rewards": np.arange(20.0),
        "terminals": 0 * ends,
        "timeouts": ends,
    }
    return {name: value for name, value in {**made, **changed}.items() if value is not None}


ARRAYS = {
    "nothing of a log": ({"data": np.zeros(3)}, "holds none of D4RL's arrays .*, but data"),
    "nothing": ({}, "holds none of D4RL's arrays .*, but nothing"),
    "of Minari": ({"episode_0/actions": np.zeros(3)}, "is a file of Minari's, which is read by its id: minari:ID"),
    "no actions": (arrays(actions=None), "action or actions is missing"),
    "no steps": ({name: array[:0] for name, array in arrays().items()}, "there are no steps"),
    "a single reward": (arrays(rewards=np.float64(3)), "reward is a single value"),
    "a group of rewards": (
        {**arrays(rewards=None), "rewards/a": np.zeros(20)},
        "reward has the parts a; only observations",
    ),
    "actions without numbers": (arrays(actions=np.zeros((20, 0))), "action has no numbers in a row"),
    "observations without numbers": (arrays(observations=np.zeros((20, 0))), "obs has no numbers in a row"),
    "words": (arrays(actions=np.array([b"left"] * 20)), "action is of type .*, which is no number"),
    "complex": (arrays(observations=np.zeros((20, 3)) + 1j), "obs is of type complex128"),
}


@pytest.mark.parametrize(("content", "expected"), ARRAYS.values(), ids=list(ARRAYS))
def test_hdf5_that_is_no_log_is_refused(content, expected, capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File("logs.hdf5", "w") as file:
        for name, array in content.items():
            file[name] = array
    code, told = said(capsys, "data", "import", "logs.hdf5", "--name", "mine")
    assert code == 2
    assert re.search(expected, told)
    assert not Path("kept/mine").exists()


def test_hdf5_that_leads_round_in_circles_is_refused(capsys):
    h5py = pytest.importorskip("h5py")
    with h5py.File("logs.hdf5", "w") as file:
        file.create_group("observations")["again"] = h5py.SoftLink("/observations")
    with h5py.File("link.hdf5", "w") as file:
        file["observations"] = h5py.SoftLink("/observations")
    for name in ("logs.hdf5", "link.hdf5"):
        assert f"{name} cannot be read" in said(capsys, "data", "check", name)[1]


class Touch:
    """What a pickle could do."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_no_file_is_unpickled(capsys):
    np.savez("objects.npz", **arrays(actions=np.array([Touch()] * 20, dtype=object)))
    np.save("objects.npy", np.array([Touch()], dtype=object))
    Path("pickle.npz").write_bytes(Path("objects.npy").read_bytes())
    np.savez("whole.npz", **arrays())
    Path("torn.npz").write_bytes(Path("whole.npz").read_bytes()[:900])
    Path("empty.npz").write_bytes(b"")
    for name in ("objects", "pickle", "torn", "empty"):
        code, told = said(capsys, "data", "check", f"{name}.npz")
        assert code == 1 and f"{name}.npz cannot be read" in told
    assert not Path("executed").exists()


def test_a_folder_is_no_file(capsys):
    Path("logs.csv").mkdir()
    assert "logs.csv is a folder without a dataset.json" in said(capsys, "data", "check", "logs.csv")[1]
    assert said(capsys, "data", "import", "logs.csv", "--name", "mine")[0] == 2


LIMITS = {
    "--action-low -2": "give --action-low and --action-high together",
    "--action-low x --action-high 1": "takes numbers, got 'x'",
    "--action-low nan --action-high 1": "--action-low must be finite",
    "--action-count 3": "--action-count is for actions that are indices, but these are numbers",
    "--action-count 0": "--action-count must be at least 1",
    "--env CartPole-v1 --action-low 0 --action-high 1": "the environment says what its actions are",
    "--env CartPole-v2": "did you mean 'CartPole-v1'",
    "--env CartPole-v1": "obs has the shape (3,) per step, but its space says (4,)",
    "--references 5 1": "references are two returns, a random policy's and an expert's above it, got 5 and 1",
    "--references 0 nan": "got 0 and nan",
}


@pytest.mark.parametrize(("options", "expected"), LIMITS.items())
def test_what_is_said_of_a_file_must_fit_it(options, expected, capsys):
    np.savez("logs.npz", **arrays())
    code, told = said(capsys, "data", "import", "logs.npz", "--name", "mine", *options.split())
    assert code == 2 and expected in told and not Path("kept/mine").exists()


def test_indices_have_no_limits(capsys):
    Path("logs.csv").write_text(TABLE)
    limits = ("--action-low", "0", "--action-high", "1")
    assert "have no limits" in said(capsys, "data", "import", "logs.csv", "--name", "mine", *limits)[1]


@pytest.mark.parametrize("name", ["../x", "a/../b", "/abs", "", "a/", "a:b", "nul\x00l", "x" * 300, "cache/x", "local"])
def test_a_dataset_is_kept_where_datasets_are(name, capsys):
    Path("logs.csv").write_text(TABLE)
    code, told = said(capsys, "data", "import", "logs.csv", "--name", name)
    assert code == 2 and ("name" in told)
    assert not list(Path().rglob("dataset.json"))


def test_a_dataset_holds_no_other(capsys):
    Path("logs.csv").write_text(TABLE)
    said(capsys, "data", "import", "logs.csv", "--name", "mine")
    assert "inside the dataset" in said(capsys, "data", "import", "logs.csv", "--name", "mine/more")[1]
    mixed = ("data", "mix", "mine", "mine", "--share", "0.5")
    assert "is there already" in said(capsys, *mixed, "--name", "mine")[1]
    assert "begin with behaviour" in said(capsys, *mixed, "--name", "behaviour/x")[1]
    assert "size must be a whole number from 1 to 8,000" in said(capsys, *mixed, "--name", "both", "--size", "1e30")[1]


UNKNOWN = {
    "nothing": "unknown dataset 'nothing' (known: mine)",
    "mien": "did you mean 'mine'",
    "minary:x": "did you mean 'minari'",
    "local:Pendulum-v1/mediun": "unknown quality 'mediun'; did you mean 'medium'?",
    "local:Pendulum-v9/medium": "did you mean 'Pendulum-v1'",
    "local:Pendulum-v1": "a local dataset is ENV/QUALITY, such as local:Pendulum-v1/medium",
    "minari:nothing": "an id of Minari's is NAME-vN",
    "minari:../../x-v0": "an id of Minari's is NAME-vN",
    "d4rl:gone.hdf5": "there is no file gone.hdf5",
    "logs.csv": "palaestra data import logs.csv --name NAME",
    "empty": "empty is a folder without a dataset.json",
    "./empty": "empty is a folder without a dataset.json",
    "./gone": "there is no folder gone",
    "": "a dataset's name is made of",
}


@pytest.mark.parametrize(("name", "expected"), UNKNOWN.items())
def test_a_name_that_leads_nowhere_is_answered_by_the_nearest(name, expected, capsys):
    Path("logs.csv").write_text(TABLE)
    Path("empty").mkdir()
    said(capsys, "data", "import", "logs.csv", "--name", "mine")
    for command in (("data", "show", name), ("train", "bc", "--dataset", name, "--updates", "3")):
        code, told = said(capsys, *command)
        assert code == 2 and expected in told


def test_what_a_table_calls_its_columns_does_nothing_to_a_terminal(capsys):
    Path("logs.csv").write_text(TABLE.replace("obs_x", "obs_\x1b[31mx"))
    for command in (("import", "logs.csv", "--name", "mine"), ("show", "mine"), ("check", "logs.csv")):
        main(["data", *command])
        assert "\x1b" not in capsys.readouterr().out


FITS = {
    ("discrete", "td3-bc"): "td3-bc needs box actions, but discrete has Discrete(3); methods that fit: ",
    ("vector", "dqn-offline"): "dqn-offline needs discrete actions, but vector has Box",
    ("image", "prdc"): "prdc measures distances between vectors, but image has images; use td3-bc",
    ("parts", "bc --sampler aw"): "parts: aw needs observations that are float vectors; use rw",
    ("vector", "dac"): "vector names no environment to act in; give one with --task ID",
    ("vector", "sac"): "sac learns by interaction, but vector is a dataset; use --task ID",
}


@pytest.mark.parametrize(("what", "expected"), FITS.items())
def test_a_method_says_what_data_it_cannot_learn_from(what, expected, capsys):
    name, method = what
    vectors = np.random.default_rng(0).random((20, 3))
    changed = {
        "vector": {},
        "discrete": {"actions": np.arange(20) % 3},
        "image": {"observations": np.random.default_rng(0).integers(0, 255, (20, 36, 36, 3), dtype=np.uint8)},
        "parts": {"observations": {"a": vectors, "b": vectors}},
    }
    import_dataset(arrays(**changed[name]), name=name)
    code, told = said(capsys, "train", *method.split(), "--dataset", name, "--updates", "2", "--quiet")
    assert code == 2 and expected in told
    assert "sac" not in told.partition("methods that fit:")[2].split(", ")  # which learns by acting


def test_a_report_is_written_to_a_file(capsys):
    import_dataset(arrays(), name="mine")
    assert said(capsys, "data", "show", "mine", "-o", ".")[1].endswith("'.' is a folder; name the file to write\n")
