"""`palaestra explain`: what each token of an answer was worth to a policy, against the model that it began with."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from palaestra.cli.settings import Parser, read_value
from palaestra.cli.train import TRUST, add_task_settings, task_settings
from palaestra.core.errors import BadSetting, Unsupported, require
from palaestra.core.task import as_task

if TYPE_CHECKING:
    from palaestra.language.judges.implicit import ImplicitRewards
    from palaestra.language.policy import LanguagePolicy
    from palaestra.language.readout import Reading
    from palaestra.language.task import TextTask
    from palaestra.runs.run import Run

WHOSE = ("data", "reference", "policy")


class Asked(NamedTuple):
    """What is compared, as the command line names it."""

    policy: LanguagePolicy
    reference: str
    task: TextTask | None
    beta: float


def explain(arguments: list[str]) -> int:
    """`palaestra explain RUN`, or `palaestra explain MODEL --reference MODEL --task ID`."""
    parser = Parser(
        "explain",
        "Read answers token by token: beta log p / p_ref, the reward that a policy implies, drawn over the text.\n"
        "Of a policy that DPO trained it is credit: the lowest tokens are what preferences blame.",
        usage="palaestra explain RUN [options]\n"
        "       palaestra explain MODEL --reference MODEL --task ID [options]\n"
        "       palaestra explain RUN --prompt TEXT --answer TEXT [TEXT …]",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a language model: a folder or a hub name")
    parser.add_argument("--reference", metavar="NAME", help="the model to compare with [what the run is held to]")
    parser.add_argument("--task", metavar="ID", help="where prompts are from [the run's task]")
    parser.add_argument("--prompts", metavar="N", help="how many of its held-out prompts [5]")
    parser.add_argument(
        "--of", choices=WHOSE, help="whose answers: the data's judged ones, or new ones [data, if there are any]"
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="a prompt of your own; a user's message where the task asks by a chat template"
    )
    parser.add_argument("--answer", nargs="+", metavar="TEXT", help="answers to it")
    parser.add_argument("--beta", metavar="X", help="what log-ratios are multiplied by [the run's beta, or 1]")
    parser.add_argument("--seed", metavar="N", help="seed of which prompts, and of new answers [0]")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="the HTML page, with the numbers as JSON beside it [RUN/tokens.html]"
    )
    parser.add_argument("--trust", action="store_true", help=TRUST)
    add_task_settings(parser, arguments)
    given = parser.read(arguments)
    own = "prompt" in given
    require(
        own == ("answer" in given), "a prompt of your own needs answers, and answers a prompt: --prompt and --answer"
    )
    require(not own or "of" not in given, "--of is for a task's answers; those to --prompt are yours")
    require(
        given.get("out", ".html").endswith(".html"),
        f"--out names the page, such as tokens.html, got {given.get('out')}",
    )
    in_run = _is_run(given) or "reference" not in given
    asked = _run(given) if in_run else _model(given)

    from palaestra.language.judges.implicit import ImplicitRewards
    from palaestra.language.policy import LanguagePolicy
    from palaestra.language.readout import READOUT, Readout
    from palaestra.report.readout import readout_text, write_readout

    judge = ImplicitRewards(asked.policy, LanguagePolicy.make(asked.reference, asked.task), asked.beta)
    answers = _own(judge, asked.task, given["prompt"], given["answer"]) if own else _of_task(judge, asked.task, given)
    name = asked.task.name if asked.task is not None and not own else ""
    readout = Readout(given["run"], asked.reference, asked.beta, name, tuple(answers))
    print(readout_text(readout, colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    page = Path(given.get("out", Path(given["run"] if in_run else ".") / Path(READOUT).with_suffix(".html")))
    readout.save(page.with_suffix(".json"))
    write_readout(readout, page, shlex.join(["palaestra", "explain", *arguments]))
    print(f"written: {page}, {page.with_suffix('.json')}")
    return 0


def _run(given: Mapping[str, Any]) -> Asked:
    """A run's policy, what it is held to, its task and its beta, unless flags say otherwise."""
    from palaestra.language.policy import LanguagePolicy
    from palaestra.runs.begin import from_folder

    require(
        _is_run(given),
        f"{given['run']} is no run{'' if Path(given['run']).exists() else ', and there is no such folder'}; "
        "name the model to compare it with: --reference NAME",
    )
    run = from_folder(given["run"], trust="trust" in given)
    policy = run.policy
    if not isinstance(policy, LanguagePolicy) or policy.kind != LanguagePolicy.kind:
        raise Unsupported(
            f"{given['run']} has no language model whose tokens have probabilities, but a {type(policy).__name__}"
        )
    task = as_task(given["task"], **task_settings(given["task"], given)) if "task" in given else run.task
    beta = run.config.config.get("beta", 1.0)
    return Asked(policy, given.get("reference") or _held_to(run), _in_text(task), _beta(given, beta))


