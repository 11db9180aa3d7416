"""`palaestra evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palaestra.cli.settings import Parser, field_docs, read_number, read_value
from palaestra.cli.train import TRUST, add_task_settings, show, task_settings
from palaestra.core.errors import PalaestraError, Unsupported, require
from palaestra.core.policy import Policy, load_policy
from palaestra.core.seeding import seed_for
from palaestra.core.task import Evaluation, Task, as_task
from palaestra.data.task import DatasetTask
from palaestra.report.statistics import bootstrap
from palaestra.runs.begin import from_folder
from palaestra.runs.engine import Engine

if TYPE_CHECKING:
    from palaestra.language.task import TextTask

VIDEO = Path("videos") / "evaluation.gif"


class Subject(NamedTuple):
    """What is evaluated, and where."""

    title: str
    policy: Policy
    task: Task
    seed: int
    evaluate: Callable[[int, int, Path | None], Evaluation]
    """Given a number of episodes, the seed of what they are, and where a film goes."""


def evaluate(arguments: list[str]) -> int:
    """`palaestra evaluate RUN --episodes N`, or `palaestra evaluate MODEL --task ID`."""
    parser = Parser(
        "evaluate",
        "Play episodes with the trained policy of a run, greedily, on fresh environments, or answer held-out prompts.\n"
        "RUN/best is the policy that --keep-best kept. Any language model is scored on any task in text.",
        usage="palaestra evaluate RUN [options]\n       palaestra evaluate RUN|MODEL --task ID [options]",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a language model: a folder or a hub name")
    parser.add_argument(
        "--task",
        metavar="ID",
        help="where to play what was learnt from data, or what to ask a language model [its own]",
    )
    parser.add_argument("--episodes", metavar="N", help="how many [10, or as many prompts as the task in text says]")
    parser.add_argument("--samples", metavar="N", help="also sample N answers to each prompt, for pass@k")
    parser.add_argument("--generation", metavar="NAME", help=f"{field_docs(Engine)['generation']} [own]")
    parser.add_argument("--beam", metavar="N", help="answer with the likeliest text that a beam of width N finds")
    parser.add_argument("--seed", metavar="N", help="seed of environments or prompts [from the run's seed]")
    parser.add_argument("--video", action="store_true", help="film the first episode into RUN/videos")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    add_task_settings(parser, arguments)
    given = parser.read(arguments)
    subject = _subject(given)
    in_text = _in_text(subject.task)
    seed = read_number(given.get("seed"), int, "--seed")
    usual = getattr(subject.task, "evaluation_episodes", 10)
    episodes = read_value([str(given.get("episodes", usual))], int, "--episodes")
    samples = read_number(given.get("samples"), int, "--samples")
    require(samples is None or in_text, "--samples is for language models, which answer a prompt several times")
    require(
        samples is None or "beam" not in given, "--samples draws answers, and a beam draws none; leave one of them out"
    )
    subject.policy.generate_with(_engine(given))
    video = Path(given["run"]) / VIDEO if "video" in given else None
    outcome = subject.evaluate(episodes, seed_for(subject.seed, "evaluate", -1) if seed is None else seed, video)
    _show_outcome(subject.title, outcome, in_text)
    if samples is not None:
        _show_passes(subject, episodes, samples, subject.seed if seed is None else seed)
    if video is not None:
        print(f"  video  {video}")
    return 0


def _subject(given: Mapping[str, Any]) -> Subject:
    name: str = given["run"]
    task: Any = None
    if "task" in given:
        task = as_task(given["task"], **task_settings(given["task"], given))
        if _in_text(task):
            policy = _language_policy(name, task)
            return Subject(f"{name} on {task.name}", policy, task, 0, partial(task.evaluate, policy))
    folder, kept = Path(name), ""
    if (folder / "policy.json").exists() and (folder.parent / "config.yaml").exists():
        folder, kept = folder.parent, f", {folder.name}"
    if not (folder / "config.yaml").exists():
        raise PalaestraError(
            f"{name} is not a run (config.yaml is missing); a language model is scored on a task in text: --task ID"
        )
    run = from_folder(folder, trust="trust" in given)
    if task is not None:
        require(
            isinstance(run.task, DatasetTask),
            "--task is for runs that learnt from data, and tasks in text for language models; others play their own",
        )
        run.task = DatasetTask(run.task.dataset, given["task"])
    require(
        run.config.evaluates_on(run.task) or not _in_text(run.task),
        f"there is nothing to evaluate {name} by: its task has no reward, or no held-out prompts; name both: palaestra evaluate "
        f"{name} --task prompts --task.data FILE --task.reward rewards.py:score --task.limit TOKENS",
    )
    policy = load_policy(name) if kept else run.policy
    return Subject(f"{run.title}{kept}", policy, run.evaluated_on, run.seed, partial(run.evaluate, policy=policy))


def _language_policy(name: str, task: TextTask) -> Policy:
    """The policy of a run, in a folder of its own, or of a model that palaestra has never seen.

    Raises:
        Unsupported: it gives no answers in text, or there are no weights.
    """
    from palaestra.language.models import SCRATCH
    from palaestra.language.policy import LanguagePolicy

    if SCRATCH.fullmatch(name) and not Path(name).exists():
        raise Unsupported(f"{name} starts from scratch, with weights that are drawn; name a model that has some")
    written = any((Path(name) / part / "policy.json").exists() for part in ("", "policy"))
    policy = load_policy(name) if written else LanguagePolicy.make(name, task)
    if not isinstance(policy, LanguagePolicy):
        raise Unsupported(
            f"{name} has no language model, which {task.name} is for: its policy is of class {type(policy).__name__}; "
            "what learnt control plays its own task, without --task"
        )
    return policy


def _in_text(task: Task) -> bool:
    return getattr(task, "offers", "env") == "prompts"


def _engine(given: Mapping[str, Any]) -> Any:
    """What gives the answers of an evaluation, as `Policy.generate_with` takes it."""
    if "beam" not in given:
        return given.get("generation", "own")
    require("generation" not in given, "a beam is searched by palaestra itself; leave --generation or --beam out")
    from palaestra.language.generation.beam import BeamSearch

    return BeamSearch(read_value([given["beam"]], int, "--beam"))


def _show_outcome(title: str, outcome: Evaluation, in_text: bool) -> None:
    count, digits = len(outcome.returns), 3 if in_text else 1
    spread = outcome.row()["evaluation/deviation"]
    lowest, highest = (f"{r:.{digits}f}" for r in (min(outcome.returns), max(outcome.returns)))
    one, unit = ("answer", "tokens") if in_text else ("episode", "steps")
    many = f"{count} {one}{'s' if count > 1 else ''}"
    print(f"{title}, {many} of {outcome.steps / count:.0f} {unit}{' on average' if count > 1 else ''}")
    name = "score " if in_text else "return"
    print(f"  {name} {outcome.mean:.{digits}f} ± {spread:.{digits}f}, from {lowest} to {highest}")
    for name, value in outcome.measures.items():
        print(f"  {name:24s} {value:.3g}")
    show(outcome.examples)


def _show_passes(subject: Subject, prompts: int, samples: int, seed: int) -> None:
    """pass@k for k = 1, 2, 4, … and the number of samples, with 95% intervals over the prompts."""
    from palaestra.language.passes import passes

    found = passes(subject.policy, subject.task, samples, prompts, seed)  # type: ignore[arg-type]
    print(f"  {samples} answers sampled to each of {len(found.right)} prompts; a score of 1 or more passes")
    for k in [*(2**i for i in range(samples.bit_length()) if 2**i < samples), samples]:
        each = found.of_each(k).numpy() + 0.0  # no minus in front of 0
        shown = bootstrap([each], lambda x: x.mean(-1))
        print(f"  pass@{k:<4d} {shown.value:.3f} [{shown.low:.3f}, {shown.high:.3f}]")
