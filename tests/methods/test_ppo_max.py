"""The switches of PPO for language models, by hand, and that those which are off change nothing."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from palaestra.claims import ppo_max
from palaestra.core.errors import BadDataset, BadSetting, PalaestraError, UnknownName, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget, make_method
from palaestra.core.task import as_task
from palaestra.language.generation.sampling import Sampling
from palaestra.language.reward_policy import RewardPolicy
from palaestra.methods.language.ppo_lm import PPOLM, answer_advantages
from palaestra.methods.preference.ppo_max import PPOMax, PPOMaxReleased
from palaestra.nets.normalise import RunningMoments
from palaestra.objectives.policy import ppo_clip
from palaestra.objectives.value import clipped_value

TINY = {"model": "tiny-16x1", "prompts": 6, "minibatches": 1, "lr": 1e-2}
OFF = TINY | ppo_max.OFF
"""PPO-max with its switches off."""


def bound(method, task="sort-len"):
    return method.bind(as_task(task), 0, Budget(updates=100))


def one_answer(**fields):
    return Experience(
        action=torch.zeros(4, dtype=torch.int64),
        mask=torch.tensor([False, True, True, True]),
        segment=torch.zeros(4, dtype=torch.int64),
        **fields,
    )


def test_token_rewards_and_advantages_of_the_paper_by_hand():
    method = bound(PPOLM(**TINY, kl_weight=0.5))
    part = one_answer(logp=torch.tensor([0.0, 0.1, 0.2, 0.3]), ref_logp=torch.zeros(4))
    rewards = method.token_rewards(part, torch.tensor(1.0))
    torch.testing.assert_close(rewards, torch.tensor([-0.05, -0.1, 0.85]))
    [advantage] = answer_advantages([rewards], [torch.zeros(3)], lam=1.0)
    torch.testing.assert_close(advantage, torch.tensor([0.7, 0.75, 0.85]))


def test_tokens_may_have_rewards_of_their_own():
    method = bound(PPOLM(**TINY))
    part = one_answer(reward=torch.tensor([9.0, 1, 2, 3]))
    assert method.token_rewards(part, torch.tensor(10.0)).tolist() == [1, 2, 13]


def test_running_moments_are_those_of_all_numbers_so_far():
    moments, seen = RunningMoments(), []
    assert moments.deviation == 1
    for x in (torch.tensor([3.0]), torch.tensor([3.0, 3.0])):
        moments.update(x)
        assert moments.deviation == 1
        seen += x.tolist()
    for size in (5, 1, 300):
        x = torch.randn(size, generator=torch.Generator().manual_seed(size)) * 7 + 100
        moments.update(x)
        seen += x.tolist()
        assert moments.mean.item() == pytest.approx(np.mean(seen), rel=1e-12)
        assert moments.deviation.item() == pytest.approx(np.std(seen, ddof=1), rel=1e-10)


def test_moments_are_updated_first_then_rewards_are_standardised_then_clipped():
    method = bound(PPOLM(**TINY, reward_scale="standardise", reward_clip=0.9, standardise=False))
    torch.testing.assert_close(method.on_scale(torch.tensor([1.0, 3.0])), torch.tensor([-0.7071068, 0.7071068]))
    # Of 1, 3, 8 the mean is 4 and the deviation 3.6055.
    torch.testing.assert_close(method.on_scale(torch.tensor([8.0])), torch.tensor([0.9]))
    assert method.moments.count == 3
    scaled = bound(PPOLM(**TINY, reward_scale="deviation"))
    torch.testing.assert_close(scaled.on_scale(torch.tensor([1.0, 3.0])), torch.tensor([1.0, 3.0]) / 2**0.5)


def test_the_divergence_is_not_put_on_the_scale_of_rewards():
    settings = {**TINY, "kl_weight": 0.5, "lam": 1.0, "reward_scale": "standardise", "standardise": False}
    method = bound(PPOMax(**settings, value_clip=None, reward_clip=None))
    samples, _ = method.sample()
    rewards = torch.arange(6.0)
    batch = method.learnable(samples, rewards, torch.arange(6))
    expected = (rewards - 2.5) / rewards.std()
    for part, reward in zip(batch.parts, expected, strict=True):
        torch.testing.assert_close(part.logp, part.ref_logp)  # the policy has not moved: no divergence
        torch.testing.assert_close(part.target[part.mask], reward.expand(int(part.mask.sum())), atol=1e-4, rtol=1e-4)


def test_the_clipped_value_loss_by_hand():
    value, old, target = torch.tensor([1.0, 0.1]), torch.zeros(2), torch.tensor([0.5, 1.0])
    # (1 - .5)^2 = .25 exceeds (.2 - .5)^2 = .09; within the clip both are (.1 - 1)^2 = .81.
    assert clipped_value(value, old, target, 0.2).item() == pytest.approx(0.5 * (0.25 + 0.81) / 2)
    assert clipped_value(value, old, target, 0.2, torch.tensor([1.0, 0.0])).item() == pytest.approx(0.125)
    method = bound(PPOLM(**TINY, value_clip=0.2))
    method.critic.forward = lambda batch: torch.tensor([0.0, 1.0, 0.1, 0.0])
    batch = one_answer(
        value=torch.zeros(4), target=torch.tensor([0.0, 0.5, 1.0, 0.0]), weight=torch.tensor([0.0, 0.5, 0.5, 0.0])
    )
    assert method.value_loss(batch)[0].item() == pytest.approx(0.5 * (0.25 + 0.81) / 2)


def test_where_ratios_are_1_the_policy_s_loss_is_minus_the_mean_advantage():
    logp, advantage = torch.tensor([-1.0, -2, -3], requires_grad=True), torch.tensor([1.0, 2, 6])
    assert ppo_clip(logp, logp.detach(), advantage, 0.2)[0].item() == pytest.approx(-3)


def test_advantages_are_clipped_after_they_are_standardised():
    method = bound(PPOLM(**TINY, advantage_clip=0.5))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.arange(6.0), torch.arange(6))
    advantage = torch.cat([part.advantage for part in batch.parts])
    assert advantage.abs().max() == 0.5


def test_what_the_limit_cut_off_may_have_a_reward_of_its_own():
    method = bound(PPOLM(**TINY, max_tokens=2, endless=-10.0))
    samples, _ = method.sample()
    assert any(s.truncated for s in samples)
    assert all((s.reward == -10) == s.truncated for s in samples)


def test_the_critic_alone_learns_in_the_first_rounds():
    method = bound(PPOMax(**OFF | {"critic_rounds": 1}))
    before = [p.clone() for p in method.language_policy.parameters()]
    head = method.critic.head.bias.clone()
    assert "loss/policy" not in method.step()
    assert all(torch.equal(p, q) for p, q in zip(method.language_policy.parameters(), before, strict=True))
    assert not torch.equal(method.critic.head.bias, head)
    assert "loss/policy" in method.step()
    assert not all(torch.equal(p, q) for p, q in zip(method.language_policy.parameters(), before, strict=True))


def test_answers_that_are_alone_have_no_share_of_groups_without_spread():
    assert "groups/without_spread" not in bound(PPOLM(**TINY)).step()
    assert "groups/without_spread" in bound(PPOLM(**TINY, group=2)).step()


def test_a_budget_in_which_the_critic_alone_would_learn_is_refused():
    method = PPOMax(**OFF | {"minibatches": 2, "epochs": 2, "critic_rounds": 3})
    with pytest.raises(BadSetting, match=r"the first 12 updates the critic learns alone.* no more than 12"):
        method.bind(as_task("sort-len"), 0, Budget(updates=12))
    method.bind(as_task("sort-len"), 0, Budget(updates=13))


def reward_model(folder, width=16, task="sort-len"):
    torch.manual_seed(1)
    policy = RewardPolicy.make(f"tiny-{width}x1", as_task(task))
    torch.nn.init.normal_(policy.head.weight)
    return policy, str(policy.save(folder))


def test_a_critic_may_begin_as_the_reward_model_of_whatever_size(tmp_path):
    model, folder = reward_model(tmp_path / "rm", width=32)
    method = bound(PPOLM(**TINY, reward_model=folder, critic_from="reward-model"))
    ids = torch.cat([method.language_policy.prompt_ids("5310="), method.language_policy.completion_ids("0135")])
    segment = torch.zeros(len(ids), dtype=torch.int64)
    values = method.critic(Experience(action=ids, segment=segment, mask=torch.ones(len(ids), dtype=torch.bool)))
    # A value is what the model says of the text before the token.
    said = model.rewards(Experience(action=ids[:-1], segment=segment[:-1]))
    torch.testing.assert_close(values[-1:], said, atol=1e-5, rtol=1e-4)


def test_answers_are_scored_by_a_reward_model_and_evaluated_by_the_task(tmp_path):
    model, folder = reward_model(tmp_path / "rm")
    method = bound(PPOMax(**TINY, reward_model=folder))
    samples, _ = method.sample()
    expected = model.judge(samples, method.language_policy.tokeniser)
    torch.testing.assert_close(torch.tensor([s.reward for s in samples]), expected, atol=1e-5, rtol=1e-4)
    with method.task.gold() as judge:
        gold = judge(samples).total.mean()
    metrics = bound(PPOMax(**TINY, reward_model=folder)).step()
    torch.testing.assert_close(metrics["reward/gold"], gold)
    torch.testing.assert_close(metrics["reward/mean"], expected.mean(), atol=1e-5, rtol=1e-4)
    assert metrics["answers/kl_reference"].abs() < 1e-4


def test_demonstrations_add_their_likelihood_to_the_same_step():
    method = bound(PPOMax(**OFF | {"ptx_weight": 0.5}))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.arange(6.0), torch.arange(6))
    *_, shown = method.passes(batch)
    assert shown.advantage is None and int(shown.segment.unique().numel()) == 6
    loss, outputs = method.loss(shown)
    logp = method.language_policy.score(shown).logp[shown.mask]
    torch.testing.assert_close(loss, -0.5 * logp.mean())
    torch.testing.assert_close(outputs["loss/ptx"], -logp.mean())
    metrics = method.update(batch)
    assert {"loss/ptx", "loss/policy", "policy/entropy"} <= set(metrics)
    plain = bound(PPOLM(**TINY)).update(batch)  # what is a mean over answers' tokens has no part of theirs
    torch.testing.assert_close(metrics["policy/entropy"], plain["policy/entropy"])


def test_as_released_rewards_are_divided_and_neither_centred_nor_clipped():
    method = bound(PPOMaxReleased(**TINY))
    torch.testing.assert_close(method.on_scale(torch.tensor([100.0, 102.0])), torch.tensor([100.0, 102.0]) / 2**0.5)
    assert {"loss/policy", "answers/kl_reference"} <= method.step().keys()  # no round for the critic alone
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.check()


def test_as_released_a_ratio_begins_at_1_since_both_sides_ignore_how_answers_were_sampled():
    method = bound(PPOMaxReleased(**TINY))
    assert method.sampling == Sampling(temperature=0.8, top_p=0.9, repetition_penalty=1.1)
    samples, _ = method.sample()
    assert all((s.logp - s.sampled_logp)[s.mask].abs().max() > 1e-3 for s in samples)
    batch = method.learnable(samples, torch.arange(6.0), torch.arange(6))
    for part, s in zip(batch.parts, samples, strict=True):
        assert part.weight is None and torch.equal(part.logp, s.logp)
        torch.testing.assert_close(part.ref_logp, s.logp, atol=1e-5, rtol=1e-4)  # the policy has not moved
    [whole] = method.passes(batch)
    advantage = torch.cat([part.advantage[part.mask] for part in batch.parts])
    loss, outputs = method.loss(whole)
    torch.testing.assert_close(loss, -advantage.mean(), atol=1e-5, rtol=1e-4)
    assert outputs["policy/kl"].abs() < 1e-5
    assert not any(name.startswith("sampler/") for name in method.step())


def test_elsewhere_a_repetition_penalty_is_weighed_as_a_cut_is():
    method = bound(PPOMax(**TINY, temperature=0.7, repetition_penalty=1.5))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.arange(6.0), torch.arange(6))
    for part, s in zip(batch.parts, samples, strict=True):
        with torch.no_grad():
            own = method.language_policy.score(part, 0.7).logp
        torch.testing.assert_close(part.logp, own, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(part.weight, (own - s.sampled_logp).exp().clamp(max=2.0), atol=1e-4, rtol=1e-4)
    weights = torch.cat([part.weight[part.mask] for part in batch.parts])
    assert weights.min() < 1 - 1e-3 and weights.max() > 1 + 1e-3


RATES = {"constant": [0.5, 1, 1, 1, 1], "inverse-sqrt": [0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5]}


@pytest.mark.parametrize("schedule", RATES)
def test_both_learning_rates_rise_and_then_stay_or_fall_as_one_over_the_root_of_updates(schedule):
    method = bound(PPOMax(**TINY, value_lr=3e-3, warmup=2, schedule=schedule))
    for rate in RATES[schedule]:
        method.step()
        assert method.optimiser.lr == pytest.approx(TINY["lr"] * rate)
        assert method.value_optimiser.lr == pytest.approx(3e-3 * rate)


def test_both_learning_rates_may_fall_to_nothing_along_half_a_cosine():
    made = PPOMax(**TINY, schedule="cosine", value_lr=3e-3, critic_rounds=1)
    method = made.bind(as_task("sort-len"), 0, Budget(updates=4))
    for done in range(4):
        method.step()
        rate = 0.5 * (1 + math.cos(math.pi * done / 4))
        assert method.optimiser.lr == pytest.approx(TINY["lr"] * rate)
        assert method.value_optimiser.lr == pytest.approx(3e-3 * rate)


def test_on_its_schedule_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped():
    made = PPOMaxReleased(**TINY | {"minibatches": 2}, warmup=3)
    whole, cut, resumed = (bound(made) for _ in range(3))
    for _ in range(4):
        whole.step()
    cut.step(), cut.step()
    resumed.load_state_dict(cut.state_dict())
    resumed.step(), resumed.step()
    assert resumed.optimiser.lr == whole.optimiser.lr == pytest.approx(TINY["lr"] * (3 / 8) ** 0.5)
    for part in ("language_policy", "critic"):
        for p, q in zip(getattr(whole, part).parameters(), getattr(resumed, part).parameters(), strict=True):
            assert torch.equal(p, q)


def test_a_fall_from_the_end_of_a_warm_up_needs_one():
    with pytest.raises(BadSetting, match="give a warmup above 0"):
        PPOMax(schedule="inverse-sqrt").check()


def test_a_demonstration_that_was_cut_off_has_no_end_to_learn():
    method = bound(PPOMax(**OFF | {"ptx_weight": 0.5}))
    row = {"prompt": "5310=", "completions": ["0135", "0153"], "scores": [1.0, 0.5], "completion": "0135"}
    for flags, count in (([True, False], 4), ([False, True], 5)):
        assert int(method.demonstrated({**row, "truncated": flags})[1].sum()) == count


def test_plain_text_may_stay_likely_in_place_of_demonstrations():
    Path("text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("0123", "4567", "0" * 900)))
    method = bound(PPOMax(**OFF | {"ptx_weight": 0.5, "ptx_data": "text.jsonl"}))
    window = method.language_policy.model.config.max_position_embeddings
    read = {len(method.demonstrated(text)[0]) for text in method.texts}
    assert read == {5, min(901, window)}  # with the end, where there is room for it
    shown = Experience.cat(method.demonstrations(6))
    first = torch.cat([torch.tensor([True]), shown.segment[1:] != shown.segment[:-1]])
    assert torch.equal(shown.mask.bool(), ~first)  # nothing says how likely a first token is
    loss, _ = method.loss(shown)
    torch.testing.assert_close(loss, -0.5 * method.language_policy.score(shown).logp[shown.mask].mean())
    assert {"loss/ptx", "loss/policy"} <= method.step().keys()


@pytest.mark.parametrize(
    ("rows", "why"),
    [('{"prompt": "0123"}', "row 0 of text.jsonl has no text in a column text, but prompt"), ("", "holds no rows")],
)
def test_plain_text_that_is_none_is_refused(rows, why):
    Path("text.jsonl").write_text(rows)
    with pytest.raises(BadDataset, match=why):
        PPOMax(**OFF | {"ptx_weight": 0.5, "ptx_data": "text.jsonl"}).check_task(as_task("sort-len"))


def test_plain_text_without_a_weight_is_refused():
    with pytest.raises(BadSetting, match="give a ptx_weight above 0"):
        PPOMax(**OFF | {"ptx_data": "text.jsonl"}).check()


def test_the_entropy_is_held_near_a_level():
    method = bound(PPOMax(**OFF | {"entropy_weight": 2.0, "entropy_level": 0.5}))
    entropy, weight = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])
    assert method.further(entropy, weight) == pytest.approx(2 * 1.5)
    assert method.further(torch.zeros(2), weight) == pytest.approx(2 * 0.5)


def entropy_step(passes, advantage):
    """The gradient of a step on six answers whose entropies lie on both sides of the level, and the answers' entropies."""
    method = bound(PPOMax(**OFF | {"entropy_weight": 1.0, "micro_tokens": 16_384 if passes == 1 else 1}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in method.language_policy.model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.zeros(6), torch.arange(6))
    batch = batch.replace(
        advantage=[advantage * torch.randn(len(part), generator=generator) * part.mask for part in batch.parts]
    )
    scored = [method.language_policy.score(part).entropy[part.mask.bool()].detach() for part in batch.parts]
    method.entropy_level = float(torch.cat(scored).mean()) + 0.01
    found = []
    method.optimiser.apply = lambda gradients, scale=None: found.extend(g.clone() for g in gradients)
    metrics = method.update(batch)
    return found, metrics, torch.stack([entropy.mean() for entropy in scored]) - method.entropy_level


@pytest.mark.parametrize("advantage", [1.0, 0.0])
def test_the_entropy_s_distance_is_that_of_the_whole_minibatch_in_however_many_passes(advantage):
    (whole, one, apart), (split, many, _) = (entropy_step(passes, advantage) for passes in (1, 6))
    assert (apart > 0).any() and (apart < 0).any()
    assert any(bool(g.abs().max() > 1e-4) for g in whole), "answers without an advantage have an entropy, too"
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(one["policy/entropy"], many["policy/entropy"])


def test_ratios_to_the_reference_leave_importance_sampling_out():
    method = bound(PPOMax(**OFF | {"ratio_to": "reference"}))
    method.step()
    samples, _ = method.sample()
    batch = method.learnable(samples, torch.arange(6.0), torch.arange(6))
    [part] = method.passes(batch)
    assert torch.equal(part.logp, torch.cat([p.ref_logp for p in sorted(batch.parts, key=len)])) or set(
        part.logp.tolist()
    ) == set(torch.cat([p.ref_logp for p in batch.parts]).tolist())


def test_with_its_switches_off_ppo_max_is_ppo_bit_for_bit():
    plain, switched = bound(PPOLM(**TINY, kl_weight=0.1)), bound(PPOMax(**OFF | {"kl_weight": 0.1}))
    for _ in range(3):
        plain.step(), switched.step()
    for p, q in zip(plain.language_policy.parameters(), switched.language_policy.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", ["ppo-lm", "rto", "salsa"])
def test_settings_that_ppo_max_alone_has_by_now_are_forgotten_of_older_runs_where_they_were_off(name):
    older = {"lam": 0.9, "critic_rounds": 0, "ptx_data": "", "ratio_to": "behaviour"}
    assert make_method(name, older) == make_method(name, {"lam": 0.9})
    with pytest.raises(UnknownName, match="critic_rounds"):
        make_method(name, older | {"critic_rounds": 1})


def test_three_switches_that_work_against_each_other_are_warned_of():
    with pytest.warns(UserWarning, match="against each other"):
        PPOMax(standardise=True).check()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PPOMax().check()


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 0.0},
        {"value_clip": 0.0},
        {"reward_clip": -1.0},
        {"critic_rounds": -1},
        {"ptx_weight": -0.1},
        {"reward_scale": "both"},
        {"ratio_to": "nothing"},
        {"critic_from": "thin air"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        PPOMax(**settings).check()


def test_a_critic_from_no_reward_model_and_demonstrations_of_no_rows_are_refused():
    with pytest.raises(BadSetting, match="give reward_model"):
        PPOLM(critic_from="reward-model").check()
    task = as_task("sort-len")
    task.rows = lambda split: [{"prompt": "5310=", "answer": "0135"}]
    with pytest.raises(Unsupported, match="leave ptx_weight at 0"):
        PPOMax(**OFF | {"ptx_weight": 1.0}).bind(task, 0, Budget(updates=1))


def test_a_critic_of_another_vocabulary_is_refused(tmp_path):
    _, folder = reward_model(tmp_path / "rm", task="cyclic-style")
    with pytest.raises(PalaestraError, match="vocabularies"):
        bound(PPOLM(**TINY, reward_model=folder, critic_from="reward-model"))