def _held_to(run: Run) -> str:
    """The name of the model that a run's policy is compared with, or began with."""
    from palaestra.language.models import SCRATCH
    from palaestra.methods.preference.direct_alignment import RECORDED
    from palaestra.runs.starts import ready

    method = ready(run.config, run.task, run.seed, run.engine)
    name = str(getattr(method, "refers_to", "") or method.config.get("reference") or method.config["model"])
    if name == RECORDED:
        raise BadSetting(f"what {run.folder} is compared with is in its rows alone; name a model by --reference")
    if SCRATCH.fullmatch(name):
        raise BadSetting(f"{run.folder} began from scratch, with weights that are nowhere; name a model by --reference")
    return name


def _model(given: Mapping[str, Any]) -> Asked:
    """A model by its name, and what flags say."""
    from palaestra.language.policy import LanguagePolicy

    require("task" in given or "prompt" in given, "which answers? add --task ID, or --prompt TEXT --answer TEXT")
    task = _in_text(as_task(given["task"], **task_settings(given["task"], given))) if "task" in given else None
    return Asked(LanguagePolicy.make(given["run"], task), given["reference"], task, _beta(given, 1.0))


def _is_run(given: Mapping[str, Any]) -> bool:
    return (Path(given["run"]) / "config.yaml").is_file()


def _beta(given: Mapping[str, Any], usual: float) -> float:
    return read_value([str(given.get("beta", usual))], float, "--beta")


def _in_text(task: Any) -> TextTask:
    if getattr(task, "offers", "env") != "prompts":
        raise Unsupported(f"{task.name} has no prompts; palaestra tasks lists those in text")
    return task


def _own(judge: ImplicitRewards, task: TextTask | None, prompt: str, answers: list[str]) -> list[Reading]:
    """What a user wrote, asked as the task asks its prompts; without one, by the model's chat template, if it has one."""
    from palaestra.language.readout import read
    from palaestra.language.tasks.in_words import prompt_of

    chat = judge.policy.tokeniser.chat_template is not None
    if task is not None:
        rows = task.rows("test") or task.rows("train")
        chat = not isinstance(rows[0]["prompt"], str)
    ids = [judge.policy.completion_ids(text) for text in answers]
    return read(judge, [{"prompt": prompt_of(prompt, chat)}] * len(ids), ids, [("yours", None, True)] * len(ids))


def _of_task(judge: ImplicitRewards, task: TextTask | None, given: Mapping[str, Any]) -> list[Reading]:
    """A task's answers, or new ones to its prompts."""
    from palaestra.language.preferences import kind_of
    from palaestra.language.readout import read_judged, read_samples

    assert task is not None
    prompts = read_value([str(given.get("prompts", 5))], int, "--prompts")
    seed = read_value([str(given.get("seed", 0))], int, "--seed")
    require(prompts >= 1, f"--prompts must be at least 1, got {prompts}")
    rows = task.rows("test")
    require(len(rows) > 0, f"{task.name} has no held-out prompts; give one of your own, with --prompt and --answer")
    judged = kind_of(rows[0]) is not None
    whose = given.get("of", "data" if judged else "reference")
    if whose == "data":
        require(judged, f"the held-out rows of {task.name} bring no judged answers; take new ones: --of reference")
        return read_judged(judge, task, prompts, seed)
    samples, scores = task.answered(judge.policy if whose == "policy" else judge.reference, prompts, seed)
    return read_samples(judge, samples, scores, f"the {whose}'s")
