"""Language models as judges: what they are asked, what is read from their replies, and that every failure is counted."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, PalaestraError
from palaestra.core.method import Budget
from palaestra.language.judges.calls import Failed, Late
from palaestra.language.judges.contests import WinRate, tournament
from palaestra.language.judges.endpoint import Endpoint
from palaestra.language.judges.generative import GenerativeJudge, Local
from palaestra.language.judges.judge import Judge, RewardFailed
from palaestra.language.judges.kinds import (
    BothOrders,
    Places,
    RewardScorer,
    Sign,
    Summed,
    as_reward,
    require_antisymmetric,
)
from palaestra.language.judges.wrappers import TRIED, Cached, Counted, Guarded, NoisyPairs, NoisyScores
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.noisy_sort import NoisySort
from palaestra.language.tasks.prompts import PromptTask
from palaestra.methods.language.rloo import RLOO
from palaestra.methods.preference.spo_lm import SPOLM
from palaestra.report.page import write_report
from palaestra.runs.record import load_records
from tests.language.judges.samples import answers

ROW = {"prompt": "which is longer?"}


def between(mark: str, question: str) -> str:
    found = re.search(rf"<{mark}>\n(.*?)\n</{mark}>", question, re.DOTALL)
    assert found is not None
    return found[1]


def by_length(questions: list[str]) -> list[str]:
    """A model that likes long answers, says so with some words around, and rates by the number of letters."""
    return [reply_by_length(question) for question in questions]


def reply_by_length(question: str) -> str:
    if "<answer A>" in question:
        one, other = (len(between(f"answer {name}", question)) for name in "AB")
        return f"Not [[B]] at once. I say [[{'tie' if one == other else 'A' if one > other else 'B'}]]."
    if "<answer>" in question:
        return f"[[{len(between('answer', question))}]]"
    texts = re.findall(r"<answer \d+>\n(.*?)\n</answer \d+>", question, re.DOTALL)
    return f"They are [[{', '.join(str(len(text)) for text in texts)}]]"


def first_always(questions: list[str]) -> list[str]:
    return ["[[A]]"] * len(questions)


# The four kinds.


def test_a_pair_judge_reads_the_last_verdict():
    judge = GenerativeJudge(by_length)
    assert judge.pairs([ROW] * 3, ["aaa", "a", "aa"], ["a", "aaa", "bb"]).tolist() == [1.0, 0.0, 0.5]
    assert judge.asked == 6 and not judge.failures


def test_pairs_are_asked_about_in_both_orders_and_the_bias_is_reported():
    judge = GenerativeJudge(first_always)
    assert judge.pairs([ROW], ["a"], ["b"]).tolist() == [0.5]
    assert judge.pairs.report() == {"pairs": 1.0, "first": 1.0, "turned": 1.0}
    require_antisymmetric(judge.pairs, [ROW], ["a"], ["b"])


def test_a_scorer_reads_a_number_of_the_scale():
    judge = GenerativeJudge(by_length, scale=(0, 5))
    assert judge.scorer([ROW] * 2, ["aa", "aaaa"]).tolist() == [2.0, 4.0]
    with pytest.raises(RewardFailed, match=r"replied '\[\[6\]\]', which has no verdict"):
        judge.scorer([ROW], ["aaaaaa"])


def test_a_list_judge_sees_all_answers_in_both_orders():
    questions: list[str] = []

    def first_is_ten(asked: list[str]) -> list[str]:
        questions.extend(asked)
        return ["[[10, 1, 1]]"] * len(asked)

    assert GenerativeJudge(by_length).lists(ROW, ["a", "aaa", "aa"]).tolist() == [1.0, 3.0, 2.0]
    assert GenerativeJudge(first_is_ten).lists(ROW, ["x", "y", "z"]).tolist() == [5.5, 1.0, 5.5]
    assert questions[0].index("\nx\n") < questions[0].index("\nz\n")
    assert questions[1].index("\nz\n") < questions[1].index("\nx\n")


def test_a_token_scorer_has_the_score_at_the_end():
    judge = GenerativeJudge(by_length, scale=(0, 10))
    scorer = judge.tokens(lambda ids: "".join(map(chr, ids)))
    ids = [torch.tensor([97, 98, 99]), torch.tensor([97])]
    assert [score.tolist() for score in scorer([ROW] * 2, ids)] == [[0.0, 0.0, 3.0], [1.0]]
    assert Summed(scorer)([ROW] * 2, ids).tolist() == [3.0, 1.0]
    assert scorer([ROW], [torch.tensor([], dtype=torch.int64)])[0].shape == (0,)


def test_it_takes_part_wherever_judges_do():
    judge = GenerativeJudge(by_length)
    texts = ["aa", "aaaa", "a", "aaa"]
    assert WinRate(judge.pairs)(ROW, texts).tolist() == pytest.approx([1 / 3, 1.0, 0.0, 2 / 3])
    assert tournament(judge.pairs, ROW, texts).best == 1
    with Judge(judge.reward) as rewards:
        assert rewards(answers("aa", "aaa")).total.tolist() == [2.0, 3.0]


def test_messages_are_shown_as_who_said_what_and_nothing_in_them_is_a_template():
    seen: list[str] = []
    judge = GenerativeJudge(lambda questions: [seen.append(q) or "[[tie]]" for q in questions])  # type: ignore[func-returns-value]
    judge.pairs([{"prompt": [{"role": "user", "content": "{first} of {0}?"}]}], ["{second}"], ["no"])
    assert "user: {first} of {0}?" in seen[0] and "<answer A>\n{second}\n</answer A>" in seen[0]


def test_nothing_is_asked_about_nothing():
    judge = GenerativeJudge(by_length)
    assert judge.pairs([], [], []).shape == judge.scorer([], []).shape == (0,)
    assert judge.asked == 0


# Failures.


def broken(questions: list[str]) -> list[str | Failed]:
    kinds: list[str | Failed] = [
        Failed(Late("took longer than 1 seconds")),
        Failed(OSError("gone")),
        "I cannot say.",
        "[[A]]",
    ]
    return (kinds * len(questions))[: len(questions)]


def test_with_stop_the_first_failure_is_an_error_that_shows_the_question():
    judge = GenerativeJudge(broken)
    with pytest.raises(RewardFailed, match=r"failed: Late 'took longer than 1 seconds'\. Question: 'Here are a prompt"):
        judge.scorer([ROW], ["a"])
    assert judge.failures == {"late": 1}


def test_the_remedy_that_an_error_ends_with_is_shown():
    def narrow(questions):
        raise PalaestraError(f"{'a long prompt needs more positions than the model has, ' * 3}leave it out")

    with pytest.raises(RewardFailed, match="leave it out'"):
        GenerativeJudge(narrow).scorer([ROW], ["a"])


def test_with_skip_failures_are_counted_by_kind_and_say_nothing():
    judge = GenerativeJudge(broken, on_error="skip", scale=(0, 4))
    with pytest.warns(UserWarning, match="a verdict is missing, as others may be: the generative judge failed") as said:
        # In order: late, error, no verdict, A; turned round the same: of the last both orders say A.
        assert judge.pairs([ROW] * 4, [*"abcd"], [*"efgh"]).tolist() == [0.5] * 4
    assert len(said) == 1
    assert judge.failures == {"late": 2, "error": 2, "no verdict": 2} and judge.asked == 8
    assert judge.pairs.unsaid.tolist() == [True, True, True, False]
    assert judge.scorer([ROW], ["a"]).tolist() == [2.0]
    assert judge.lists(ROW, ["a", "b"]).tolist() == [2.0, 2.0]


@pytest.mark.filterwarnings("ignore:a verdict is missing")
@pytest.mark.parametrize("replies", [["?", "[[B]]"], ["[[A]]", "?"], ["?", "[[A]]"]])
def test_a_pair_of_which_either_order_failed_is_a_tie(replies):
    judge = GenerativeJudge(lambda questions: replies, on_error="skip")
    assert judge.pairs([ROW], ["a"], ["b"]).tolist() == [0.5]
    assert judge.pairs.unsaid.tolist() == [True] and judge.failures == {"no verdict": 1}


@pytest.mark.filterwarnings("ignore:a verdict is missing")
def test_a_list_of_which_either_order_failed_says_nothing():
    judge = GenerativeJudge(lambda questions: ["[[9, 1]]", "?"], on_error="skip")
    assert judge.lists(ROW, ["a", "b"]).tolist() == [5.5, 5.5]


@pytest.mark.filterwarnings("ignore:a verdict is missing")
def test_a_pair_of_which_either_score_is_made_up_is_a_tie():
    judge = GenerativeJudge(lambda questions: ["[[9]]", "?"], on_error="skip")
    signs = Sign(judge.scorer)
    assert signs([ROW], ["a"], ["b"]).tolist() == [0.5] and signs.unsaid.tolist() == [True]


@pytest.mark.filterwarnings("ignore:a verdict is missing", "ignore:pairs are left", "ignore:answers are left")
@pytest.mark.parametrize("kind", ["pairs", "scorer", "noisy", "guarded", "sign", "counted", "orders"])
def test_a_cache_forgets_what_could_not_be_had(kind):
    """And asks again: a server that was down for a while is not remembered as one that sees no difference."""
    down = True

    def ask(questions):
        return [Failed(OSError("gone")) if down and "sss" in q else reply_by_length(q) for q in questions]

    def own(rows, first, second):
        assert not down
        return torch.tensor([float(len(a) > len(b)) for a, b in zip(first, second)])

    def reward(completions, **columns):
        return [None if down and "sss" in text else float(len(text)) for text in completions]

    judge = GenerativeJudge(ask, on_error="skip", scale=(0, 10))
    kinds = {
        "pairs": judge.pairs,
        "scorer": judge.scorer,
        "noisy": NoisyScores(judge.scorer, 0.0),
        "guarded": Guarded(own, None, "skip"),
        "sign": Sign(RewardScorer(Judge(reward, None, on_error="skip"))),
        "counted": Counted(NoisyPairs(judge.pairs, 0.0)),
        "orders": BothOrders(Guarded(judge.pairs, None, "skip")),
    }
    cached = Cached(kinds[kind])
    given = (["sss", "ll"],) if kind in ("scorer", "noisy") else (["sss", "ll"], ["s", "l"])
    expected = [3.0, 2.0] if kind in ("scorer", "noisy") else [1.0, 1.0]
    assert cached([ROW] * 2, *given).tolist() != expected
    assert cached.unsaid.tolist() == [True, kind == "guarded"]
    hits, down = cached.hits, False
    for _ in range(2):
        assert cached([ROW] * 2, *given).tolist() == expected
        assert cached.unsaid.tolist() == [False, False]
    assert cached.hits - hits == (2 if kind == "guarded" else 3)


@pytest.mark.filterwarnings("ignore:a verdict is missing")
def test_as_a_reward_what_failed_is_left_out():
    judge = GenerativeJudge(lambda questions: ["[[3]]", "no idea"], on_error="skip")
    assert judge.reward(["p", "p"], ["a", "b"]) == [3.0, None]


@pytest.mark.filterwarnings("ignore:a verdict is missing")
@pytest.mark.parametrize(
    "replies",
    [lambda questions: 1 / 0, lambda questions: ["[[A]]"], lambda questions: None, lambda questions: [None] * 2],
)
def test_a_model_that_raises_or_leaves_questions_out_fails_on_all_of_them(replies):
    judge = GenerativeJudge(replies, on_error="skip")
    assert judge.pairs([ROW], ["a"], ["b"]).tolist() == [0.5]
    assert judge.failures == {"error": 2}


@pytest.mark.parametrize(
    "reply", ["", "A", "[[C]]", "[[A", "[[]]", "[[1, 2]]", "[[nan]]", "[[inf]]", "[[-1]]", "[[1e9]]", "[[A]] [[x]]"]
)
def test_what_is_no_verdict_is_none(reply):
    judge = GenerativeJudge(lambda questions: [reply] * len(questions))
    for ask in (lambda: judge.scorer([ROW], ["a"]), lambda: judge.pairs([ROW], ["a"], ["b"])):
        with pytest.raises(RewardFailed, match="no verdict"):
            ask()


# Servers.


@pytest.fixture
def server() -> Iterator[Callable[..., str]]:
    """Serves what a function of the request makes: a status and a body, or a function that writes to the connection."""
    running: list[ThreadingHTTPServer] = []

    def serve(reply: Callable[[BaseHTTPRequestHandler, dict], tuple[int, bytes] | None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                made = reply(self, body)
                if made is not None:
                    self.send_response(made[0])
                    self.send_header("Content-Length", str(len(made[1])))
                    self.end_headers()
                    self.wfile.write(made[1])

            def log_message(self, *given: object) -> None: ...

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}/v1"

    yield serve
    for one in running:
        one.shutdown()
        one.server_close()


def chat(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def test_a_server_with_openai_s_interface_is_asked(server, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    seen = []

    def reply(request, body):
        seen.append((request.path, request.headers["Authorization"], body["model"], body["temperature"], body["seed"]))
        assert "max_tokens" not in body
        return chat(reply_by_length(body["messages"][0]["content"]))

    judge = GenerativeJudge(Endpoint(server(reply), "mine", key="A_KEY", options={"seed": 3, "max_tokens": None}))
    assert judge.pairs([ROW] * 20, ["aa"] * 20, ["a"] * 20).tolist() == [1.0] * 20
    assert judge.lists(ROW, ["a", "aa"]).tolist() == [1.0, 2.0]
    assert set(seen) == {("/v1/chat/completions", "Bearer secret", "mine", 0.0, 3)}


def test_questions_are_under_way_together(server):
    barrier = threading.Barrier(4, timeout=60)

    def reply(request, body):
        barrier.wait()
        return chat("[[A]]")

    assert Endpoint(server(reply), "m", parallel=4)(["?"] * 8) == ["[[A]]"] * 8


def test_a_busy_server_is_asked_again(server):
    tries = []

    def reply(request, body):
        tries.append(time.monotonic())
        return (503, b"busy") if len(tries) < 3 else chat("yes")

    assert Endpoint(server(reply), "m")(["?"]) == ["yes"]
    assert tries[1] - tries[0] >= 0.25 and tries[2] - tries[1] >= 0.5


def test_a_server_that_breaks_off_is_asked_again(server):
    tries = []

    def reply(request, body):
        tries.append(1)
        if len(tries) > 1:
            return chat("yes")
        request.send_response(200)
        request.send_header("Content-Length", "999")
        request.end_headers()
        request.wfile.write(b'{"choices"')

    assert Endpoint(server(reply), "m")(["?"]) == ["yes"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda request, body: (401, b"who are you?"), "HTTPError"),
        (lambda request, body: (200, b"<html>"), "JSONDecodeError"),
        (lambda request, body: (200, b'{"error": "no"}'), "KeyError"),
        (lambda request, body: (307, b""), "HTTPError"),
    ],
)
def test_what_a_server_gets_wrong_is_an_error_at_once(server, reply, error):
    (failed,) = Endpoint(server(reply), "m")(["?"])
    assert isinstance(failed, Failed) and not failed.late and type(failed.error).__name__ == error


def test_a_server_that_is_away_is_an_error_within_the_time(server):
    began = time.monotonic()
    (failed,) = Endpoint("http://127.0.0.1:9/v1", "m", timeout=0.5)(["?"])
    assert isinstance(failed, Failed) and not failed.late and time.monotonic() - began < 50


def test_a_server_that_is_away_is_waited_for_once_not_for_each_question():
    tries = Counter[str]()

    class Away(Endpoint):
        def _read(self, request, end):
            tries[json.loads(request.data)["messages"][0]["content"]] += 1
            raise ConnectionRefusedError

    asks = Away("http://127.0.0.1:9/v1", "m", timeout=3.0, parallel=1)
    assert all(isinstance(reply, Failed) for reply in asks(["first", "second", "third"]))
    assert tries["first"] > 1 and tries["second"] == tries["third"] == 1
    assert asks(["later"]) and tries["later"] > 1, "the next time it may be back"


@pytest.mark.parametrize(
    "named", [lambda judge: judge.reward, lambda judge: as_reward(Places(judge.lists)), lambda judge: judge.pairs]
)
def test_a_server_that_is_away_ends_a_run_when_it_is_set_up_with_its_address(named):
    judge = named(GenerativeJudge(Endpoint("http://127.0.0.1:9/v1", "m", timeout=0.5)))
    kind = "compare" if isinstance(judge, BothOrders) else "reward"
    task = PromptTask([{"prompt": f"{i}="} for i in range(3)], limit=4, held_out=0.0, **{kind: judge})
    method = RLOO(model="no model that is there", prompts=2, group=2)
    with pytest.raises(BadSetting, match=r"no server answers at http://127\.0\.0\.1:9/v1 \(.*refused"):
        method.setup(task)


def test_a_server_is_there_whatever_it_answers_to_a_question_after_its_models(server):
    assert Endpoint(server(lambda request, body: chat("yes")), "m").reach() is None


def drips(request, body):
    request.send_response(200)
    request.end_headers()
    for _ in range(2000):
        request.wfile.write(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize("reply", [lambda request, body: time.sleep(100), drips])
def test_a_server_that_hangs_or_drips_is_late_and_counted(server, reply):
    judge = GenerativeJudge(Endpoint(server(reply), "m", timeout=0.3), on_error="skip")
    began = time.monotonic()
    with pytest.warns(UserWarning, match=r"failed: Late 'took longer than 0\.3 seconds'"):
        assert judge.pairs([ROW], ["a"], ["b"]).tolist() == [0.5]
    assert judge.failures == {"late": 2} and time.monotonic() - began < 50


# Local models.


def test_a_model_of_one_s_own_is_asked_greedily():
    task = NoisySort(train_rows=20)
    policy = LanguagePolicy.make("tiny-16x1", task)
    local = Local(policy, max_tokens=3)
    (said,) = local(["5310="])
    assert said == policy.answer([{"prompt": "5310="}], max_tokens=3, greedy=True)[0].text
    judge = GenerativeJudge(local, on_error="skip")
    with pytest.warns(UserWarning, match="no verdict"):
        assert judge.pairs([ROW], ["a"], ["b"]).tolist() == [0.5]
    assert judge.failures == {"no verdict": 2}


# As the pair judge of one's own prompts.

JUDGES = """
from palaestra.language.judges.generative import GenerativeJudge

