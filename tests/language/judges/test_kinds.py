"""Judges of four kinds: the laws that conversions keep, and small cases by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palaestra.core.errors import BadSetting
from palaestra.language.judges.contests import QueueWinRate, WinRate, tournament, win_rates
from palaestra.language.judges.judge import Judge, RewardFailed
from palaestra.language.judges.kinds import (
    BothOrders,
    BradleyTerry,
    Places,
    RewardScorer,
    Sign,
    Summed,
    as_reward,
    asymmetry,
    preferences,
    require_antisymmetric,
    scores_of,
)
from palaestra.language.judges.wrappers import Cached, Counted, NoisyPairs, NoisyScores
from palaestra.language.sample import answers_of
from tests.language.judges.samples import answer, answers

ROW = {"prompt": "x"}
numbers = st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8)
pairs = st.lists(st.tuples(st.text("ab", max_size=3), st.text("ab", max_size=3)), min_size=1, max_size=6)


def value(rows, texts):
    """An answer that is a number is worth it."""
    return torch.tensor([float(text) for text in texts])


def arbitrary(rows, first, second):
    """A judge without any law: it depends on the order, and on anything."""
    return torch.tensor([(hash((a, b, str(r))) % 1000) / 999 for r, a, b in zip(rows, first, second)])


def first_is_better(rows, first, second):
    return torch.ones(len(first))


def ask(judge, given_pairs, row=ROW):
    first, second = zip(*given_pairs)
    return judge([row] * len(first), list(first), list(second))


def turned(given_pairs):
    return [(b, a) for a, b in given_pairs]


# Antisymmetry.

JUDGES = {
    "Bradley-Terry": lambda: BradleyTerry(lambda rows, texts: torch.tensor([float(len(t)) for t in texts])),
    "sign": lambda: Sign(lambda rows, texts: torch.tensor([float(len(t)) for t in texts])),
    "both orders": lambda: BothOrders(arbitrary),
    "noise": lambda: NoisyPairs(BothOrders(arbitrary), 0.5),
    "a cache": lambda: Cached(BothOrders(arbitrary)),
    "a counter": lambda: Counted(BothOrders(arbitrary)),
}


@pytest.mark.parametrize("kind", JUDGES)
@given(given_pairs=pairs)
def test_exchanging_two_answers_exchanges_the_verdict(kind, given_pairs):
    judge = JUDGES[kind]()
    torch.testing.assert_close(ask(judge, given_pairs) + ask(judge, turned(given_pairs)), torch.ones(len(given_pairs)))
    same = [(a, a) for a, _ in given_pairs]
    if kind != "noise":
        torch.testing.assert_close(ask(judge, same), torch.full((len(same),), 0.5))
    first, second = zip(*given_pairs)
    require_antisymmetric(judge, [ROW] * len(first), first, second)


def test_a_judge_that_depends_on_the_order_is_refused():
    assert asymmetry(first_is_better, [ROW], ["a"], ["b"]) == 1.0
    assert asymmetry(first_is_better, [], [], []) == 0.0
    with pytest.raises(
        RewardFailed, match=r"first_is_better depends on the order: .* off 1 by up to 1; wrap it in BothOrders"
    ):
        require_antisymmetric(first_is_better, [ROW], ["a"], ["b"])


def test_a_judge_that_draws_is_believed_within_the_noise_of_its_draws_and_no_further():
    noise = torch.Generator().manual_seed(0)

    def drawing(bias):
        def drawn(rows, first, second):
            return (torch.rand(len(rows), generator=noise) < 0.5 + bias).float()

        return drawn

    for pairs in (50, 400):
        for _ in range(20):
            require_antisymmetric(drawing(0.0), [ROW] * pairs, ["a"] * pairs, ["b"] * pairs)
    with pytest.raises(RewardFailed, match=r"drawn depends on the order: .* on average"):
        require_antisymmetric(drawing(0.15), [ROW] * 400, ["a"] * 400, ["b"] * 400)


def test_the_bias_for_a_position_is_reported():
    judge = BothOrders(first_is_better)
    assert judge.report() == {"pairs": 0.0, "first": 0.5, "turned": 0.0}
    assert ask(judge, [("a", "b"), ("c", "d")]).tolist() == [0.5, 0.5]
    assert judge.report() == {"pairs": 2.0, "first": 1.0, "turned": 1.0}


def test_a_judge_without_a_bias_reports_none():
    judge = BothOrders(Sign(value))
    ask(judge, [("1", "2"), ("4", "3"), ("5", "5")])
    assert judge.report() == {"pairs": 3.0, "first": 0.5, "turned": 0.0}


# Scorers as pair judges.


def test_bradley_terry_is_the_sigmoid_of_the_gap():
    won = ask(BradleyTerry(value, scale=2.0), [("3", "1"), ("1", "1"), ("1", "5")])
    torch.testing.assert_close(won, torch.tensor([1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(2))]))
    assert ask(Sign(value), [("3", "1"), ("1", "1"), ("1", "5")]).tolist() == [1.0, 0.5, 0.0]
    with pytest.raises(BadSetting, match="positive"):
        BradleyTerry(value, scale=0.0)


# Win rates.


@given(numbers)
def test_win_rates_average_a_half_and_order_answers_as_scores_do(scores):
    texts = [str(score) for score in scores]
    rates = WinRate(Sign(value))(ROW, texts)
    assert float(rates.mean()) == pytest.approx(0.5)
    for a, rate_a in zip(scores, rates.tolist()):
        for b, rate_b in zip(scores, rates.tolist()):
            assert (a > b) == (rate_a > rate_b + 1e-6)


def test_win_rates_are_of_a_group_alone_and_by_hand():
    group = torch.tensor([0, 1, 0, 1, 0, 2])
    rates = win_rates(Sign(value), [ROW] * 6, ["1", "1", "2", "1", "2", "9"], group)
    assert rates.tolist() == [0.0, 0.5, 0.75, 0.5, 0.75, 0.5]


def test_each_pair_of_a_group_is_asked_about_once():
    judge = Counted(Sign(value))
    WinRate(judge)(ROW, [str(i) for i in range(8)])
    assert (judge.calls, judge.asked) == (1, 28)


def test_a_cycle_gives_everyone_a_half():
    beats = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}

    def judge(rows, first, second):
        return torch.tensor([float(pair in beats) for pair in zip(first, second)])

    assert WinRate(judge)(ROW, ["rock", "paper", "scissors"]).tolist() == [0.5, 0.5, 0.5]


def test_a_pair_judge_is_a_reward_function_too():
    reward = as_reward(WinRate(Sign(value)))
    assert reward.__name__ == "win_rate_Sign"
    samples = [answer(text, prompt=p, goal=p) for p, text in (("a", "1"), ("a", "2"), ("b", "5"), ("b", "5"))]
    with Judge(reward) as judge:
        assert judge(samples).total.tolist() == [0.0, 1.0, 0.5, 0.5]


def test_a_queue_compares_with_what_was_said_before_to_the_same_row():
    judge = QueueWinRate(Sign(value), size=4)
    other = {"prompt": "y"}
    assert judge([ROW, ROW, other], ["1", "2", "9"]).tolist() == [0.0, 1.0, 0.5]  # nobody before: each other, or nobody
    assert judge([ROW, other], ["2", "1"]).tolist() == [0.75, 0.0]  # against 1 and 2, and against 9
    judge([ROW] * 4, ["10", "20", "30", "40"])  # the first four are forgotten
    assert judge([ROW], ["31"]).tolist() == [0.75]


def test_a_queue_goes_on_where_it_was_saved():
    judge, again = QueueWinRate(Sign(value), 3), QueueWinRate(Sign(value), 3)
    judge([ROW] * 5, [*"12345"])
    again([ROW], ["7"])
    again.load_state_dict(judge.state_dict())
    assert judge([ROW], ["4"]).tolist() == again([ROW], ["4"]).tolist() == [0.5]


# Tournaments.


@pytest.mark.parametrize(("k", "games"), [(2, 1), (3, 4), (4, 5), (8, 11), (16, 23)])
def test_a_tournament_takes_half_as_many_games_again_as_it_has_players(k, games):
    assert tournament(Sign(value), ROW, [str(i) for i in range(k)]).games == games


@given(st.lists(st.integers(0, 5), min_size=2, max_size=17))
def test_a_tournament_finds_the_best_and_the_worst_by_any_score(scores):
    found = tournament(Sign(value), ROW, [str(score) for score in scores])
    assert scores[found.best] == max(scores) and scores[found.worst] == min(scores)
    assert found.best != found.worst and found.confirmed


def test_in_a_cycle_the_last_game_may_refute_a_tournament():
    beats = {("a", "b"), ("c", "d"), ("a", "c"), ("b", "d"), ("d", "a")}

    def judge(rows, first, second):
        return torch.tensor([float(pair in beats) for pair in zip(first, second)])

    assert vars(tournament(judge, ROW, [*"abcd"])) == {"best": 0, "worst": 3, "confirmed": False, "games": 5}


def test_one_answer_is_no_tournament():
    with pytest.raises(BadSetting, match="at least two"):
        tournament(Sign(value), ROW, ["1"])


# Scorers, rewards, tokens.


def test_reward_functions_are_a_scorer():
    def right(completions, gold, completion_ids, **kwargs):
        return [float(text == g) + len(ids) for text, g, ids in zip(completions, gold, completion_ids)]

    with Judge(right) as judge:
        assert RewardScorer(judge)([{"prompt": "x", "gold": "1"}] * 2, ["1", "2"]).tolist() == [1.0, 0.0]


def conversation(text, *replies, truncated=False):
    """An answer that was cut off or not, and perhaps one of several turns."""
    made = answer(text, prompt=[{"role": "user", "content": "?"}], goal=1)
    made.truncated = truncated
    made.messages = [{"role": "assistant", "content": text}, *({"role": "tool", "content": t} for t in replies)]
    return made


def test_of_answers_in_contests_reward_functions_see_what_they_see_of_answers_that_are_scored():
    seen = []

    def reward(completions, completion_ids, truncated, prompts, **columns):
        seen.append((completions, completion_ids, truncated, prompts))
        return [float(len(ids)) for ids in completion_ids]

    samples = [conversation("a", truncated=True), conversation("bb", "cc"), answer("d", prompt="?", goal=2)]
    with Judge(reward) as judge:
        scores = judge(samples).total
        rows, texts = [s.row for s in samples], answers_of(samples)
        assert torch.equal(RewardScorer(judge)(rows, texts), scores)
    assert texts == ["a", "bb", "d"] and seen[0] == seen[1]


def test_a_cache_tells_answers_of_one_text_apart_that_were_cut_off_or_in_other_tokens():
    whole, cut = answer("aa"), answer("aa")
    cut.truncated = True
    with Judge(lambda truncated, **_: [float(not x) for x in truncated]) as judge:
        cached = Cached(RewardScorer(judge))
        for _ in range(2):
            assert cached([whole.row] * 3, answers_of([whole, cut, whole])).tolist() == [1.0, 0.0, 1.0]
    assert cached.hits == 1 + 3


def test_a_scorer_is_a_reward_function_that_sees_rows_without_the_answers_ids():
    seen = []

    def scorer(rows, texts):
        seen.extend(rows)
        return value(rows, texts)

    with Judge(as_reward(scorer, "worth")) as judge:
        scores = judge(answers("3", "4", gold="?"))
    assert scores.parts["worth"].tolist() == [3.0, 4.0]
    assert seen == [{"prompt": "a question", "gold": "?"}] * 2


@pytest.mark.filterwarnings("ignore:answers are left without")
@pytest.mark.parametrize("around", [lambda scorer: scorer, Cached, Counted])
def test_a_reward_of_a_scorer_leaves_out_what_the_scorer_skipped_and_counts_it_by_the_function_that_failed(around):
    def frail(completions, **_):
        return [math.nan if text == "?" else float(text) for text in completions]

    with Judge(frail, on_error="skip") as inner, Judge(as_reward(around(RewardScorer(inner)))) as judge:
        scores = judge(answers("1", "?", "3"))
        assert scores.total[[0, 2]].tolist() == [1.0, 3.0] and scores.total[1].isnan()
        assert judge.notes.failures == {"frail": 1}
        judge(answers("?"))
        assert (
            judge.notes.failures == {"frail": 2} and "the reward function frail returned nan" in judge.notes.complaint
        )
        assert not inner.notes.failures and not inner.notes.complaint, "they are moved, or would be told again"


def test_a_token_scorer_is_summed_over_tokens():
    scorer = Summed(lambda rows, ids: [i.float() / 2 for i in ids])
    assert scorer([ROW, ROW], [torch.tensor([1, 2, 3]), torch.tensor([], dtype=torch.int64)]).tolist() == [3.0, 0.0]
    assert len(scorer([], [])) == 0
    with pytest.raises(RewardFailed, match=r"shape \(1,\) for 2 tokens"):
        Summed(lambda rows, ids: [torch.ones(1)])([ROW], [torch.tensor([1, 2])])
    for said in (None, [1.0], [[1.0, 2.0]]):
        with pytest.raises(RewardFailed, match=r"gave a (NoneType|list), not a tensor for each answer"):
            Summed(lambda rows, ids, said=said: said)([ROW], [torch.tensor([1, 2])])
    with pytest.raises(RewardFailed, match="gave scores of 0 answers for 1"):
        Summed(lambda rows, ids: [])([ROW], [torch.tensor([1, 2])])


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ([math.nan], "gave nan as number 1 of 1"),
        ([1.5], "between 0 and 1"),
        ([-0.1], "between"),
        ([0.5, 0.5], r"\(2,\) where 1"),
    ],
)
def test_a_pair_judge_that_gives_no_probabilities_is_refused_by_name(said, wrong):
    def mine(rows, first, second):
        return torch.tensor(said)

    with pytest.raises(RewardFailed, match=f"mine.*{wrong}"):
        preferences(mine, [ROW], ["a"], ["b"])


@pytest.mark.parametrize(
    "said",
    [
        None,
        "1",
        ["b"],
        [None],
        [[1.0], []],
        {},
        [10**400],
        pytest.param(10**5000, id="long"),
        [torch.empty((), device="meta")],
    ],
)
def test_a_judge_that_gives_no_numbers_is_refused_by_name(said):
    def mine(rows, texts):
        return said

    with pytest.raises(
        RewardFailed, match=r"mine gave an? (NoneType|str|list|dict|int)\b.*, not numbers, where 1 were asked for"
    ):
        scores_of(mine, [ROW], ["a"])


def test_a_scorer_may_give_any_finite_number_but_no_other():
    for said in ([-3, 1e9], torch.tensor([-3, 1e9]).to_sparse()):
        assert scores_of(lambda rows, texts, said=said: said, [ROW] * 2, ["a", "b"]).tolist() == [-3.0, 1e9]
    with pytest.raises(RewardFailed, match="a finite number"):
        scores_of(lambda rows, texts: [math.inf], [ROW], ["a"])


# Lists.


def by_number(asked):
    """A list judge that takes answers for what they are worth, and what it is asked, which is filled later."""

    def listed(row, texts):
        asked.append((row["prompt"], list(texts)))
        return [float(text) for text in texts]

    return listed


def test_a_place_is_the_share_of_the_others_that_an_answer_stands_before():
    asked = []
    rows = [{"prompt": prompt} for prompt in "xyxxyxz"]
    scores = Places(by_number(asked))(rows, ["3", "7", "-1", "3", "9", "100", "5"])
    assert scores.tolist() == pytest.approx([0.5, 0, 0, 0.5, 1, 1, 0.5])
    assert asked == [("x", ["3", "-1", "100"]), ("y", ["7", "9"])], "together, each text once, and none alone"
    with pytest.raises(RewardFailed, match=r"gave numbers of shape .* where 2 were asked for"):
        Places(lambda row, texts: torch.zeros(3))(rows[:2] * 2, ["1", "2", "3", "4"])


@given(numbers)
def test_places_are_the_win_rates_of_the_scores_signs(worth):
    texts = [str(x) for x in worth]
    expected = WinRate(Sign(value))(ROW, texts)
    torch.testing.assert_close(Places(by_number([]))([ROW] * len(texts), texts), expected)


def test_a_list_judge_rewards_the_answers_of_each_group():
    asked = []
    with Judge(as_reward(Places(by_number(asked)))) as judge:
        scores = judge([answer(text, prompt=prompt, gold=1) for prompt, text in ("p1", "p2", "q5", "q5", "q4")])
    assert scores.parts["places_listed"].tolist() == [0, 1, 0.75, 0.75, 0]
    assert asked == [("p", ["1", "2"]), ("q", ["5", "4"])]


# Wrappers.


def test_noise_is_a_function_of_what_is_judged_and_the_seed():
    texts = [str(i) for i in range(2000)]
    noisy = NoisyScores(value, 0.5, seed=1)([ROW] * 2000, texts)
    torch.testing.assert_close(noisy[7:9], NoisyScores(value, 0.5, seed=1)([ROW] * 2, texts[7:9]))
    gap = noisy - value([], texts)
    assert abs(float(gap.mean())) < 0.05 and float(gap.std()) == pytest.approx(0.5, abs=0.05)
    assert not torch.equal(noisy, NoisyScores(value, 0.5, seed=2)([ROW] * 2000, texts))


def test_a_share_of_pairs_is_flipped_of_each_in_both_orders():
    many = [(str(i), str(-i)) for i in range(1, 2000)]
    said = ask(NoisyPairs(Sign(value), 0.2), many)
    assert float(said.mean()) == pytest.approx(0.8, abs=0.04)
    torch.testing.assert_close(ask(NoisyPairs(Sign(value), 0.2), turned(many)), 1 - said)
    assert ask(NoisyPairs(Sign(value), 0.0), many).all() and not ask(NoisyPairs(Sign(value), 1.0), many).any()


@given(st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=10))
def test_a_cache_says_what_its_judge_says_and_asks_about_each_answer_once(texts):
    counted = Counted(value)
    cached = Cached(counted)
    for _ in range(2):
        assert cached([ROW] * len(texts), texts).tolist() == value([], texts).tolist()
    assert counted.asked == len(set(texts)) and cached.hits == 2 * len(texts) - len(set(texts))


def test_a_cache_tells_rows_answers_and_orders_apart():
    counted = Counted(arbitrary)
    cached = Cached(counted)
    for row, a, b in (
        (ROW, "a", "b"),
        (ROW, "b", "a"),
        ({"prompt": "x", "gold": 1}, "a", "b"),
        (ROW, "ab", ""),
        (ROW, "", "ab"),
    ):
        cached([row], [a], [b])
    assert counted.asked == 5 and cached.hits == 0


def test_a_full_cache_forgets_what_was_not_asked_for_longest():
    counted = Counted(value)
    cached = Cached(counted, size=2)
    for text in ("1", "2", "1", "3", "1", "2"):
        cached([ROW], [text])
    assert counted.asked == 4


@pytest.mark.filterwarnings("ignore:answers are left without")
@pytest.mark.parametrize("around", [lambda scorer: scorer, Cached, Counted, lambda scorer: NoisyScores(scorer, 0.0)])
def test_an_answer_without_a_score_is_a_tie_whatever_is_around_the_scorer(around):
    with Judge(
        lambda completions, **_: [math.nan if t == "?" else float(t) for t in completions], on_error="skip"
    ) as j:
        judge = Sign(around(RewardScorer(j)))
        for _ in range(2):
            assert ask(judge, [("1", "?"), ("2", "1"), ("?", "?")]).tolist() == [0.5, 1.0, 0.5]
            assert judge.unsaid.tolist() == [True, False, True]
        assert judge.notes is j.notes
        with pytest.raises(RewardFailed, match="gave nan as number 2 of 2; it should be a finite number"):
            scores_of(around(RewardScorer(j)), [ROW] * 2, ["1", "?"])


def test_a_number_that_is_none_is_refused_whatever_is_around_the_scorer():
    def undecided(rows, texts):
        return torch.full((len(texts),), math.nan)

    for around in (Cached, Counted, lambda scorer: NoisyScores(scorer, 0.0)):
        with pytest.raises(RewardFailed, match="gave nan as number 1 of 2"):
            ask(Sign(around(undecided)), [("1", "2")])


def test_a_cached_judge_that_gives_too_few_numbers_is_refused():
    with pytest.raises(RewardFailed, match="where 2 were asked for"):
        Cached(lambda rows, texts: torch.ones(1))([ROW] * 2, ["a", "b"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: NoisyScores(value, -1.0),
        lambda: NoisyPairs(arbitrary, 1.5),
        lambda: Cached(value, 0),
        lambda: QueueWinRate(arbitrary, 0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(BadSetting):
        make()
