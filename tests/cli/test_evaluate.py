"""`palaestra evaluate` on tasks in text: any language model, wherever it is, on any task."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from palaestra.cli.main import main
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.sorting import Sorting

QUICK = ["--model", "tiny-16x1", "--updates", "4", "--no-tensorboard", "--quiet"]
RUN = "run"


@pytest.fixture
def trained(capsys):
    """A run on short lists, which keeps its best policy, and the same policy as any library of transformers leaves it."""
    sorting = ["--task", "sorting", "--task.most", "3", "--task.train-rows", "50"]
    assert main(["train", "sft", *sorting, *QUICK, "--keep-best", "--evaluate-every", "2", "--out", RUN]) == 0
    policy = LanguagePolicy.load(Path(RUN) / "policy")
    policy.model.save_pretrained("plain")
    policy.tokeniser.save_pretrained("plain")
    return capsys.readouterr().out


def evaluated(capsys, *arguments: str) -> str:
    assert main(["evaluate", *arguments]) == 0
    return capsys.readouterr().out


def test_a_run_its_policy_and_a_plain_folder_score_alike_on_a_task_that_none_was_trained_on(trained, capsys):
    asked = ["--task", "sorting", "--task.least", "4", "--task.most", "5", "--episodes", "7", "--samples", "2"]
    run, policy, plain = (evaluated(capsys, name, *asked) for name in (RUN, f"{RUN}/policy", "plain"))
    assert run.startswith(f"{RUN} on sorting-least=4-most=5, 7 answers of")
    assert "pass@2" in run
    rest = {said.partition(" on ")[2] for said in (run, policy, plain)}
    assert len(rest) == 1


def test_the_score_on_another_task_is_that_of_python(trained, capsys):
    said = evaluated(capsys, "plain", "--task", "sorting", "--task.most", "3", "--episodes", "20", "--seed", "3")
    score = Sorting(most=3).evaluate(LanguagePolicy.make("plain"), 20, 3).mean
    assert f"  score  {score:.3f} " in said


def test_a_task_with_a_file_of_its_own_is_for_any_model(trained, capsys):
    rows = [{"problem": f"{i} + 1 =", "answer": str(i + 1)} for i in range(20)]
    Path("sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = evaluated(capsys, "plain", "--task", "maths", "--task.path", "sums.jsonl", "--task.limit", "4")
    assert re.match(r"plain on maths\S*, \d+ answers of", said)


def test_as_many_prompts_are_asked_as_the_task_says(trained, capsys, monkeypatch):
    monkeypatch.setattr(Sorting, "evaluation_episodes", 13)
    assert "13 answers of" in evaluated(capsys, RUN)
    assert "13 answers of" in evaluated(capsys, "plain", "--task", "sorting")


def test_a_name_that_is_no_folder_is_one_on_the_hub(trained, capsys, monkeypatch):
    asked = []
    make = LanguagePolicy.make
    monkeypatch.setattr(LanguagePolicy, "make", lambda name, task: asked.append(name) or make("plain", task))
    assert evaluated(capsys, "owner/model", "--task", "sorting").startswith("owner/model on sorting")
    assert asked == ["owner/model"]


def test_the_policy_that_was_kept_as_the_best_is_evaluated_on_the_task_of_its_run(trained, capsys, monkeypatch):
    LanguagePolicy.make("tiny-16x1", NoisySort(train_rows=20)).save(f"{RUN}/best")  # not the last one
    seen = []
    evaluate = Sorting.evaluate

    def watched(self, policy, *arguments):
        seen.append((policy.model.lm_head.weight.detach(), self.most))
        return evaluate(self, policy, *arguments)

    monkeypatch.setattr(Sorting, "evaluate", watched)
    for name, kept in ((f"{RUN}/best", ", best"), (RUN, "")):
        said = evaluated(capsys, name, "--episodes", "2")
        assert said.startswith(f"sft sorting-train_rows=50-most=3 seed 0{kept}, 2 answers of")
    expected = [LanguagePolicy.load(Path(RUN) / part).model.lm_head.weight for part in ("best", "policy")]
    assert all(torch.equal(weight, own) and most == 3 for (weight, most), own in zip(seen, expected, strict=True))
    assert not torch.equal(*expected)


def test_pass_at_k_is_told_of_all_samples_whatever_their_number(trained, capsys):
    said = evaluated(capsys, RUN, "--episodes", "3", "--samples", "3")
    assert re.findall(r"pass@(\d+)", said) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["plain"],
            "plain is not a run (config.yaml is missing); a language model is scored on a task in text: --task ID",
        ),
        (["nowhere", "--task", "sorting"], "there is no model nowhere"),
        (["tiny-16x1", "--task", "sorting"], "tiny-16x1 starts from scratch"),
        (["mdm-16x1", "--task", "sorting"], "mdm-16x1 starts from scratch"),
        (["plain", "--task", "CartPole-v1"], "plain is not a run"),
        ([RUN, "--task", "CartPole-v1"], "--task is for runs that learnt from data, and tasks in text"),
        ([RUN, "--task", "sorting", "--task.mst", "3"], "did you mean '--task.most'"),
        (["plain", "--task", "sorting", "--video"], "is text, of which there is no film"),
        (["plain", "--task", "sorting", "--beam", "2", "--samples", "2"], "a beam draws none"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(trained, arguments, says, capsys):
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and len(error.splitlines()) == 1


def test_a_run_that_learnt_from_rows_alone_is_told_that_it_needs_a_reward(trained, capsys):
    Path("rows.jsonl").write_text("\n".join(json.dumps({"prompt": f"{i}=", "completion": f"{i}"}) for i in range(20)))
    prompts = ["--task", "prompts", "--task.data", "rows.jsonl", "--task.limit", "4"]
    assert main(["train", "sft", *prompts, "--model", RUN, *QUICK[2:], "--out", "rows"]) == 0
    assert main(["evaluate", "rows"]) == 2
    assert (
        "its task has no reward, or no held-out prompts; name both: palaestra evaluate rows" in capsys.readouterr().err
    )
    Path("rewards.py").write_text("def none(completions, **_):\n    return [0.0] * len(completions)\n")
    assert main(["evaluate", "rows", *prompts, "--task.reward", "rewards.py:none"]) == 0


def test_a_policy_of_control_answers_nothing(capsys):
    quick = ["--steps", "32", "--quiet", "--no-tensorboard", "--evaluate-every", "0"]
    assert main(["train", "reinforce", "--task", "CartPole-v1", *quick, "--out", "control"]) == 0
    for name in ("control", "control/policy"):
        assert main(["evaluate", name, "--task", "sorting"]) == 2
        assert (
            "has no language model, which sorting is for: its policy is of class ActorCritic" in capsys.readouterr().err
        )
    assert main(["evaluate", "control/policy", "--episodes", "1"]) == 0  # its run says where