judge = GenerativeJudge(lambda questions: ["[[A]]"] * len(questions))
better = judge.pairs

def longer(rows, first, second):
    import torch
    return torch.tensor([0.5 + (len(a) > len(b)) / 2 - (len(a) < len(b)) / 2 for a, b in zip(first, second)])
"""


def test_prompts_with_a_pair_judge_alone_are_learnt_from_and_the_run_is_made_again_from_its_folder():
    import palaestra as pal

    Path("judges.py").write_text(JUDGES)
    tokeniser_task = NoisySort(train_rows=20)
    LanguagePolicy.make("tiny-16x1", tokeniser_task).save("model")
    Path("rows.jsonl").write_text(
        "\n".join(json.dumps({"prompt": row["prompt"]}) for row in tokeniser_task.rows("train"))
    )
    task = PromptTask("rows.jsonl", compare="judges.py:longer", limit=4)
    assert not task.evaluates and task.label.startswith("rows-compare=longer")
    method = SPOLM(model="model", prompts=2, group=3)
    run = pal.train(method, task, updates=2, out="run", quiet=True, tensorboard=False)
    tried = 3 * TRIED  # before the first pairs, whether it depends on the order
    assert run.record["status"] == "finished" and run.record["counters"]["judge_calls"] == tried + 2 * 2 * 3
    again = pal.load_run("run").task
    assert again.pair_judge()([ROW], ["aa"], ["a"]).tolist() == [1.0]


@pytest.mark.filterwarnings("ignore:a verdict is missing")
def test_metrics_say_on_what_share_of_pairs_there_was_no_verdict():
    method = SPOLM(model="tiny-16x1", prompts=2, group=3).bind(NoisySort(train_rows=20), 0, Budget(updates=9))
    judge = GenerativeJudge(lambda questions: ["no idea", *["[[A]]"] * (len(questions) - 1)], on_error="skip")
    method.task.pair_judge = lambda: NoisyPairs(judge.pairs, 0.1)
    for done in (1, 2):
        method.step()
        assert method.counters.judge_calls == 6 * done and method.counters.unscored == done
    assert method.counters.measures["reward/unscored"] == 1 / 6


def test_metrics_and_the_report_say_how_much_a_judge_goes_by_the_order():
    method = SPOLM(model="tiny-16x1", prompts=2, group=3)
    judge = GenerativeJudge(lambda questions: ["[[A]]"] * len(questions))
    task = NoisySort(train_rows=20)
    task.pair_judge = lambda: Cached(judge.pairs)
    run = pal.train(method, task, updates=2, out="run", quiet=True, tensorboard=False, log_every=1, evaluate_every=0)
    asked = run.record["counters"]["both_orders"]
    assert 0 < asked == judge.pairs.report()["pairs"] <= 12
    assert [row["judge/first_shown"] for row in run.metrics if "judge/turned" in row] == [1.0] * 2
    assert [row["judge/turned"] for row in run.metrics if "judge/turned" in row] == [1.0] * 2
    said = write_report(load_records("run"), Path("page.html"), title="t", command="c", clips=False).read_text()
    assert "Pair judges and the order of answers" in said and f">{asked}<" in said


def test_a_judge_that_is_asked_in_one_order_says_nothing_of_orders():
    method = SPOLM(model="tiny-16x1", prompts=2, group=3).bind(NoisySort(train_rows=20), 0, Budget(updates=9))
    method.step()
    assert method.counters.both_orders == 0 and method.counters.measures == {}


def test_a_generative_judge_in_a_file_compares_one_s_own_prompts():
    Path("judges.py").write_text(JUDGES)
    task = PromptTask([{"prompt": "a"}, {"prompt": "b"}], compare="judges.py:better")
    assert task.pair_judge()([ROW], ["a"], ["b"]).tolist() == [0.5]


def test_the_file_of_a_pair_judge_is_code_that_a_folder_from_elsewhere_names():
    from palaestra.runs.trust import named_code

    kwargs = {"data": "rows.jsonl", "compare": "/evil.py:better"}
    assert named_code({"method": "spo-lm", "task": {"spec": "prompts", "kwargs": kwargs}}) == ["/evil.py:better"]


def test_without_a_pair_judge_the_one_with_the_better_reward_is_preferred():
    task = PromptTask([{"prompt": "a"}, {"prompt": "b"}], lambda completions, **_: [len(c) for c in completions])
    assert task.pair_judge()([ROW], ["aa"], ["a"]).tolist() == [1.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GenerativeJudge(by_length, scale=(3, 3)), "a lowest and a highest"),
        (lambda: GenerativeJudge(by_length, on_error="ignore"), "stop or skip"),
        (lambda: Endpoint("localhost:80", "m"), "begins with http"),
        (lambda: Endpoint("http://x/v1", "m", timeout=0), "must be positive"),
        (lambda: Endpoint("http://x/v1", "m", parallel=0), "at least 1"),
        (lambda: Endpoint("http://x/v1", "m", key="NOBODY_HAS_THIS"), "no environment variable NOBODY_HAS_THIS"),
        (lambda: PromptTask([{"prompt": "a"}], compare=3), "pair judge"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(BadSetting, match=said):
        make()


def test_a_budget_is_not_spent_on_a_judge_that_cannot_be_reached():
    """The first round says so, in one line."""
    task = PromptTask([{"prompt": str(i)} for i in range(4)], compare=GenerativeJudge(broken).pairs, limit=4)
    task.tokeniser = NoisySort(train_rows=20).tokeniser  # type: ignore[method-assign]
    method = SPOLM(model="tiny-16x1", prompts=2, group=2).bind(task, 0, Budget(updates=1))
    with pytest.raises(RewardFailed, match="the generative judge failed: Late"):
        method.step()
