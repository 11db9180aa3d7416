"""Fine-tuning of masked diffusion and UniGRPO: what is masked, what it weighs, and ratios under stored masks."""

from __future__ import annotations

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadDataset, BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy
from palaestra.language.tasks.arithmetic import Arithmetic
from palaestra.language.tasks.squares import Squares
from palaestra.methods.language.batch import Batch
from palaestra.methods.language.mdm_sft import MDMSFT
from palaestra.methods.language.unigrpo import UniGRPO
from palaestra.objectives.masked_diffusion import chance_of_any, mask_probability

TINY = {"model": "mdm-16x1"}


def bind(method, task=None, updates=100):
    return method.bind(task or Squares(), 0, Budget(updates=updates))


def tuned(**settings) -> MDMSFT:
    return bind(MDMSFT(**TINY, **settings))


def ready(task=None, **settings):
    """A method of UniGRPO with the answers of a round, of which every other one is rewarded, and their views."""
    method = bind(UniGRPO(**TINY, prompts=4, group=4, image_steps=4, **settings), task)
    samples, _ = method.sample()
    rewards = torch.arange(len(samples)).remainder(2).float()
    return method, samples, method.learnable(samples, rewards, torch.tensor([s.group for s in samples]))


# Fine-tuning.


def test_a_text_fills_its_place_with_its_end_and_an_image_has_none():
    method = tuned()
    for row in Squares().rows("train")[:20]:
        ids, prompt, _, image = method.laid_out(row)
        assert torch.equal(ids[:prompt], method.language_policy.prompt_ids(row["prompt"]))
        answer = ids[prompt:].tolist()
        assert image == (row["modality"] == "image")
        eos = method.language_policy.tokeniser.eos_token_id
        said = method.language_policy.tokeniser(row["completion"]).input_ids
        assert answer == (said if image else said + [eos] * (9 - len(said)))


def test_what_was_cut_off_has_no_end_and_nothing_is_learnt_behind_it():
    method = bind(MDMSFT(**TINY, batch_size=4), Arithmetic())
    policy, row = method.language_policy, method.task.rows("train")[0]
    whole, cut = method.laid_out(row), method.laid_out({**row, "completion": row["completion"][:7], "truncated": True})
    said = len(policy.completion_ids(row["completion"][:7])) - 1
    assert policy.tokeniser.eos_token_id not in cut.ids and len(cut.ids) == len(whole.ids)
    assert cut.ids[cut.prompt + said :].tolist() == [policy.mask_id] * (len(cut.ids) - cut.prompt - said)
    for _ in range(20):
        method.counters.updates += 1
        [part] = method.corrupted([cut]).parts
        assert not bool(part.mask[cut.prompt + said :].any())


def test_an_answer_that_is_longer_than_its_place_is_refused_as_one_longer_than_the_window_is():
    method = bind(MDMSFT(**TINY, max_tokens=4), Arithmetic())
    row = {"prompt": "3+4=", "completion": "777"}
    assert len(method.laid_out(row).ids) == len(method.laid_out({**row, "completion": "7777", "truncated": True}).ids)
    with pytest.raises(BadDataset, match=r"the answer '7777' to .* needs 5 tokens with its end, but its place has 4"):
        method.laid_out({**row, "completion": "7777"})
    with pytest.raises(BadDataset, match=r"the answer '77777' to .* needs 5 tokens, but its place has 4"):
        method.laid_out({**row, "completion": "77777", "truncated": True})


@pytest.mark.parametrize("task", [Arithmetic(), Squares()], ids=["arithmetic", "squares"])
def test_answers_of_the_tasks_that_are_made_for_it_fit_their_place(task):
    method = bind(MDMSFT(**TINY), task)
    for row in task.rows("train")[:200]:
        method.laid_out(row)


def test_of_texts_only_answers_are_masked_and_weigh_one_over_p_and_length():
    method = bind(MDMSFT(**TINY, batch_size=64), Arithmetic())
    rows = [method.laid_out(row) for row in method.next_rows(method.batch_size)]
    batch = method.corrupted(rows)
    t = torch.rand(3, 64, generator=method.streams.generator("masks", 0))[0]
    p = mask_probability(t).double()
    for i, part in enumerate(batch.parts):
        assert bool(part.mask.any()) and not bool(part.mask[: rows[i].prompt].any())
        assert torch.equal(part.obs == method.language_policy.mask_id, part.mask)
        assert torch.equal(part.action, rows[i].ids)
        weight = 0.5 * float(chance_of_any(p[i : i + 1], torch.tensor([9])) / p[i]) / 9 / 64
        assert part.weight[part.mask].tolist() == pytest.approx([weight] * int(part.mask.sum()), rel=1e-4)
        assert not bool(part.weight[~part.mask].any())


