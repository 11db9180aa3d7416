"""What frozen models said that is kept: made once, the same as if made anew, and told apart by all that decides it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.claims.claim import Arm, Claim, Scale
from palaestra.claims.reproduce import finish, trials
from palaestra.core.method import Budget
from palaestra.core.precision import multiplying
from palaestra.core.task import as_task
from palaestra.language.anchors import Anchor
from palaestra.language.best_of import best_of
from palaestra.language.generation.sampling import Sampling
from palaestra.language.kept import keeping, sweep
from palaestra.language.policy import LanguagePolicy
from palaestra.language.reward_policy import RewardPolicy
from palaestra.methods.preference.dpo import DPO
from palaestra.methods.preference.ipo import IPO

TASK = as_task("noisy-sort")
ROWS = TASK.rows("test")[:3]
HOW = {"copies": 2, "max_tokens": 5, "seed": 1}


def anchor(seed: int = 0) -> Anchor:
    torch.manual_seed(seed)
    return Anchor(LanguagePolicy.make("tiny-16x1", TASK))


@pytest.fixture
def drawn(monkeypatch):
    """How many answers policies were asked for, call by call."""
    calls, answer = [], LanguagePolicy.answer

    def counted(self, rows, *, copies=1, **how):
        calls.append(len(rows) * copies)
        return answer(self, rows, copies=copies, **how)

    monkeypatch.setattr(LanguagePolicy, "answer", counted)
    return calls


def same(first, second) -> bool:
    fields = ("prompt", "text", "truncated", "row", "group")
    tensors = ("ids", "mask", "logp", "sampled_logp")
    return len(first) == len(second) and all(
        all(getattr(a, f) == getattr(b, f) for f in fields)
        and all(torch.equal(getattr(a, t), getattr(b, t)) for t in tensors)
        for a, b in zip(first, second)
    )


def test_what_is_kept_is_what_would_be_drawn_and_is_drawn_once(drawn):
    fresh = anchor().answer(ROWS, **HOW)
    with keeping(Path("answers")):
        first, again = anchor().answer(ROWS, **HOW), anchor().answer(ROWS, **HOW)
    assert drawn == [6, 6] and same(fresh, first) and same(fresh, again)
    assert [s.reward for s in again] == [0.0] * 6, "what they are worth is for whoever judges them to say"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"copies": 1},
        {"max_tokens": 4},
        {"sampling": Sampling(temperature=0.5)},
        {"greedy": True},
        {"stop": ("0",)},
    ],
)
def test_whatever_decides_an_answer_makes_another_question(drawn, change):
    with keeping(Path("answers")):
        anchor().answer(ROWS, **HOW)
        anchor().answer(ROWS, **HOW | change)
    assert len(drawn) == 2


def test_other_weights_and_other_prompts_are_other_questions_and_other_columns_are_not(drawn):
    with keeping(Path("answers")):
        anchor().answer(ROWS, **HOW)
        anchor(1).answer(ROWS, **HOW)
        anchor().answer(ROWS[::-1], **HOW)
        assert len(drawn) == 3
        marked = anchor().answer([{**row, "mark": 1} for row in ROWS], **HOW)
    assert len(drawn) == 3 and all(s.row["mark"] == 1 for s in marked)


def test_what_is_computed_in_bfloat16_is_another_question(drawn):
    for precision in ("highest", "bfloat16", "highest"):
        with keeping(Path("answers")), multiplying(precision):
            anchor().answer(ROWS, **HOW)
    assert len(drawn) == 2


def test_groups_may_be_counted_from_another_number(drawn):
    with keeping(Path("answers")):
        first, again = anchor().answer(ROWS, **HOW, first=4), anchor().answer(ROWS, **HOW, first=4)
        anchor().answer(ROWS, **HOW)
    assert drawn == [6, 6] and same(first, again) and [s.group for s in again] == [4, 4, 5, 5, 6, 6]


def test_an_anchor_that_moves_answers_anew(drawn):
    moving = anchor()
    with keeping(Path("answers")):
        moving.answer(ROWS, **HOW)
        moving.refresh(anchor(1).policy)
        moving.answer(ROWS, **HOW)
    assert len(drawn) == 2


def test_nothing_is_kept_unless_it_is_asked_for_nor_where_somebody_replies(drawn):
    anchor().answer(ROWS, **HOW)
    assert not Path("answers").exists()
    with keeping(Path("answers")):
        for _ in range(2):
            anchor().answer(ROWS, **HOW, environment=lambda row: lambda said: None)
    assert len(drawn) == 3 and not Path("answers").exists()


def learnt_from(cls, **settings):
    method = cls(model="tiny-16x1", prompts=4, **settings).bind(
        as_task("noisy-sort", train_rows=8), 0, Budget(updates=2)
    )
    return method.pool.take(4).parts


def test_methods_that_draw_from_the_same_start_share_its_answers(drawn):
    with keeping(Path("answers")):
        first, second = learnt_from(DPO, drawn=2), learnt_from(IPO, drawn=2)
    assert drawn == [16]
    assert all(torch.equal(a.action, b.action) and torch.equal(a.reward, b.reward) for a, b in zip(first, second))


@pytest.mark.parametrize("settings", [{}, {"drawn": 2}])
def test_methods_that_learn_from_the_same_answers_ask_the_same_reference_once_how_likely_they_are(
    settings, monkeypatch
):
    passes, score = [], LanguagePolicy.score
    monkeypatch.setattr(LanguagePolicy, "score", lambda self, *asked: passes.append(self) or score(self, *asked))
    alone = learnt_from(IPO, **settings)
    passes.clear()
    with keeping(Path("answers")):
        first, second = learnt_from(DPO, **settings), learnt_from(IPO, **settings)
    assert len(passes) == 1
    assert all(torch.equal(a.ref_logp, b.ref_logp) for found in (first, alone) for a, b in zip(found, second))


def test_methods_of_a_comparison_share_them(drawn, monkeypatch):
    monkeypatch.setattr("palaestra.runs.executors._may_fork", lambda board: False)
    methods = [cls(model="tiny-16x1", drawn=2, prompts=4) for cls in (DPO, IPO)]
    task = as_task("noisy-sort", train_rows=8, test_rows=4)
    quiet = {"quiet": True, "tensorboard": False, "evaluate_every": 0, "evaluate_episodes": 1}
    done = pal.compare(methods, task, updates=1, seeds=1, **quiet)
    assert not done.failures and drawn.count(16) == 1


def test_the_best_of_n_is_chosen_by_each_reward_model_among_the_same_answers(drawn):
    models = [RewardPolicy.make("tiny-16x1", TASK) for _ in range(2)]
    with keeping(Path("answers")):
        one, other = (best_of(anchor(), model, TASK, (1, 2), prompts=5) for model in models)
    assert drawn == [10] and one[0].gold == other[0].gold


# Sweeping.


def test_what_was_swept_is_drawn_again(drawn):
    with keeping(Path("answers")):
        first = anchor().answer(ROWS, **HOW)
        (written,) = Path("answers").glob("*.safetensors")
        written.with_name(f".{written.name}.tmp-1").touch()
        sweep(Path("answers"))
        assert not Path("answers").exists()
        assert same(first, anchor().answer(ROWS, **HOW)) and drawn == [6, 6]


def test_a_comparison_keeps_answers_until_all_of_its_runs_are_finished(monkeypatch):
    task = as_task("noisy-sort", train_rows=8)
    quiet = {"quiet": True, "tensorboard": False, "evaluate_episodes": 2, "workers": 1}
    methods = [cls(model="tiny-16x1", drawn=2, prompts=4) for cls in (DPO, IPO)]
    with monkeypatch.context() as patch:
        patch.setattr(IPO, "objective", lambda self, *sides: 1 / 0)
        assert pal.compare(methods, task, seeds=1, updates=2, **quiet).failures
    assert list(Path("runs/answers").glob("*.safetensors"))
    assert not pal.compare(methods, task, seeds=1, updates=2, **quiet).failures
    assert not Path("runs/answers").exists()


def test_a_claim_keeps_answers_until_all_of_it_is_measured():
    arms = {
        name: Arm(
            cls(model="tiny-16x1", drawn=2, prompts=4), "noisy-sort", updates=2, seeds=1, settings={"train_rows": 8}
        )
        for name, cls in (("dpo", DPO), ("ipo", IPO))
    }
    claim = Claim(
        "shares",
        DPO.paper,
        "",
        {"small": Scale("", arms, lambda records: [])},
        lambda run: {"kept": float(len(list(run.answers.glob("*.safetensors"))))},
    )
    planned = trials(claim, "small")
    records = finish(planned, workers=1)
    assert [record.measures["kept"] for record in records] == [2.0, 2.0]  # answers, and how likely they were
    assert not planned[0].answers.exists() and planned[0].folder.exists()
