"""`palaestra explain`: runs and pairs of models, as text, JSON and a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palaestra.cli.main import main
from palaestra.language.policy import LanguagePolicy

TASK = ["--task", "noisy-sort", "--task.train-rows", "60", "--quiet", "--no-tensorboard", "--evaluate-every", "0"]
START, DPO = "start", "dpo"


@pytest.fixture
def trained(capsys):
    assert main(["train", "sft", *TASK, "--model", "tiny-16x1", "--updates", "3", "--out", START]) == 0
    given = ["--model", START, "--method.beta", "0.5", "--method.lr", "0.01", "--updates", "3", "--out", DPO]
    assert main(["train", "dpo", *TASK, *given]) == 0
    capsys.readouterr()


def read(path: str) -> dict:
    return json.loads(Path(path).read_text())


def test_a_run_is_read_against_what_it_began_with_on_its_own_task(trained, capsys):
    assert main(["explain", DPO, "--prompts", "3"]) == 0
    said = capsys.readouterr().out
    found = read("dpo/tokens.json")
    assert (found["reference"], found["beta"], len(found["answers"])) == (START, 0.5, 6)
    assert {answer["what"] for answer in found["answers"]} <= {"chosen", "rejected", "given"}
    for answer in found["answers"]:
        expected = [0.5 * (a - b) for a, b in zip(answer["logp"], answer["ref_logp"], strict=True)]
        assert answer["rewards"] == pytest.approx(expected, abs=1e-6)
        assert f"{answer['prompt']}  {answer['what']}" in said
    assert any(any(answer["rewards"]) for answer in found["answers"])
    page = Path("dpo/tokens.html").read_text()
    assert page.count('class="said heat"') == 6 and "\x1b" not in said
    assert "written: dpo/tokens.html" in said


def test_a_run_that_is_held_to_a_soup_is_read_against_it(trained):
    given = ["--model", START, "--method.other", f"{DPO}/policy", "--updates", "1", "--out", "salsa"]
    assert main(["train", "salsa", *TASK, *given, "--method.prompts", "4"]) == 0
    assert main(["explain", "salsa", "--prompts", "2"]) == 0
    assert read("salsa/tokens.json")["reference"].startswith(f"soup:{START}*0.5,")


def test_of_a_reference_that_rows_alone_speak_of_a_model_is_asked_for(trained, capsys):
    rows = [
        {"prompt": f"{i}=", "chosen": "1", "rejected": "2", "ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
        for i in range(9)
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = [
        "--task",
        "prompts",
        "--task.data",
        "rows.jsonl",
        "--model",
        START,
        "--method.reference",
        "recorded",
        "--updates",
        "1",
    ]
    assert main(["train", "dpo", *given, "--quiet", "--no-tensorboard", "--out", "told"]) == 0
    assert main(["explain", "told"]) != 0
    assert "name a model by --reference" in capsys.readouterr().err


@pytest.mark.parametrize("whose", ["policy", "reference"])
def test_new_answers_are_asked_for_and_scored(whose, trained):
    assert main(["explain", DPO, "--of", whose, "--prompts", "4", "-o", "out.html"]) == 0
    found = read("out.json")["answers"]
    assert {answer["what"] for answer in found} == {f"the {whose}'s"}
    assert len(found) == 4 and all(0 <= answer["score"] <= 1 for answer in found)


def test_two_models_are_compared_on_text_of_one_s_own(trained):
    told = ["--prompt", "5310=", "--answer", "0135", "1135", "--beta", "2"]
    assert main(["explain", f"{DPO}/policy", "--reference", f"{START}/policy", *told]) == 0
    found = read("tokens.json")
    assert [len(answer["tokens"]) for answer in found["answers"]] == [5, 5] and found["beta"] == 2


TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '=' }}{% endif %}"


def with_template(folder: str) -> str:
    """A model whose chat template puts an `=` behind what a user says."""
    policy = LanguagePolicy.make(folder)
    policy.tokeniser.chat_template = TEMPLATE
    return str(policy.save(Path("chat") / folder.replace("/", "-")))


def rewards() -> list[list[float]]:
    return [answer["rewards"] for answer in read("tokens.json")["answers"]]


def test_a_prompt_of_one_s_own_is_asked_as_the_task_asks_its_prompts(trained):
    """A policy that learns from messages reads it as a user's message, one that learns from text as it is."""
    rows = [
        {"prompt": [{"role": "user", "content": f"{i}301"}], "completion": f"013{i}", "label": True}
        for i in range(5, 9)
    ]
    Path("chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("text.jsonl").write_text("\n".join(json.dumps({**row, "prompt": row["prompt"][0]["content"]}) for row in rows))
    start, policy = with_template(f"{START}/policy"), with_template(f"{DPO}/policy")
    compared = ["explain", policy, "--reference", start, "--answer", "0135"]
    assert main([*compared, "--prompt", "5301", "--task", "prompts", "--task.data", "chat.jsonl"]) == 0
    in_chat = rewards()
    assert main([*compared, "--prompt", "5301", "--task", "prompts", "--task.data", "text.jsonl"]) == 0
    in_text = rewards()
    assert main([*compared, "--prompt", "5301=", "--task", "prompts", "--task.data", "text.jsonl"]) == 0
    assert in_chat == rewards() != in_text


def test_without_a_task_a_model_with_a_chat_template_is_asked_by_it(trained):
    start, policy = with_template(f"{START}/policy"), with_template(f"{DPO}/policy")
    assert main(["explain", policy, "--reference", start, "--prompt", "5301", "--answer", "0135"]) == 0
    in_chat = rewards()
    given = ["--reference", f"{START}/policy", "--prompt", "5301=", "--answer", "0135"]
    assert main(["explain", f"{DPO}/policy", *given]) == 0
    assert in_chat == rewards()


def test_two_models_are_compared_on_a_task(trained):
    assert (
        main(
            [
                "explain",
                DPO + "/policy",
                "--reference",
                START,
                "--task",
                "noisy-sort",
                "--task.biased",
                "--prompts",
                "1",
            ]
        )
        == 0
    )
    assert read("tokens.json")["task"] == "noisy-sort-biased=True"


def test_a_report_then_shows_the_tokens(trained):
    assert main(["explain", DPO, "--prompts", "1"]) == 0
    assert main(["report", DPO, "-o", "page.html"]) == 0
    assert 'class="said heat"' in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([START + "/policy"], "name the model to compare it with"),
        (["nowhere"], "nowhere is no run, and there is no such folder"),
        ([DPO + "/policy", "--reference", START], "which answers?"),
        ([DPO, "--prompt", "5310="], "a prompt of your own needs answers"),
        ([DPO, "--prompt", "1=", "--answer", "1", "--of", "policy"], "--of is for a task's answers"),
        ([DPO, "--prompts", "0"], "--prompts must be at least 1"),
        ([DPO, "--of", "nobody"], "invalid choice"),
        ([DPO, "--task", "CartPole-v1"], "has no prompts"),
        ([DPO, "--task", "sorting", "--of", "data"], "bring no judged answers"),
        ([DPO, "-o", "tokens.txt"], "--out names the page"),
        ([START], "began from scratch"),
        (["nowhere/at/all", "--reference", START, "--task", "noisy-sort"], "there is no model"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(arguments, says, trained, capsys):
    assert main(["explain", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and len(error.splitlines()) == 1


def test_a_run_without_a_language_model_is_refused(capsys):
    settings = ["--steps", "32", "--quiet", "--no-tensorboard", "--evaluate-every", "0", "--out", "r"]
    assert main(["train", "reinforce", "--task", "CartPole-v1", *settings]) == 0
    assert main(["explain", "r"]) == 2
    assert "no language model" in capsys.readouterr().err