def test_by_the_cosine_schedule_all_masked_codes_of_all_images_weigh_alike_and_together_1():
    method = tuned(batch_size=64, image_masking="cosine", drop_caption=0.0)
    rows = [method.laid_out(row) for row in method.next_rows(method.batch_size)]
    parts = [part for part, row in zip(method.corrupted(rows).parts, rows, strict=True) if row.image]
    weight = torch.cat([part.weight[part.mask] for part in parts])
    assert float(weight.sum()) == pytest.approx(1.0, rel=1e-4)
    assert float(weight.max() - weight.min()) < 1e-8


def test_the_loss_of_a_model_that_knows_nothing_is_the_logarithm_of_the_vocabulary():
    method = tuned(batch_size=256, image_masking="unified", drop_caption=0.0)
    with torch.no_grad():
        method.language_policy.model.head.weight.zero_()
    batch = method.corrupted([method.laid_out(row) for row in method.next_rows(method.batch_size)])
    with torch.no_grad():
        loss = sum(float(method.loss(part)[0]) for part in batch.micro(500))
    size = method.language_policy.model.config.vocab_size
    assert loss == pytest.approx(1.5 * float(torch.tensor(float(size)).log()), rel=0.12)


def test_captions_are_dropped_whole_and_only_of_images():
    method = tuned(batch_size=200, drop_caption=0.4)
    rows = [method.laid_out(row) for row in method.next_rows(method.batch_size)]
    blind = [
        bool((part.obs[: row.prompt] == 4).all()) for part, row in zip(method.corrupted(rows).parts, rows, strict=True)
    ]
    images = [b for b, row in zip(blind, rows, strict=True) if row.image]
    assert 0.2 < sum(images) / len(images) < 0.6
    assert not any(b for b, row in zip(blind, rows, strict=True) if not row.image)


