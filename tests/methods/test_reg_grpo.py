"""Reg-GRPO and REBEL: their gradients through a model, and prompts by their difficulty."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Diverged
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.language.sample import Sample
from palaestra.language.tasks.arithmetic import Arithmetic
from palaestra.language.tokenisers import word_tokeniser
from palaestra.methods.language.dapo import DAPO
from palaestra.methods.language.difficulty import difficulty_of, good_answer, interspersed, opening
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.rebel import REBEL
from palaestra.methods.language.reg_grpo import AugmentedGRPO, RegGRPO
from palaestra.objectives.policy import ppo_clip

TINY = {"model": "tiny-16x1", "prompts": 3, "group": 4, "lr": 1e-2}


def bound(method, **settings):
    return method.bind(as_task("sorting", **{"least": 1, "most": 3, **settings}), 0, Budget(updates=100))


def scored(method, rewards=None):
    """A round's answers, as a batch to learn from, with rewards of one's own."""
    samples, _ = method.sample()
    rewards = torch.rand(len(samples), generator=torch.Generator().manual_seed(1)) if rewards is None else rewards
    return method.learnable(samples, rewards, torch.tensor([s.group for s in samples])), rewards


def stepped(method, batch):
    """How a step against the gradient, without Adam's division, moves the parameters, `(P,)`."""
    seen = []
    method.optimiser.apply = lambda gradients, scale=None: seen.append(torch.cat([g.flatten() for g in gradients]))
    method.update(batch)
    return seen[0]


def test_a_model_whose_log_probabilities_are_no_longer_finite_has_diverged():
    method = bound(RegGRPO(**TINY))
    batch, _ = scored(method)
    with torch.no_grad():
        next(method.language_policy.model.parameters()).fill_(torch.nan)
    with pytest.raises(Diverged, match="no longer finite"):
        method.update(batch)


@pytest.mark.parametrize("tokens", [16_384, 8])
@pytest.mark.parametrize(("length", "average"), [("sum", "sequence-sum"), ("mean", "sequence-mean")])
def test_the_first_step_is_grpo_s_but_for_its_length_in_however_many_passes(tokens, length, average):
    ours, theirs = first_steps({"length": length, "micro_tokens": tokens}, {"average": average})
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99999
    assert float(ours.norm() / theirs.norm()) == pytest.approx(2 / 0.05, rel=1e-3)


def test_by_default_its_first_step_is_not_grpo_s_where_answers_differ_in_length():
    ours, theirs = first_steps({}, {})
    assert torch.cosine_similarity(ours, theirs, dim=0) < 0.999


def test_grpo_with_neither_hints_nor_noise_takes_the_steps_of_grpo():
    plain, augmented = bound(GRPO(**TINY)), bound(AugmentedGRPO(**TINY, hints=0.0, noise=0.0))
    for method in (plain, augmented):
        method.step()
    for ours, theirs in zip(augmented.optimiser.params, plain.optimiser.params, strict=True):
        assert torch.equal(ours, theirs)


def first_steps(settings, others):
    """How the first step moves the parameters, of Reg-GRPO and of GRPO on the same answers and rewards."""
    regression, plain = bound(RegGRPO(**TINY, epsilon=0.05, **settings)), bound(GRPO(**TINY, **others))
    batch, rewards = scored(regression)
    assert len({int(part.mask.sum()) for part in batch.parts}) > 1
    return stepped(regression, batch), stepped(plain, scored(plain, rewards)[0])


