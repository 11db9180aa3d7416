"""The result file of a reproduced claim: the same content as JSON for programs and as Markdown for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from palaestra.claims.claim import Claim, Finding, Records, mean
from palaestra.core.method import make_method
from palaestra.runs.folder import plain_settings

Content = dict[str, Any]


def as_json(claim: Claim, scale: str, records: Records, findings: list[Finding], about: Mapping[str, Any]) -> Content:
    """All there is to say about a reproduction: the verdict, what was run, on what, and every seed's numbers."""
    arms = {}
    for label, arm in claim.scale(scale).arms.items():
        own = [record for record in records if record.arm == label]
        measured = [name for name in own[0].measures if all(name in record.measures for record in own)]
        arms[label] = {
            "method": arm.method.name,
            "settings": plain_settings(arm.method.config),
            "task": arm.task,
            "task_settings": dict(arm.settings),
            "begins_with": arm.begins_with,
            "named": dict(arm.named),
            "steps": arm.steps,
            "updates": arm.updates,
            "seeds": [record.seed for record in own],
            "return": dataclasses.asdict(mean(records.final(label))) if own[0].curve else None,
            "measures": {name: dataclasses.asdict(mean(records.measure(label, name))) for name in measured},
            "runs": [
                {
                    "seed": record.seed,
                    "return": record.final if record.curve else None,
                    "measures": dict(record.measures),
                    "curve": record.curve,
                    "seconds": record.seconds,
                    "commit": record.commit,
                }
                for record in own
            ],
        }
    further = claim.scale(scale).tables
    return {
        "claim": claim.name,
        "scale": scale,
        "paper": dataclasses.asdict(claim.paper),
        "sentence": claim.sentence,
        "holds": all(finding.held for finding in findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        **about,
        "commits": sorted({record.commit or "unknown" for record in records}),
        "training_seconds": round(sum(record.seconds for record in records), 1),
        "tables": further(records) if further else {},
        "arms": arms,
    }


def as_markdown(content: Content) -> str:
    """The JSON content as a page to read."""
    paper = content["paper"]
    source = f", [arXiv {paper['arxiv']}](https://arxiv.org/abs/{paper['arxiv']})" if paper["arxiv"] else ""
    verdict = "holds" if content["holds"] else "does not hold"
    lines = [
        f"# {content['claim']}, {content['scale']} scale: the claim {verdict}",
        "",
        f"*{paper['title']}* ({paper['year']}){source}. {content['sentence']}",
        "",
        f"- command: `{content['command']}`",
        f"- commit: {', '.join(content['commits'])}",
        f"- machine: {content['machine']}",
        f"- versions: palaestra {content['palaestra']}, Python {content['python']}, torch {content['torch']}, "
        f"numpy {content['numpy']}",
        f"- time: {_duration(content['training_seconds'])} of training, all runs added up; the last call, which trained "
        f"what was missing, took {_duration(content['seconds'])}",
        "",
        "Returns are those of the final policy over its last evaluation, greedy unless its task has answers sampled: of ten",
        "episodes, or of as many held-out prompts as a task in text asks. Intervals are 95% bootstrap intervals over seeds; what",
        "held is decided by the estimates, unless it says so.",
        "",
        "| | what must hold | numbers |",
        "| --- | --- | --- |",
    ]
    for finding in content["findings"]:
        held = "held" if finding["held"] else "**not held**"
        lines.append(_row([held, finding["sentence"], _numbers(finding["numbers"])]))
    for heading, rows in content.get("tables", {}).items():  # older results have none
        lines += ["", f"## {heading}", "", *table(rows)]
    measures = list(dict.fromkeys(name for arm in content["arms"].values() for name in arm["measures"]))
    header = ["arm", "task", "budget", "seeds", "return at the end", "each seed", *measures]
    lines += ["", "## Arms", "", _row(header), _row(["---"] * len(header))]
    for label, arm in content["arms"].items():
        each = ", ".join(f"{run['return']:.4g}" for run in arm["runs"] if run["return"] is not None)
        seeds = f"{min(arm['seeds'])}-{max(arm['seeds'])}"
        found = [_interval(arm["measures"][name]) if name in arm["measures"] else "" for name in measures]
        budget = " or ".join(f"{arm[unit]:,} {unit}" for unit in ("steps", "updates") if arm[unit])
        final = _interval(arm["return"]) if arm["return"] is not None else ""
        lines.append(_row([label, arm["task"], budget, seeds, final, each, *found]))
    lines += ["", "## Settings", "", "Settings not named are the method's defaults.", ""]
    for label, arm in content["arms"].items():
        about = [f"`{arm['method']}` {_changed(arm)}".strip()]
        if arm.get("task_settings"):
            about.append(", ".join(f"task's {name} {value}" for name, value in arm["task_settings"].items()))
        if arm["begins_with"]:
            about.append(f"begins with {arm['begins_with']}")
        about += [f"{setting} is {other}" for setting, other in arm.get("named", {}).items()]  # older results have none
        lines.append(f"- {label}: {'; '.join(about)}")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells, the header first, as lines of Markdown."""
    return [_row(row) for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def line(finding: Finding) -> str:
    """A finding as a line of text."""
    numbers = "; ".join(f"{name} {number}" for name, number in finding.numbers.items())
    return f"{'held    ' if finding.held else 'NOT HELD'}  {finding.sentence}  ({numbers})"


def _changed(arm: Mapping[str, Any]) -> str:
    method = make_method(arm["method"])
    usual, settings = plain_settings(method.config), method.as_now(arm["settings"])
    # What an older result names may be a setting no more.
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name not in usual or value != usual[name])


def _numbers(numbers: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(f"{name} {_interval(number)}" for name, number in numbers.items())


def _interval(number: Mapping[str, float]) -> str:
    return f"{number['value']:.4g} [{number['low']:.4g}, {number['high']:.4g}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