def test_several_passes_have_the_gradient_of_one():
    methods = [tuned(batch_size=16, micro_tokens=n) for n in (60, 100_000)]
    for method in methods:
        method.step()
    for a, b in zip(*(m.language_policy.model.parameters() for m in methods), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


def test_it_learns_what_stands_in_every_answer():
    method = bind(MDMSFT(**TINY, lr=1e-2, batch_size=16, schedule="constant"), Arithmetic(), 60)
    for _ in range(60):
        method.step()
    samples = method.language_policy.answer(Arithmetic().rows("test")[:10], greedy=True)
    assert all(s.text.startswith("<think>") and s.text.endswith("</answer>") and not s.truncated for s in samples)


def test_what_a_place_does_not_fit_is_refused_before_anything_is_learnt():
    with pytest.raises(BadSetting, match="not made of blocks of 4"):
        bind(MDMSFT(**TINY, block=4), Arithmetic())
    with pytest.raises(BadSetting, match="more than the 9 tokens"):
        bind(UniGRPO(**TINY, steps=10), Arithmetic())
    from palaestra.language.tasks.prompts import PromptTask

    with pytest.raises(Unsupported, match="completion"):
        bind(
            MDMSFT(**TINY), PromptTask([{"prompt": "1"}] * 4, reward=lambda completions, **_: [0.0] * len(completions))
        )


# UniGRPO.


@pytest.mark.parametrize("masking", ["structured", "random", "d1"])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_before_the_first_step_every_ratio_is_exactly_1(masking, minibatches):
    method, _, views = ready(masking=masking, minibatches=minibatches, epochs=3)
    for epoch in range(3):
        for part in method.minibatches_of(views, epoch):
            for piece in part.micro(method.micro_tokens):
                _, outputs = method.loss(piece, len(part))
                assert float(outputs["policy/kl"]) == pytest.approx(0.0, abs=1e-9 if minibatches > 1 else 0.0)
                assert float(outputs["policy/clipped_up"]) == float(outputs["policy/clipped_down"]) == 0.0


def test_masks_drawn_anew_would_not_give_a_ratio_of_1():
    method, _, views = ready(epochs=2)
    first, second = views.views
    mixed = Batch(
        [a.replace(logp=b.logp, mask=a.mask & b.mask) for a, b in zip(first.parts, second.parts, strict=True)]
    )
    [whole] = mixed.micro(100_000)
    with torch.no_grad():
        logp = method.language_policy.score(whole).logp
    assert float((logp - whole.logp)[whole.mask].abs().max()) > 1e-4


def test_the_first_update_moves_the_policy_and_the_second_sees_ratios_under_its_own_masks():
    method, _, views = ready(lr=1e-2, kl_weight=0.0)
    [part] = method.minibatches_of(views, 0)
    assert float(method.update(part)["policy/kl"]) == 0.0
    [part] = method.minibatches_of(views, 1)
    assert float(method.update(part)["policy/kl"]) > 0.0


def test_only_answers_are_masked_what_is_behind_their_end_always_and_it_never_counts():
    method, samples, views = ready(epochs=4)
    mask_id = method.language_policy.mask_id
    for view in views.views:
        for part, sample in zip(view.parts, samples, strict=True):
            n = sample.prompt
            assert torch.equal(part.obs[:n], sample.ids[:n]) and not bool(part.mask[:n].any())
            assert bool(part.mask.any())
            assert len(part.obs) - n == (16 if sample.row["modality"] == "image" else 9)
            behind = part.obs[len(sample) :]
            assert bool((behind == mask_id).all()) and not bool(part.mask[len(sample) :].any())
            shown = ~part.mask[: len(sample)]
            assert torch.equal(part.obs[: len(sample)][shown], sample.ids[shown])


def test_d1_masks_all_of_the_answer_and_some_of_the_prompt():
    method, samples, views = ready(masking="d1", epochs=2)
    for view in views.views:
        hidden = []
        for part, sample in zip(view.parts, samples, strict=True):
            assert torch.equal(part.mask[: len(sample)], sample.mask)
            hidden.append((part.obs[: sample.prompt] == method.language_policy.mask_id).float())
        assert 0.05 < float(torch.cat(hidden).mean()) < 0.3
    assert not torch.equal(views.views[0].parts[0].obs, views.views[1].parts[0].obs)


def share_of_masks(masking: str, **settings) -> torch.Tensor:
    method = bind(
        UniGRPO(**TINY, prompts=4, group=8, epochs=4, masking=masking, image_steps=2, **settings), Squares(ask="draw")
    )
    samples, _ = method.sample()
    views = method.learnable(samples, torch.zeros(32), torch.tensor([s.group for s in samples])).views
    return torch.tensor([[float(part.mask.sum()) / 16 for part in view.parts] for view in views])


def test_structured_shares_are_spread_evenly_over_the_passes_and_random_ones_are_not():
    structured, drawn = share_of_masks("structured"), share_of_masks("random")
    # One share in each quarter: the mean over the passes is between 0.375 and 0.625 but for which tokens are drawn.
    assert float(structured.mean(0).std()) < 0.8 * float(drawn.mean(0).std())
    narrow = share_of_masks("random", mask_range=(0.45, 0.55))
    assert float(narrow.mean()) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(("reference", "loss"), [("", True), ("previous", False)])
def test_the_divergence_is_from_the_beginning_or_from_the_policy_that_answered(reference, loss):
    method, samples, views = ready(lr=1e-2, reference=reference)
    [part] = method.minibatches_of(views, 0)
    assert float(method.update(part)["loss/kl"]) == 0.0
    again = method.learnable(samples, torch.ones(16), torch.tensor([s.group for s in samples]))
    [part] = method.minibatches_of(again, 0)
    assert (float(method.update(part)["loss/kl"]) > 1e-7) == loss


def test_without_a_divergence_answers_that_are_all_alike_teach_nothing():
    method = bind(UniGRPO(**TINY, prompts=2, group=3, kl_weight=0.0, image_steps=2))
    before = [p.detach().clone() for p in method.language_policy.trainable()]
    metrics = method.step()
    assert float(metrics["groups/without_spread"]) == 1.0  # an untrained model draws no squares
    assert all(torch.equal(a, b) for a, b in zip(before, method.language_policy.trainable(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"group": 1}, "nothing to compare with"),
        ({"clip": 1.5}, "clip"),
        ({"mask_range": (0.5, 0.5)}, "mask_range"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        bind(UniGRPO(**TINY, **settings))


def test_it_goes_on_from_a_run_of_fine_tuning_and_keeps_its_way_of_answering():
    engine = pal.Engine(quiet=True, tensorboard=False, evaluate_episodes=4)
    first = pal.Run(
        MDMSFT(**TINY, batch_size=4, steps=3, image_steps=5), Squares(), updates=2, folder="first", engine=engine
    )
    first.train()
    method = bind(UniGRPO(model="first", guidance=0.5))
    unmasking = method.language_policy.unmasking
    assert (unmasking.steps, unmasking.image_steps, unmasking.guidance) == (3, 5, 0.5)


def test_it_learns_what_is_rewarded():
    rows = [{"prompt": f"{a:02}+{b:02}="} for a in range(20) for b in range(20)]
    task = pal.PromptTask(
        rows, lambda completions, **_: [text.count("1") / 8 for text in completions], limit=8, held_out=0
    )
    torch.manual_seed(0)
    DiffusionLanguagePolicy.make("mdm-32x2", Arithmetic()).save("model")
    method = bind(UniGRPO(model="model", prompts=8, group=8, lr=2e-3, max_tokens=8), task)
    rewards = [float(method.step()["reward/mean"]) for _ in range(12)]
    assert rewards[0] < 0.2 and max(rewards[-3:]) > 0.5