def test_the_gradient_through_whole_answers_is_that_of_the_loss_itself():
    method = bound(REBEL(**TINY, eta=0.5))
    batch, rewards = scored(method)
    method.update(batch)  # away from where it began, so that every term counts
    found = stepped(method, batch)
    score = method.language_policy.score
    logp = torch.stack([(score(part).logp * part.mask).sum() for part in batch.parts])
    old = torch.stack([(part.logp * part.mask).sum() for part in batch.parts])
    ratio, loss = logp - old, 0.0
    for g in range(3):
        own, reward = ratio[4 * g : 4 * g + 4] / 0.5, rewards[4 * g : 4 * g + 4]
        pairs = [((own[i] - own[j]) - (reward[i] - reward[j])).square() for i in range(4) for j in range(4) if i != j]
        loss = loss + torch.stack(pairs).mean() / 3
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, method.optimiser.params)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_rebel_takes_an_answer_s_log_ratio_to_the_reference_off_its_reward():
    method = bound(REBEL(**TINY, kl_weight=0.5))
    with torch.no_grad():
        for p in method.optimiser.params:
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    batch, rewards = scored(method)
    apart = torch.stack([(part.logp - part.ref_logp)[part.mask].sum() for part in batch.parts])
    assert apart.abs().min() > 1e-3
    plain = bound(REBEL(**TINY))
    plain.language_policy.model.load_state_dict(method.language_policy.model.state_dict())
    less = batch.replace(
        advantage=[r.expand(len(part)) for r, part in zip(rewards - 0.5 * apart, batch.parts, strict=True)]
    )
    torch.testing.assert_close(stepped(method, batch), stepped(plain, less), atol=1e-5, rtol=1e-4)


def test_the_mean_of_tokens_divides_an_answer_s_log_ratio_by_its_length():
    method = bound(RegGRPO(**TINY, length="mean"))
    batch, _ = scored(method)
    old = torch.stack([(part.logp * part.mask).sum() for part in batch.parts])
    lengths = torch.stack([part.mask.sum() for part in batch.parts])
    method.regressed = lambda ratio, reward, group: ratio.sum()
    assert len(lengths.unique()) > 1
    logp = (old + 6.0).requires_grad_()
    loss, _ = method.whole(logp, batch)
    torch.testing.assert_close(torch.autograd.grad(loss, logp)[0], 1 / lengths)


