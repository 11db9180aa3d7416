"""Where a figure comes from."""

import subprocess

from palaestra.runs.origin import commit_of


def git(folder, *asked):
    named = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *named, *asked], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_what_changed_in_the_package_makes_its_commit_dirty_and_results_beside_it_do_not(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "results.json").write_text("{}")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit_of(package) == commit
    commit_of.cache_clear()
    (package / "code.py").write_text("x = 2\n")
    assert commit_of(package) == f"{commit}-dirty"


def test_outside_a_repository_there_is_no_commit(tmp_path):
    assert commit_of(tmp_path) is None
