"""The command line on tasks in text: models, settings of tasks, answers shown as text, pass@k."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from palaestra.cli.main import main
from palaestra.core.seeding import seed_for
from palaestra.language.generation.beam import BeamSearch, beam_search
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.sorting import Sorting
from palaestra.runs.run import Run

SFT = [
    "train",
    "sft",
    "--task",
    "sorting",
    "--task.most",
    "3",
    "--model",
    "tiny-16x1",
    "--updates",
    "4",
    "--no-tensorboard",
]
FOLDER = "runs/sorting-most=3/sft-model=tiny-16x1/seed0"


@pytest.fixture
def trained(capsys):
    assert main([*SFT, "--quiet"]) == 0
    return capsys.readouterr().out


def test_what_a_model_answered_is_shown_when_its_training_ends(trained):
    lines = [line for line in trained.splitlines() if "→" in line]
    assert len(lines) == 2
    assert all("=" in line.partition("→")[0] for line in lines)
    assert f"evaluate it  palaestra evaluate {FOLDER} --samples 8\n" in trained


def test_the_last_evaluation_has_three_digits(monkeypatch, capsys):
    monkeypatch.setattr(Run, "metrics", property(lambda run: [{"evaluation/return": 0.8438}]))
    assert main([*SFT, "--quiet"]) == 0
    assert ", evaluation return 0.844\n" in capsys.readouterr().out


def test_a_run_s_folder_is_a_model_to_begin_with(trained, capsys):
    assert main(["train", "grpo", "--task", "sorting", "--model", FOLDER, "--updates", "1", "--quiet"]) == 0


def test_evaluate_gives_pass_at_k_with_intervals(trained, capsys):
    assert main(["evaluate", FOLDER, "--episodes", "6", "--samples", "4"]) == 0
    said = capsys.readouterr().out
    assert "6 answers of" in said
    for k in (1, 2, 4):
        assert f"pass@{k} " in said
    assert "pass@8" not in said


def test_samples_are_as_long_as_the_answers_that_were_learnt_from(capsys, monkeypatch):
    asked, answer = [], LanguagePolicy.answer
    assert main([*SFT, "--quiet"]) == 0
    learn = ["train", "grpo", "--task", "sorting", "--model", FOLDER, "--method.max-tokens", "2", "--quiet"]
    assert main([*learn, "--updates", "1", "--method.prompts", "1", "--method.group", "2", "--out", "short"]) == 0
    monkeypatch.setattr(
        LanguagePolicy, "answer", lambda *given, **how: asked.append(how["max_tokens"]) or answer(*given, **how)
    )
    assert main(["evaluate", "short", "--episodes", "2", "--samples", "2"]) == 0
    assert set(asked) == {2}


def test_evaluate_answers_with_the_likeliest_texts_of_a_beam(trained, capsys, monkeypatch):
    answers = []
    search = BeamSearch.generate
    monkeypatch.setattr(BeamSearch, "generate", lambda *given: answers.append(search(*given)) or answers[-1])
    assert main(["evaluate", FOLDER, "--episodes", "6", "--beam", "3"]) == 0
    assert "6 answers of" in capsys.readouterr().out
    policy = LanguagePolicy.load(Path(FOLDER) / "policy")
    task = Sorting(most=3)
    (found,) = answers
    for said, row in zip(found, task.asked(6, seed_for(0, "evaluate", -1)), strict=True):
        prompt = policy.prompt_ids(row["prompt"])
        (beams,) = beam_search(policy.model, [prompt], 3, task.max_tokens, policy.ending())
        assert said.ids.tolist() == beams[0].ids.tolist()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--beam", "0"], "the width of a beam must be at least 1"),
        (["--beam", "wide"], "--beam takes a whole number, got 'wide'"),
        (["--beam", "2", "--samples", "2"], "--samples draws answers, and a beam draws none"),
        (["--beam", "2", "--generation", "vllm"], "leave --generation or --beam out"),
    ],
)
def test_a_beam_that_cannot_be_is_refused(trained, flags, says, capsys):
    assert main(["evaluate", FOLDER, *flags]) == 2
    assert says in capsys.readouterr().err


def test_evaluate_says_how_far_a_reward_model_can_be_believed(capsys):
    """Also where nothing else of a task can be evaluated: of pairs without a reward."""
    pairs = [{"prompt": f"53{i}0=", "chosen": "0135", "rejected": "5310"} for i in range(30)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    LanguagePolicy.make("tiny-16x1", NoisySort(train_rows=20)).save("model")
    train = ["--task", "prompts", "--task.data", "pairs.jsonl", "--model", "model", "--updates", "2", "--quiet"]
    assert main(["train", "reward-model", *train, "--out", "reward"]) == 0
    assert "evaluate it  palaestra evaluate reward --episodes 20\n" in capsys.readouterr().out
    assert main(["evaluate", "reward", "--episodes", "2"]) == 0
    said = capsys.readouterr().out
    for name in ("calibration_error", "length_correlation", "pairs"):
        assert re.search(rf"^  {name} +-?\d", said, re.MULTILINE)
    assert main(["train", "dpo", *train, "--out", "dpo"]) == 0
    assert "evaluate it" not in capsys.readouterr().out


def test_a_prompt_of_several_lines_is_shown_on_one(capsys):
    from palaestra.cli.train import show

    show([{"prompt": "\n\nHuman: hello?\n\nAssistant:", "answer": " Hi.\n", "score": 1.0}])
    assert capsys.readouterr().out == "  Human: hello? Assistant: → Hi.  (1)\n"


def test_control_characters_of_an_answer_do_not_reach_the_terminal(trained, monkeypatch, capsys):
    answer = LanguagePolicy.answer

    def hostile(self, *args, **how):
        samples = answer(self, *args, **how)
        for sample in samples:
            sample.text = "\x1b[2J\u202eevil"
        return samples

    monkeypatch.setattr(LanguagePolicy, "answer", hostile)
    main(["evaluate", FOLDER, "--episodes", "2"])
    said = capsys.readouterr().out
    assert "evil" in said
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_answers_are_in_the_report_as_text_never_as_markup(trained):
    with open(f"{FOLDER}/answers.jsonl", "a") as file:
        hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
        file.write(json.dumps({"clock": 4, "prompt": "p", "answer": hostile, "score": 1.0}) + "\n")
    assert main(["report", FOLDER, "-o", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "grpo", "--task", "CartPole-v1", "--updates", "1"], "CartPole-v1 is no text; tasks that are"),
        (["train", "ppo", "--task", "sorting", "--updates", "1"], "methods that do: sft, grpo"),
        (
            ["train", "ppo", "--task", "CartPole-v1", "--model", "x", "--updates", "1"],
            "unknown setting of ppo: 'model'",
        ),
        (["train", "sft", "--task", "sorting", "--task.mst", "3", "--updates", "1"], "did you mean '--task.most'"),
        (["train", "sft", "--task", "sorting", "--task.most", "0", "--updates", "1"], "least to most"),
        (["train", "grpo", "--task", "sorting", "--model", "no/such/folder", "--updates", "1"], "there is no model"),
        (["train", "grpo", "--task", "sorting", "--method.group", "1", "--updates", "1"], "group = 1 has nothing"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_that_says_what_would(arguments, says, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) == 1


def test_samples_are_for_language_models(capsys):
    settings = ["--steps", "32", "--quiet", "--no-tensorboard", "--evaluate-every", "0"]
    assert main(["train", "ppo", "--task", "CartPole-v1", *settings, "--ppo.num-envs", "1"]) == 2
    assert main(["train", "reinforce", "--task", "CartPole-v1", *settings]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/CartPole-v1/reinforce/seed0", "--episodes", "1", "--samples", "2"]) == 2
    assert "--samples is for language models" in capsys.readouterr().err
    assert main(["evaluate", "runs/CartPole-v1/reinforce/seed0", "--episodes", "1", "--beam", "2"]) == 2
    assert "a beam of width 2 gives answers in text, and this policy gives none" in capsys.readouterr().err
