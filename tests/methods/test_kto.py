"""KTO: which answers are good, and its point of reference, of answers to other prompts."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting
from palaestra.core.method import Budget
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.batch import Batch
from palaestra.methods.preference import kto as kto_file
from palaestra.methods.preference.kto import KTO
from palaestra.methods.preference.pool import numbered
from tests.methods.test_leftover import MODEL, TASK, bound, rows_of


def test_kto_s_first_loss_is_one_half_since_nothing_has_been_gained():
    metrics = bound(KTO(**MODEL)).step()
    assert float(metrics["loss/preference"]) == pytest.approx(0.5, abs=1e-5)
    assert float(metrics["preference/point"]) == pytest.approx(0.0, abs=1e-5)


def test_kto_s_point_is_what_answers_to_other_prompts_have_gained():
    method = bound(KTO(**MODEL))
    batch = method.pool.take(8)
    with torch.no_grad():
        for p in method.anchor.policy.model.parameters():
            p.mul_(0.5)
    point = float(method.average_gain(batch))
    prompts = {part.action[: int(part.mask.long().argmax())].tolist().__repr__() for part in batch.parts}
    assert point >= 0 and len(prompts) > 1


def mismatched(method, batch):
    """What the point of a minibatch is measured at, as text."""
    seen, policy = [], method.language_policy
    with pytest.MonkeyPatch.context() as patch:
        score = policy.score
        patch.setattr(policy, "score", lambda piece, *how: seen.append(piece) or score(piece, *how))
        method.average_gain(batch)
    read = [ids for piece in seen for ids in piece.action.split(piece.segment.unique(return_counts=True)[1].tolist())]
    return sorted(policy.tokeniser.decode(ids, skip_special_tokens=True) for ids in read)


def labelled(*rows):
    """A task with an answer to each prompt, good and bad ones in turn."""
    return rows_of(*({"prompt": p, "completion": said, "label": i % 2 == 0} for i, (p, said) in enumerate(rows)))


def test_rows_that_ask_the_same_are_one_prompt_and_no_answer_is_measured_at_its_own():
    method = bound(KTO(**MODEL | {"prompts": 4}), labelled(("1=", "3"), ("1=", "4"), ("2=", "5"), ("1=", "0")))
    assert mismatched(method, method.pool.take(4)) == ["1=5", "2=0", "2=3", "2=4"]


def test_a_task_that_asks_one_thing_alone_has_no_other_prompt_to_measure_the_point_at():
    with pytest.raises(BadSetting, match=r"all rows of .* ask the same: '1='; give it rows with other prompts"):
        KTO(**MODEL).check_task(labelled(("1=", "3"), ("1=", "4")))


def test_where_answers_to_one_prompt_are_left_of_a_minibatch_the_point_stays():
    method = bound(KTO(**MODEL | {"prompts": 2}), labelled(("1=", "3"), ("2=", "5")))
    method.point = torch.tensor(0.5)
    assert float(method.learn(method.pool.take(2).take([0]))["preference/point"]) == 0.5
    assert float(method.learn(Batch([]))["preference/point"]) == 0.5
    assert float(method.learn(method.pool.take(2))["preference/point"]) != 0.5


def called(method):
    """Which answers of the first rows a step takes for good, by their text."""
    batch = Batch(numbered([method.pool.answers(place) for place in range(len(method.pool.rows))]))
    good, seen = list[bool](), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kto_file, "kto", lambda answers, **settings: seen.append(answers.desirable) or answers.logp)
        method.objective(method.seen(batch))
    for answer in seen:
        good += answer.tolist()
    texts = [method.language_policy.tokeniser.decode(p.action[p.mask], skip_special_tokens=True) for p in batch.parts]
    return dict(zip(texts, good, strict=True))


SCORED_PAIR = {"chosen": "12", "rejected": "21", "score_chosen": 8.0, "score_rejected": 6.0}


def test_kto_takes_the_side_of_a_pair_for_its_label_whatever_the_scores():
    bare = {"chosen": "34", "rejected": "43"}
    wanted = {"12": True, "21": False, "34": True, "43": False}
    for bar in (0.5, 9.0):
        assert called(bound(KTO(**MODEL, good_from=bar), rows_of(SCORED_PAIR, bare))) == wanted


def test_kto_takes_labels_as_they_are_and_a_bar_for_scores():
    labels = [{"completion": "1", "label": True}, {"completion": "2", "label": False}]
    assert called(bound(KTO(**MODEL, good_from=7.0), rows_of(*labels))) == {"1": True, "2": False}
    scores = [{"completions": ["1", "2"], "scores": [8.0, 6.0]}, {"completions": ["3"], "scores": [7.0]}]
    assert called(bound(KTO(**MODEL, good_from=7.0), rows_of(*scores))) == {"1": True, "2": False, "3": True}


def test_kto_calls_answers_good_by_the_judge_s_scores_where_it_judges_anew():
    pairs = {"chosen": "12", "rejected": "3"}, {"chosen": "45", "rejected": "6"}
    task = rows_of(*pairs, reward=lambda completions, **_: [7.0 if len(text) > 1 else 9.0 for text in completions])
    wanted = {"12": False, "3": True, "45": False, "6": True}
    assert called(bound(KTO(**MODEL, good_from=8.0, rescored=True), task)) == wanted


@pytest.mark.parametrize(
    ("scores", "bar", "said"),
    [
        ([8.0, 6.0], 0.5, "are good .* 6 to 8; give one above 6 and at most 8"),
        ([8.0, 6.0], 9.0, "are bad .* 6 to 8; give one above 6 and at most 8"),
        ([7.0, 7.0], 0.5, "7 to 7; no bar tells them apart"),
    ],
)
def test_kto_refuses_a_bar_that_all_answers_are_on_one_side_of(scores, bar, said):
    with pytest.raises(BadSetting, match=said):
        KTO(**MODEL, good_from=bar).check_task(rows_of(*2 * [{"completions": ["1", "2"], "scores": scores}]))
    KTO(**MODEL, good_from=bar).check_task(rows_of(SCORED_PAIR, SCORED_PAIR))


@pytest.fixture
def narrow(tmp_path):
    """The folder of a model with learnt positions, eight of them, that reads digits."""
    transformers = pytest.importorskip("transformers")
    tokeniser = TASK.tokeniser()
    shape = {"n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokeniser)}
    ends = {"bos_token_id": tokeniser.bos_token_id, "eos_token_id": tokeniser.eos_token_id}
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **ends)).save_pretrained(tmp_path / "model")
    tokeniser.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_mismatched_answer_is_cut_to_the_model_s_window(narrow):
    rows = [{"prompt": "12345=", "completion": "1"}, {"prompt": "1=", "completion": "54321"}]
    task = PromptTask([{**row, "label": i > 0} for i, row in enumerate(rows)], held_out=0.0)
    method = KTO(model=narrow, prompts=2, lr=1e-2, warmup=0).bind(task, 0, Budget(updates=9))
    method.step()
    assert mismatched(method, method.pool.take(2)) == ["12345=54", "1=1"]


def test_a_single_prompt_has_no_other_to_compare_with():
    with pytest.raises(BadSetting, match="prompts must be at least 2, got 1"):
        KTO(prompts=1).check()
