"""`reproduce`: a paper's claim is run, as a trial of every arm with every seed, and it is said whether it holds."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from palaestra.claims import result
from palaestra.claims.claim import Claim, Record, Records
from palaestra.core import files, registry
from palaestra.core.errors import BadSetting, PalaestraError, unknown
from palaestra.core.task import as_task
from palaestra.language.kept import keeping, sweep
from palaestra.runs.compare import SAME
from palaestra.runs.engine import Engine
from palaestra.runs.executors import train_all
from palaestra.runs.origin import versions
from palaestra.runs.run import Run


class Trial(Run):
    """One seed of one arm: a run that measures itself when it has finished."""

    def __init__(self, claim: Claim, scale: str, arm: str, seed: int):
        self.claim, self.scale, self.arm = claim, scale, arm
        given = claim.scale(scale).arms[arm]
        self.after = {*given.others.values(), *given.beside}
        policies = {name: str(_folder(claim, scale, other, seed)) for name, other in given.others.items()}
        method = replace(given.method, **policies)  # type: ignore[arg-type]
        engine = Engine(tensorboard=False, **given.engine)
        budget = {"steps": given.steps, "updates": given.updates}
        task = as_task(given.task.replace("{seed}", str(seed)), **given.settings)
        folder = _folder(claim, scale, arm, seed)
        super().__init__(method, task, **budget, seed=seed, folder=folder, engine=engine)  # type: ignore[arg-type]

    @property
    def title(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def measured(self) -> bool:
        """Whether there is nothing left to do."""
        return self._outcome.exists()

    def train(self, resume: bool = False, overwrite: bool = False) -> Trial:
        """Train, then keep what the claim's `measure` finds on the finished run, of which networks and buffer still live."""
        with keeping(self.answers):
            super().train(resume, overwrite)
            measures = self.claim.measure(self) if self.claim.measure is not None else {}
        outcome = {"measures": measures, "seconds": self.record["seconds"], "commit": self.record["commit"]}
        files.write_text(self._outcome, json.dumps(outcome))
        return self

    def read(self) -> Record:
        """What the finished trial left behind."""
        rows = [row for row in self.metrics if "evaluation/return" in row]
        unit = "steps" if self.budget.steps else "updates"
        curve = tuple((row[unit], row["evaluation/return"]) for row in rows)
        return Record(self.arm, self.seed, curve, **json.loads(self._outcome.read_text()))

    @property
    def answers(self) -> Path:
        """Where answers of frozen models are kept until all of the experiment is measured."""
        return self.folder.parent.parent / "answers"

    def other(self, arm: str) -> Path:
        """The folder of another arm, of the same seed."""
        return self.folder.parent.parent / plain(arm) / self.folder.name

    @property
    def _outcome(self) -> Path:
        return self.folder / "claim.json"


def _folder(claim: Claim, scale: str, arm: str, seed: int) -> Path:
    return claim.runs / claim.name / scale / plain(arm) / f"seed{seed}"


def plain(arm: str) -> str:
    """Its name as a folder, which may be one of a soup's models."""
    return arm.replace(",", "").replace(" ", "-").replace("/", "-")


def stages(planned: list[Trial]) -> list[list[Trial]]:
    """The trials in stages, so that each comes after those whose policies it is given."""
    depth: dict[str, int] = {}
    before = {trial.arm: trial.after for trial in planned}

    def of(arm: str) -> int:
        if arm not in depth:
            for first in before[arm]:
                if first not in before:
                    raise unknown("arm to begin with:", first, before)
            depth[arm] = max((1 + of(first) for first in before[arm]), default=0)
        return depth[arm]

    found: list[list[Trial]] = [[] for _ in range(1 + max(of(trial.arm) for trial in planned))]
    for trial in planned:
        found[of(trial.arm)].append(trial)
    return found


def trials(claim: Claim, scale: str) -> list[Trial]:
    """Every arm with every seed, seed by seed, so that an interrupted experiment has covered all arms."""
    arms = claim.scale(scale).arms
    most = max(arm.seeds for arm in arms.values())
    planned = [
        Trial(claim, scale, label, seed) for seed in range(most) for label, arm in arms.items() if seed < arm.seeds
    ]
    for trial in planned:
        try:
            trial.check_same(SAME)
        except BadSetting as error:
            what = str(error).partition(" was started with ")[2].rpartition(";")[0] or "something else"
            folder = claim.runs / claim.name / scale
            raise BadSetting(f"{trial.folder} was started with {what}; move {folder} away to start again") from None
    return planned


def finish(planned: list[Trial], workers: int | None = None) -> Records:
    """Train what is not finished, stage by stage, and read all of it.

    Raises:
        PalaestraError: a run failed, so that nothing can be said.
    """
    for stage in stages(planned):
        failures = train_all([trial for trial in stage if not trial.measured], workers)
        if failures:
            first = next(iter(failures.values()))
            raise PalaestraError(
                f"{len(failures)} of {len(planned)} runs failed; the first: {first}; call again to go on"
            )
    for folder in {trial.answers for trial in planned}:
        sweep(folder)
    return Records(trial.read() for trial in planned)


def reproduce(name: str, scale: str = "small", workers: int | None = None, out: str | Path | None = None) -> bool:
    """Run the claim called `name` (or found at `file.py:claim`) and say whether all of it holds.

    Runs are kept under `runs/claims/<name>/<scale>`, and an interrupted reproduction goes on where it stopped. The
    verdict is printed and written to `<out>/<name>-<scale>.json` and `.md`, `out` being `results` unless given.
    `workers` is how many runs train at once, by default one per core.

    Raises:
        UnknownName: there is no such claim or scale.
        BadSetting: `runs/claims` holds runs of another version of the claim.
        PalaestraError: a run failed, so that nothing can be said.
    """
    claim: Claim = registry.claim(name)
    chosen = claim.scale(scale)
    print(f"{claim.name}, {scale} scale: {claim.sentence}\n{chosen.cost}", flush=True)  # before data are looked for
    planned = trials(claim, scale)
    began = time.monotonic()
    records = finish(planned, workers)
    findings = chosen.verdict(records)
    holds = all(finding.held for finding in findings)
    about = {"command": f"palaestra reproduce {name} --scale {scale}", **versions()}
    about["seconds"] = round(time.monotonic() - began, 1)
    folder = Path(out or "results")
    content = result.as_json(claim, scale, records, findings, about)
    files.write_text(folder / f"{claim.name}-{scale}.json", json.dumps(content, indent=1) + "\n")
    files.write_text(folder / f"{claim.name}-{scale}.md", result.as_markdown(content))
    for finding in findings:
        print(result.line(finding))
    print(f"the claim {'holds' if holds else 'does not hold'}; see {folder / f'{claim.name}-{scale}.md'}")
    return holds
