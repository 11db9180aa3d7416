"""Clips beside text: patches, places, and answers that are scored as they were sampled."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadSetting, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.policy import LanguagePolicy
from palaestra.language.tasks.clips import Clips
from palaestra.language.vision import DEVIATION, MEAN, clip_of, expanded, sees
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.reg_grpo import RegGRPO
from palaestra.methods.language.sft import SFT
from palaestra.methods.preference.iterated_dpo import IteratedDPO

CONFIG = SimpleNamespace(vision_config=SimpleNamespace(patch_size=2, temporal_patch_size=2, spatial_merge_size=2))
MODEL = "tiny-video-16x1"


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return LanguagePolicy.make(MODEL, Clips())


def rows(count):
    return Clips().rows("train")[:count]


def packed(policy, samples):
    policy.clip_table.clips = [s.clip for s in samples]
    parts = []
    for i, s in enumerate(samples):
        number = torch.full((len(s),), i)
        group = torch.full((len(s),), s.group)
        parts.append(Experience(action=s.ids, mask=s.mask, segment=number, row=number, group=group))
    return Experience.cat(parts)


def test_patches_are_in_the_order_in_which_neighbours_become_one_token():
    # Every number says where it comes from: frame, colour, row and column.
    video = torch.tensor(
        [f * 1000 + c * 100 + y * 10 + x for f in range(4) for c in range(3) for y in range(4) for x in range(8)]
    )
    clip = clip_of(video.view(4, 3, 4, 8).float(), CONFIG)
    assert clip.grid.tolist() == [2, 2, 4]
    assert clip.tokens == 2 * 2
    pixels = clip.patches.view(-1, 3, 2, 2, 2) * torch.tensor(DEVIATION).view(3, 1, 1, 1) + torch.tensor(MEAN).view(
        3, 1, 1, 1
    )
    first = [[int(v) // 10 % 10, int(v) % 10] for v in pixels[:8, 0, 0, 0, 0].round()]
    # The four patches of a token lie in a square, and tokens go from left to right.
    assert first == [[0, 0], [0, 2], [2, 0], [2, 2], [0, 4], [0, 6], [2, 4], [2, 6]]
    assert pixels[9].round().flatten().tolist() == [
        f * 1000 + c * 100 + y * 10 + x for c in range(3) for f in (2, 3) for y in (0, 1) for x in (2, 3)
    ]


def test_bytes_are_numbers_from_0_to_1_and_an_odd_last_frame_is_shown_twice():
    video = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    clip = clip_of(video, CONFIG)
    torch.testing.assert_close(clip.patches, clip_of(torch.cat([video, video[-1:]]).float() / 255, CONFIG).patches)


@pytest.mark.parametrize("shape", [(4, 3, 6, 4), (4, 1, 4, 4), (3, 4, 4)])
def test_clips_of_another_shape_are_refused(shape):
    with pytest.raises(BadSetting):
        clip_of(torch.zeros(shape), CONFIG)


def test_a_place_becomes_as_long_as_the_clip_and_must_be_there_once():
    clip = clip_of(torch.zeros(4, 3, 4, 8), CONFIG)
    assert expanded(torch.tensor([7, 5, 8]), clip, 5).tolist() == [7, 5, 5, 5, 5, 8]
    for ids in ([7, 8], [5, 5]):
        with pytest.raises(BadSetting, match="one place"):
            expanded(torch.tensor(ids), clip, 5)


def test_answers_are_scored_as_they_were_sampled(policy):
    samples = policy.answer(rows(5), copies=3, max_tokens=6, seed=1, batch=4)  # rows join others that are under way
    scored = policy.score(packed(policy, samples))
    torch.testing.assert_close(scored.logp, torch.cat([s.logp for s in samples]), atol=1e-5, rtol=1e-4)
    said = torch.cat([s.completion for s in samples])
    assert (
        said == policy.model.config.video_token_id
    ).any()  # and a video token that was sampled is no place for a clip


def test_what_is_shown_matters(policy):
    [row] = rows(1)
    other = {**row, "video": 255 - row["video"]}
    samples = policy.answer([row, other], copies=1, max_tokens=4, seed=1)
    batch = packed(policy, samples)
    as_seen = policy.score(batch).logp
    policy.clip_table.clips = [samples[1].clip, samples[0].clip]
    assert (policy.score(batch).logp - as_seen).abs().max() > 1e-4


def test_positions_after_a_clip_go_on_from_the_last_token_not_from_the_largest(policy):
    from palaestra.language.vision import seen

    ids, clip = policy.asked(rows(1)[0])
    whole = torch.cat([ids, torch.tensor([6, 7])]).unsqueeze(0)
    position = seen(policy.model, whole, torch.ones_like(whole), [clip])["position_ids"]
    last = position[:, 0, -4:]
    assert (last == last[:1]).all()  # of text, the same in time and space
    assert last[0].diff().tolist() == [1, 1, 1]
    assert int(last[0, 0]) < int(position.max())


def test_the_folder_of_a_model_that_sees_loads_and_what_it_sees_with_is_not_trained(policy, tmp_path):
    policy.save(tmp_path / "model")
    again = LanguagePolicy.load(tmp_path / "model")
    assert sees(again.model) and not any(p.requires_grad for p in again.model.model.visual.parameters())
    asked = rows(2)
    ours, theirs = (p.answer(asked, greedy=True, max_tokens=5) for p in (policy, again))
    assert [s.ids.tolist() for s in ours] == [s.ids.tolist() for s in theirs]


def test_a_model_that_does_not_see_is_shown_nothing():
    blind = LanguagePolicy.make("tiny-16x1", Clips())
    with pytest.raises(Unsupported, match="takes none"):
        blind.answer(rows(1))


def test_a_task_without_a_place_for_clips_has_no_model_that_sees():
    with pytest.raises(BadSetting, match="no place"):
        LanguagePolicy.make(MODEL, as_task("sorting"))


def test_demonstrations_of_clips_are_learnt():
    method = SFT(model="tiny-video-32x1", batch_size=16, lr=3e-3, warmup=5, schedule="constant")
    method = method.bind(Clips(trivial=1.0), 0, Budget(updates=40))
    losses = [float(method.step()["loss/policy"]) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("method", [GRPO, RegGRPO])
def test_methods_learn_from_answers_about_clips(method):
    settings = {"model": MODEL, "prompts": 2, "group": 4, "epochs": 2, "kl_weight": 0.1}
    bound = method(**settings).bind(Clips(), 0, Budget(updates=4))
    bound.judged = lambda samples: [vars(s).update(reward=float(i % 4 == 0)) or s for i, s in enumerate(samples)]
    before = [p.clone() for p in bound.language_policy.trainable()]
    metrics = bound.step()
    assert float(metrics["policy/kl_reference"]) >= 0
    assert any(not torch.equal(a, b) for a, b in zip(before, bound.language_policy.trainable(), strict=True))


def test_answers_about_clips_that_were_compared_are_scored_with_their_clips_in_view():
    bound = IteratedDPO(model=MODEL, prompts=2, group=4, minibatches=1).bind(Clips(), 0, Budget(updates=4))
    bound.judged = lambda samples: [vars(s).update(reward=float(i % 2)) or s for i, s in enumerate(samples)]
    samples, _ = bound.sample()
    rewards, group = (torch.tensor([getattr(s, name) for s in samples]) for name in ("reward", "group"))
    batch = bound.learnable(samples, rewards, group)
    for part, logp in zip(batch.parts, bound.scored(bound.language_policy, batch), strict=True):
        torch.testing.assert_close(part.logp, logp, atol=1e-4, rtol=1e-4)
    assert bound.update(batch)


def test_noise_for_easy_clips_is_on_the_frames_and_what_is_learnt_from_is_the_noisy_clip(monkeypatch):
    bound = RegGRPO(model=MODEL, prompts=2, group=3, noise=1.0, usual=0.25).bind(Clips(), 0, Budget(updates=4))
    bound.judged = lambda samples: [vars(s).update(reward=1.0) or s for s in samples]
    samples, metrics = bound.sample()
    assert float(metrics["difficulty/noised"]) == 1.0
    clean = clip_of(Clips().rows("train")[0]["video"], bound.language_policy.model.config)
    assert samples[0].clip.patches.shape == clean.patches.shape
    assert len(samples[0].clip.patches.unique()) > 100  # and a clean clip has a few colours
    batch = bound.learnable(samples, torch.rand(6), torch.tensor([s.group for s in samples]))
    for part, logp in zip(batch.parts, bound.scored(bound.language_policy, batch), strict=True):
        torch.testing.assert_close(part.logp, logp, atol=1e-4, rtol=1e-4)


def test_a_run_about_clips_resumes_and_its_policy_answers():
    engine = pal.Engine(quiet=True, tensorboard=False, evaluate_episodes=2)
    method = RegGRPO(model=MODEL, prompts=2, group=3, epochs=1, noise=1.0)
    run = pal.Run(method, Clips(), updates=2, folder="run", engine=engine).train()
    assert run.record["status"] == "finished"
    assert len(pal.load_policy("run").answer(rows(1), greedy=True)) == 1


def test_what_a_pretrained_model_sees_with_is_not_trained_with_adapters_either(policy, tmp_path):
    policy.save(tmp_path)
    adapted = LanguagePolicy.make(str(tmp_path), adapter=4)
    named = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
    assert named and not any("visual" in name for name in named)