def test_a_larger_divergence_from_the_reference_raises_the_loss():
    method = bound(RegGRPO(**TINY, kl_weight=0.5))
    batch, _ = scored(method)
    batch = batch.replace(
        advantage=[torch.zeros_like(p.advantage) for p in batch.parts], weight=[p.mask.float() for p in batch.parts]
    )
    losses = [
        method.loss(batch.replace(ref_logp=[p.ref_logp - away for p in batch.parts]).micro(10**6)[0])[0].item()
        for away in (0.0, 0.1, 1.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(0, abs=1e-6) and losses[2] > losses[1]


def test_a_round_of_equal_rewards_teaches_nothing():
    method = bound(RegGRPO(**TINY))
    batch, _ = scored(method, torch.full((12,), 0.3))
    assert method.update(batch) == {}


def test_without_a_clip_the_surrogate_s_gradient_does_not_stop():
    logp = torch.tensor([3.0, -3.0], requires_grad=True)
    loss, _ = ppo_clip(logp, torch.zeros(2), torch.tensor([1.0, -1.0]), GRPO(clip=None).clips)
    ratio = logp.detach().exp()
    torch.testing.assert_close(torch.autograd.grad(loss, logp)[0], torch.tensor([-1.0, 1.0]) * ratio / 2)
    assert DAPO(clip=None).clips == (torch.inf, torch.inf)  # what is wider upwards by default is not clipped, either


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group": 2}, "at least 3"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"window": 0}, "window"),
        ({"hints": -1.0}, "hints"),
        ({"length": "token"}, "sum or mean"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(BadSetting, match=words):
        RegGRPO(**settings).check()


# Difficulty.


def test_a_prompt_below_the_usual_is_hard_and_one_above_it_easy():
    assert difficulty_of(0.2, [0.4, 0.6]) == pytest.approx(0.3)
    assert difficulty_of(0.9, [0.4, 0.6]) == pytest.approx(-0.4)
    assert difficulty_of(0.9, []) == 0.0
    assert difficulty_of(0.2, [0.9], usual=0.5) == pytest.approx(0.3)


def answered(method, text, reward, row=None):
    policy = method.language_policy
    prompt, ids = policy.prompt_ids("321="), policy.completion_ids(text)
    whole = torch.cat([prompt, ids])
    mask = torch.arange(len(whole)) >= len(prompt)
    nothing = torch.zeros(len(whole))
    row = row or {"prompt": "321=", "answer": "123"}
    return Sample(whole, mask, nothing, nothing, len(prompt), text, False, row, 0, {}, reward)


def test_a_good_answer_is_the_best_that_beats_the_usual_else_the_row_s_own_else_none():
    method = bound(RegGRPO(**TINY))
    policy = method.language_policy
    good, bad = answered(method, "123", 1.0), answered(method, "9", 0.0)
    assert policy.tokeniser.decode(good_answer([bad, good], 0.5, policy)) == "123"
    assert good_answer([bad, good], 1.0, policy) is None
    known = answered(method, "9", 0.0, {"prompt": "321=", "completion": "12", "answer": "123"})
    assert policy.tokeniser.decode(good_answer([known], 0.5, policy)) == "12"


@pytest.mark.parametrize(("share", "length"), [(0.0, 0), (0.3, 3), (0.26, 3), (0.95, 9), (1.0, 9)])
def test_a_hint_is_a_share_of_the_answer_and_never_all_of_it(share, length):
    policy = bound(RegGRPO(**TINY)).language_policy
    ids = policy.completion_ids("0123456789")[:-1].tolist()
    assert opening(ids, share, policy).tolist() == ids[:length]


def test_a_hint_ends_before_the_answer_tag():
    method = RegGRPO(**TINY).bind(Arithmetic(), 0, Budget(updates=1))
    policy = method.language_policy
    ids = policy.completion_ids("<think>1</think><answer>132</answer>")[:-1].tolist()
    assert policy.tokeniser.decode(opening(ids, 1.0, policy)) == "<think>1</think>"


@pytest.mark.parametrize(
    "mark", [" <answer>42</answer>", " #### 42", " \\boxed{42}.", "\\boxed 42", " \\fbox{42}", " So the answer is 42."]
)
def test_a_hint_ends_before_whatever_marks_an_answer(mark):
    """Of letters, and of pieces that hold a mark and what stands before it."""

    class Spelt(pal.TextTask):
        def tokeniser(self):
            return word_tokeniser([*sorted({*"6*7 is it." + mark}), " ####", " \\", "x{", "answer"])

    policy = LanguagePolicy.make("tiny-16x1", Spelt())
    ids = policy.completion_ids("6*7 is it." + mark)[:-1].tolist()
    for share in (0.5, 0.7, 0.9, 1.0):
        hint = policy.tokeniser.decode(opening(ids, share, policy))
        assert hint.startswith("6*7 i") and "4" not in hint and "2" not in hint
    assert hint.startswith("6*7 is it.")


def test_noise_is_put_in_and_nothing_of_the_prompt_is_lost():
    policy = bound(RegGRPO(**TINY)).language_policy
    prompt = policy.prompt_ids("13579135=")
    noised = interspersed(prompt, 0.5, policy, torch.Generator().manual_seed(0))
    assert len(noised) == len(prompt) + round(0.5 * len(prompt))
    assert noised[noised != policy.tokeniser.unk_token_id].tolist() == prompt.tolist()
    assert noised[0] == prompt[0] and noised[-1] == prompt[-1]
    assert interspersed(prompt, 0.01, policy, torch.Generator()) is prompt


def with_rewards(method, monkeypatch, rewards):
    """Let the judge give answers rewards by their place in the round, and remember what was asked."""
    asked = []

    def judged(samples):
        for i, s in enumerate(samples):
            s.reward = rewards(s, i)
        asked.append(samples)
        return samples

    monkeypatch.setattr(method, "judged", judged)
    return asked


def test_nothing_is_changed_while_there_is_nothing_to_compare_with(monkeypatch):
    method = bound(RegGRPO(**TINY, hints=1.0, noise=1.0))
    asked = with_rewards(method, monkeypatch, lambda s, i: float(s.group == 0))
    method.sample()
    assert len(asked) == 1
    assert method.latest == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", [RegGRPO, AugmentedGRPO])
def test_hard_prompts_get_hints_easy_ones_noise_and_the_window_the_rewards_as_asked(kind, monkeypatch):
    method = bound(kind(**TINY, hints=1.0, noise=1.0, window=4), least=3)
    method.latest = [0.5]
    first = lambda s, i: [0.5, 0.0, 1.0][s.group]  # noqa: E731
    asked = with_rewards(method, monkeypatch, first)
    samples, metrics = method.sample()
    assert method.latest == [0.5, 0.5, 0.0, 1.0]
    assert [s.group for s in samples] == [0] * 4 + [1] * 4 + [2] * 4
    usual, hard, easy = samples[0], samples[4], samples[8]
    before = asked[0]
    assert usual is before[0]
    assert hard.prompt == before[4].prompt and easy.prompt == before[8].prompt + round(0.5 * before[8].prompt)
    hint = method.language_policy.completion_ids(hard.row["completion"])[:2].tolist()  # half of 3 digits
    assert all(s.completion[:2].tolist() == hint and not s.mask[: s.prompt + 2].any() for s in samples[4:8])
    assert all(s.text.startswith(hard.row["completion"][:2]) and len(s.completion) <= 4 for s in samples[4:8])
    assert float(metrics["difficulty/hinted"]) == float(metrics["difficulty/noised"]) == pytest.approx(1 / 3)
    assert float(metrics["difficulty/reward_as_asked"]) == pytest.approx(0.5)
    assert float(metrics["difficulty/without_spread_as_asked"]) == 1.0


@pytest.mark.parametrize(
    "settings", [{"hints": 1.0, "usual": 1.0}, {"noise": 5.0, "usual": -5.0}], ids=["hints", "noise"]
)
@pytest.mark.parametrize("spare", [0, 1])
def test_a_changed_prompt_has_room_where_the_prompt_had(monkeypatch, settings, spare):
    """A model with as many positions as the longest prompt and its answer need, and one more; hints of one and two digits."""
    method = bound(RegGRPO(**TINY, **settings), least=3)
    with_rewards(method, monkeypatch, lambda s, i: [0.0, 0.7, 0.7][s.group])
    policy, row = method.language_policy, method.task.rows("train")[0]
    needed = len(policy.prompt_ids(row["prompt"])) + method.task.max_tokens
    policy.model.config.max_position_embeddings = needed + spare
    samples, metrics = method.sample()
    noised = len(samples[0].ids[: samples[0].prompt]) - len(policy.prompt_ids(samples[0].row["prompt"]))
    assert float(metrics["difficulty/hinted"]) == float("hints" in settings)
    assert noised == (spare if "noise" in settings else 0)


def test_fixed_amounts_do_not_grow_with_the_distance(monkeypatch):
    method = bound(RegGRPO(**TINY, hints=0.4, noise=0.25, adaptive=False, usual=0.9), least=3)
    with_rewards(method, monkeypatch, lambda s, i: [0.9, 0.0, 1.0][s.group])
    samples, _ = method.sample()
    before = len(samples[8].row["prompt"])
    assert [int((~s.mask).sum()) - s.prompt for s in (samples[0], samples[4])] == [0, 1]  # 0.4 of 3 digits
    assert samples[8].prompt == before + round(0.25 * before)


def test_old_log_probabilities_are_those_of_the_changed_prompt(monkeypatch):
    method = bound(RegGRPO(**TINY, hints=1.0, noise=1.0), least=3)
    method.latest = [0.5]
    with_rewards(method, monkeypatch, lambda s, i: [0.5, 0.0, 1.0][s.group])
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.rand(12), torch.tensor([s.group for s in samples]))
    now = method.scored(method.language_policy, batch)
    for part, logp in zip(batch.parts, now, strict=True):
        torch.testing.assert_close(part.logp, logp, atol=1e-4, rtol=1e-4)


def test_a_task_s_own_noise_is_preferred(monkeypatch):
    method = bound(RegGRPO(**TINY, noise=0.5), least=3)
    method.latest = [0.5]
    with_rewards(method, monkeypatch, lambda s, i: [0.5, 0.0, 1.0][s.group])
    shares = []

    def noised(row, share, generator):
        shares.append(share)
        return {**row, "prompt": "000="}

    vars(method.task)["noised"] = noised
    samples, _ = method.sample()
    assert shares == [0.25]
    assert {s.row["prompt"] for s in samples[8:]} == {"000="}


@pytest.mark.parametrize("method", [RegGRPO, REBEL])
def test_it_learns_to_repeat_a_digit_from_rewards_alone(method):
    engine = pal.Engine(quiet=True, tensorboard=False, evaluate_episodes=50)
    settings = {"model": "tiny-32x1", "prompts": 16, "group": 8, "lr": 5e-3, "epochs": 2}
    task = as_task("sorting", least=1, most=1, limit=1)
    run = pal.Run(method(**settings), task, updates=160, folder="run", engine=engine).train()
    rewards = [row["reward/mean"] for row in run.metrics if "reward/mean" in row]
    assert rewards[0] < 0.2 and rewards[-1] > 0.8
