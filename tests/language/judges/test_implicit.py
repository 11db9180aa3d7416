"""Log-ratios of tokens as a judge: what they are by a plain forward pass, and what they add up to."""

from __future__ import annotations

import pytest
import torch

from palaestra.core.errors import BadSetting, PalaestraError, Unsupported
from palaestra.core.experience import Experience
from palaestra.language.generation.sampling import Sampling
from palaestra.language.judges.implicit import ImplicitRewards
from palaestra.language.judges.kinds import Summed
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.cyclic_style import CyclicStyle
from palaestra.language.tasks.noisy_sort import NoisySort

TASK = NoisySort()


def policy(seed: int, task=TASK) -> LanguagePolicy:
    torch.manual_seed(seed)
    return LanguagePolicy.make("tiny-16x1", task)


@pytest.fixture
def judge() -> ImplicitRewards:
    return ImplicitRewards(policy(0), policy(1), beta=0.5)


def plain(made: LanguagePolicy, prompt: str, answer: str | torch.Tensor) -> torch.Tensor:
    """Log-probabilities of an answer's tokens by the model's own pass."""
    before, after = made.prompt_ids(prompt), made.completion_ids(answer) if isinstance(answer, str) else answer
    with torch.no_grad():
        logits = made.model(input_ids=torch.cat([before, after]).unsqueeze(0)).logits[0]
    return logits.log_softmax(-1)[len(before) - 1 : -1].gather(-1, after.unsqueeze(-1)).squeeze(-1)


def test_a_token_s_reward_is_beta_times_how_much_likelier_it_is_than_under_the_reference(judge):
    asked = [("5310=", "0135"), ("72=", "27"), ("5310=", "01")]
    rows = [{"prompt": prompt} for prompt, _ in asked]
    found = judge(rows, [judge.policy.completion_ids(answer) for _, answer in asked])
    for (prompt, answer), rewards in zip(asked, found, strict=True):
        expected = 0.5 * (plain(judge.policy, prompt, answer) - plain(judge.reference, prompt, answer))
        torch.testing.assert_close(rewards, expected, atol=1e-5, rtol=1e-4)
        assert len(rewards) == len(answer) + 1  # the end's, too


def test_summed_it_scores_whole_answers(judge):
    rows, ids = [{"prompt": "5310="}], [judge.policy.completion_ids("0135")]
    assert float(Summed(judge)(rows, ids)) == pytest.approx(float(judge(rows, ids)[0].sum()))
    assert Summed(judge)([], []).tolist() == []


def test_a_policy_that_is_its_own_reference_rewards_nothing():
    same = policy(0)
    rewards = ImplicitRewards(same, same)([{"prompt": "5310="}], [same.completion_ids("0135")])
    assert not rewards[0].any()


def test_packed_sequences_have_rewards_where_their_mask_is_1_and_a_known_reference_is_not_asked_again(judge):
    ids, mask = judge.policy.with_answer(judge.policy.prompt_ids("5310="), "0135")
    part = Experience(action=ids, mask=mask, segment=torch.zeros_like(ids))
    (rewards,) = judge.of([part])
    (expected,) = judge([{"prompt": "5310="}], [judge.policy.completion_ids("0135")])
    torch.testing.assert_close(rewards[mask], expected)
    assert not rewards[~mask].any()
    (again,) = judge.of([part.replace(ref_logp=torch.full((len(ids),), 2.0))])
    torch.testing.assert_close(again[mask], 0.5 * (judge.policy.score(part).logp.detach()[mask] - 2.0))


def test_how_answers_were_sampled_does_not_enter(judge):
    cold = judge.policy.answer(
        [{"prompt": "5310="}], sampling=Sampling(temperature=0.3, top_p=0.7), max_tokens=5, seed=1
    )
    (rewards,) = judge([s.row for s in cold], [s.completion for s in cold])
    own, other = (plain(made, "5310=", cold[0].completion) for made in (judge.policy, judge.reference))
    torch.testing.assert_close(rewards, 0.5 * (own - other), atol=1e-5, rtol=1e-4)


def test_the_first_token_of_all_has_no_probability_and_so_no_reward(judge):
    (rewards,) = judge([{"prompt": ""}], [judge.policy.completion_ids("01")])
    assert len(rewards) == 3 and rewards[0] == 0 and rewards[1] != 0


def test_models_of_different_vocabularies_and_rows_with_films_are_refused(judge):
    with pytest.raises(PalaestraError, match="vocabularies"):
        ImplicitRewards(policy(0), policy(0, CyclicStyle()))
    with pytest.raises(BadSetting, match="beta"):
        ImplicitRewards(judge.policy, judge.reference, beta=-1.0)
    with pytest.raises(Unsupported, match="video"):
        judge([{"prompt": "1=", "video": torch.zeros(2, 3, 8, 8)}], [judge.policy.completion_ids("1")])
