"""Anchors: what they share, what they are known by, what is kept of what they say, and what a run's folder keeps of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadCheckpoint, BadSetting, PalaestraError
from palaestra.core.experience import Experience
from palaestra.core.files import Frozen
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.anchors import Anchor
from palaestra.language.kept import keeping
from palaestra.language.policy import LanguagePolicy
from palaestra.language.soups import weights_of
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.trpa import ODPO
from palaestra.runs import checkpoint

TINY = {"model": "tiny-16x1", "prompts": 2, "group": 3}
QUIET = {"quiet": True, "tensorboard": False, "evaluate_every": 0, "evaluate_episodes": 1}


def tiny(seed: int = 0, name: str = "tiny-16x1", task: str = "sorting", adapter: int = 0) -> LanguagePolicy:
    torch.manual_seed(seed)
    return LanguagePolicy.make(name, as_task(task), adapter)


def shaken(policy: LanguagePolicy, seed: int = 9) -> LanguagePolicy:
    """The policy after its trained weights have moved."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.trainable():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return policy


def answers(policy: LanguagePolicy, texts: list[str]) -> list[Experience]:
    found = []
    for i, text in enumerate(texts):
        ids, mask = policy.with_answer(policy.prompt_ids("31="), text)
        found.append(Experience(action=ids, mask=mask, segment=torch.full((len(ids),), i)))
    return found


def said(policy: LanguagePolicy, parts: list[Experience], temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        return policy.score(Experience.cat(parts), temperature).logp


@pytest.fixture
def asked(monkeypatch):
    """How many tokens each pass of a policy had."""
    passes, score = [], LanguagePolicy.score
    monkeypatch.setattr(
        LanguagePolicy, "score", lambda self, batch, t=1.0: passes.append(len(batch)) or score(self, batch, t)
    )
    return passes


# What it is.


def test_a_copy_stays_as_it_was_when_the_policy_moves_on():
    policy = tiny()
    parts = answers(policy, ["13", "31"])
    anchor, before = Anchor.of(policy), said(policy, parts)
    shaken(policy)
    assert torch.equal(torch.cat(anchor.logp(parts)), before)
    assert not torch.equal(said(policy, parts), before)
    assert not any(p.requires_grad for p in anchor.policy.parameters())
    assert all(p.requires_grad for p in policy.parameters())


def test_equal_weights_and_words_have_one_hash_wherever_they_come_from(tmp_path):
    policy = tiny()
    policy.save(tmp_path / "model")
    hashes = {Anchor.of(policy).hash, Anchor.of(tiny()).hash, Anchor.named(str(tmp_path / "model")).hash}
    assert len(hashes) == 1
    assert Anchor.of(Anchor.of(policy).policy).hash in hashes
    assert Anchor.of(tiny(seed=1)).hash not in hashes


def test_other_words_are_another_hash():
    policy = tiny()
    before = Anchor.of(policy).hash
    policy.tokeniser.add_tokens(["word"])
    assert Anchor.of(policy).hash != before


def test_one_weight_is_enough_for_another_hash():
    policy = tiny()
    before = Anchor.of(policy).hash
    with torch.no_grad():
        policy.trainable()[0].view(-1)[3] += 1e-3
    assert Anchor.of(policy).hash != before


def test_equal_weights_under_another_config_are_another_hash():
    policy = tiny()
    policy.save(Path("model"))
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    other, parts = Anchor.named("model"), answers(policy, ["13", "31"])
    assert other.hash != Anchor.of(policy).hash
    with keeping(Path("answers")):
        Anchor.of(policy).logp(parts)
        assert torch.equal(torch.cat(other.logp(parts)), said(other.policy, parts))


def test_adapters_that_weigh_otherwise_are_another_hash():
    torch.manual_seed(0)
    policy = LanguagePolicy.make("tiny-16x1", as_task("sorting"), 2, 4)
    torch.manual_seed(0)
    louder = LanguagePolicy.make("tiny-16x1", as_task("sorting"), 2, 8)
    assert Anchor.of(policy).hash == Anchor.of(policy).hash != Anchor.of(louder).hash


def test_under_adapters_the_model_is_there_once_and_the_anchor_is_what_it_says_without_them():
    policy = tiny(adapter=2)
    parts = answers(policy, ["13", "31"])
    anchor = Anchor.of(policy)
    shaken(policy)
    own, theirs = weights_of(anchor.policy), weights_of(policy)
    assert all(
        (own[name] is theirs[name]) == ("lora_" not in name)
        for name, _ in policy.model.named_parameters(prefix="model")
    )
    with policy.model.disable_adapter():
        without = said(policy, parts)
    assert torch.equal(torch.cat(anchor.logp(parts)), without)
    assert not torch.allclose(said(policy, parts), without, atol=1e-3)
    assert not any("base_layer" in name for name in anchor.state_dict())


def test_the_policy_of_the_round_before_is_known_after_further_training_of_adapters_too():
    policy = tiny(adapter=2)
    parts = answers(policy, ["13", "31"])
    anchor = Anchor.of(shaken(policy))
    before = said(policy, parts)
    shaken(policy, seed=8)
    assert torch.equal(torch.cat(anchor.logp(parts)), before)
    anchor.refresh(policy)
    assert torch.equal(torch.cat(anchor.logp(parts)), said(policy, parts))


# Anchors that move.


def test_refreshed_it_is_the_policy_of_now_and_nothing_of_before_is_remembered():
    policy = tiny()
    parts = answers(policy, ["13"])
    anchor = Anchor.of(policy)
    old, first = anchor.logp(parts)[0], anchor.hash
    shaken(policy)
    anchor.refresh(policy)
    assert anchor.hash == Anchor.of(policy).hash != first
    assert torch.equal(anchor.logp(parts)[0], said(policy, parts))
    assert not torch.equal(anchor.logp(parts)[0], old)


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_a_moving_average_goes_a_share_of_the_way(rate):
    policy = tiny()
    anchor = Anchor.of(policy)
    before = {name: t.clone() for name, t in weights_of(policy).items()}
    shaken(policy)
    anchor.towards(policy, rate)
    for name, now in weights_of(anchor.policy).items():
        expected = (1 - rate) * before[name] + rate * weights_of(policy)[name]
        torch.testing.assert_close(now, expected, atol=1e-6, rtol=1e-6)


def test_weights_of_another_shape_are_refused():
    with pytest.raises(BadSetting, match="of its own shape"):
        Anchor.of(tiny()).refresh(tiny(name="tiny-16x2"))
    with pytest.raises(BadSetting, match="in common"):
        Anchor.of(tiny(adapter=2)).refresh(tiny(adapter=2))
    with pytest.raises(BadSetting, match="share of the way"):
        Anchor.of(tiny()).towards(tiny(), 1.5)


def test_a_model_with_other_words_is_no_reference():
    with pytest.raises(BadSetting, match="different vocabularies"):
        Anchor.beside(tiny(), "tiny-16x1", as_task("countdown"))


@pytest.mark.parametrize("name", ["", "other"])
def test_what_a_policy_is_compared_with_looks_at_the_same_clips(name):
    tiny(seed=5).save("other")
    policy = tiny()
    assert Anchor.beside(policy, name).policy.clip_table is policy.clip_table


# What is kept of what it says.


def test_where_nothing_is_kept_environments_are_begun_for_answers_alone():
    begun = []

    def environment(row):
        begun.append(row["prompt"])
        return lambda said: None

    rows = [{"prompt": prompt} for prompt in ("31=", "310=")]
    said = Anchor.of(tiny()).answer(rows, environment=environment, copies=2, max_tokens=3)
    assert sorted(begun) == ["310=", "310=", "31=", "31="]
    assert all(sample.messages for sample in said)


def test_what_was_asked_is_not_computed_again_where_it_is_kept_whoever_asks(asked):
    policy = tiny()
    parts = answers(policy, ["13", "31", "1"])
    alone = Anchor.of(policy).logp(parts)
    del asked[:]
    with keeping(Path("answers")):
        first, again = Anchor.of(policy).logp(parts), Anchor.of(tiny()).logp(parts)
        assert len(asked) == 1
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(alone, first, again, strict=True))
        Anchor.of(policy).logp(parts, temperature=0.7)
        Anchor.of(policy).logp(parts[:2])
        Anchor.of(policy).logp(parts, micro_tokens=8)
        Anchor.of(tiny(seed=1)).logp(parts)
        assert len(asked) > 4 and len(list(Path("answers").glob("*.safetensors"))) == 5
    del asked[:]
    anchor = Anchor.of(policy)
    anchor.logp(parts), anchor.logp(parts)
    assert len(asked) == 2


def test_where_an_answer_ends_is_part_of_the_question():
    policy, earlier = tiny(), tiny()
    earlier.model.generation_config.eos_token_id = list(range(4, 16))
    rows = [{"prompt": "31="}]
    with keeping(Path("answers")):
        long, short = (Anchor.of(p).answer(rows, max_tokens=20) for p in (policy, earlier))
    assert len(short[0].completion) == len(earlier.answer(rows, max_tokens=20)[0].completion) < len(long[0].completion)


def test_another_mask_is_another_question():
    policy = tiny()
    (part,) = answers(policy, ["13"])
    anchor = Anchor.of(policy)
    with keeping(Path("answers")):
        all_of_it = anchor.logp([part])[0]
        last = torch.arange(len(part)) == len(part) - 1
        assert torch.equal(anchor.logp([part.replace(mask=last)])[0], all_of_it * last)


def test_a_colder_question_is_of_the_tempered_distribution():
    policy = tiny()
    parts = answers(policy, ["13", "31"])
    assert torch.equal(torch.cat(Anchor.of(policy).logp(parts, temperature=0.6)), said(policy, parts, 0.6))


def test_what_is_kept_is_what_would_be_computed_to_the_last_bit():
    """What was asked before in other company was rounded in other company."""
    policy = shaken(tiny(name="tiny-64x2"))
    parts = answers(policy, ["13", "3113", "1", "33311", "13" * 9])
    anchor = Anchor.of(policy)
    with keeping(Path("answers")):
        for i in range(len(parts)):
            anchor.logp(parts[i:], micro_tokens=30)
            anchor.logp(parts[: i + 1])
    for micro_tokens in (8, 30, 100):
        cold = anchor.logp(parts, 1.0, micro_tokens)
        with keeping(Path("answers")):
            warm = anchor.logp(parts, 1.0, micro_tokens)
        assert all(torch.equal(one, other) for one, other in zip(warm, cold, strict=True))


def test_one_that_moves_is_asked_anew_though_what_it_said_is_kept():
    policy = tiny()
    parts = answers(policy, ["13"])
    anchor = Anchor.of(policy)
    with keeping(Path("answers")):
        old = anchor.logp(parts)[0]
        shaken(policy)
        anchor.refresh(policy)
        assert torch.equal(anchor.logp(parts)[0], said(policy, parts))
    assert not torch.equal(old, said(policy, parts))


# What a run's folder keeps.


def blobs(folder: str = "checkpoints") -> list[Path]:
    return sorted((Path(folder) / "blobs").iterdir())


def test_weights_that_stay_are_written_once_and_old_ones_are_swept_away():
    policy = tiny()
    anchor, written = Anchor.of(policy), set()
    for clock in (1, 2, 3):
        checkpoint.save(Path("checkpoints"), clock, {"anchor": anchor.state_dict()}, {})
        (kept,) = blobs()
        written.add(kept.stat().st_mtime_ns)
    assert len(written) == 1
    assert isinstance(anchor.state_dict(), Frozen) and kept.stem == anchor.state_dict().digest
    assert (checkpoint.newest(Path("checkpoints")) / "state.safetensors").stat().st_size < 200
    anchor.refresh(shaken(policy))
    for clock, count in ((4, 2), (5, 1)):
        checkpoint.save(Path("checkpoints"), clock, {"anchor": anchor.state_dict()}, {})
        assert len(blobs()) == count
    assert blobs()[0].stem == anchor.state_dict().digest != kept.stem


def test_an_anchor_is_had_back_from_a_checkpoint_under_its_hash():
    anchor = Anchor.of(shaken(tiny()))
    target = checkpoint.save(Path("checkpoints"), 1, {"anchor": anchor.state_dict()}, {})
    other = Anchor.of(tiny(seed=4))
    assert other.hash != anchor.hash
    other.load_state_dict(checkpoint.load(target)[0]["anchor"])
    assert other.hash == anchor.hash


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-4] + b"torn")])
def test_an_anchor_s_file_that_is_lost_or_altered_is_refused(harm):
    target = checkpoint.save(Path("checkpoints"), 1, {"anchor": Anchor.of(tiny()).state_dict()}, {})
    harm(blobs()[0])
    with pytest.raises(BadCheckpoint, match=r"is missing|hash differs"):
        checkpoint.load(target)


def trained(folder: str, method: pal.Method, resume: bool = False, dies_after: int | None = None) -> pal.Run:
    run = pal.Run(method, "sorting", updates=6, folder=folder, engine=pal.Engine(**QUIET, checkpoint_every=1))
    step, count = type(method).step, iter(range(dies_after or 1000))

    def mortal(self):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "step", mortal)
        return run.train(resume=resume)


def fingerprint(folder: str) -> list[str]:
    newest = checkpoint.newest(Path(folder) / "checkpoints")
    files = [newest / "state.safetensors", newest / "state.json", Path(folder) / "metrics.jsonl"]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_a_run_goes_on_with_the_reference_it_began_with_whatever_became_of_its_folder():
    tiny(seed=5).save("reference")
    method = GRPO(**TINY, kl_weight=0.5, reference="reference", lr=1e-2)
    trained("whole", method)
    with pytest.raises(KeyboardInterrupt):
        trained("cut", method, dies_after=3)
    shaken(tiny(seed=6)).save("reference")
    trained("cut", method, resume=True)
    assert fingerprint("cut") == fingerprint("whole")
    assert len(blobs("whole/checkpoints")) == 1


def test_with_adapters_a_run_resumes_byte_for_byte_and_keeps_no_second_model():
    method = ODPO(**TINY, adapter=2, lr=1e-2)
    trained("whole", method)
    with pytest.raises(KeyboardInterrupt):
        trained("cut", method, dies_after=3)
    trained("cut", method, resume=True)
    assert fingerprint("cut") == fingerprint("whole")
    assert blobs("whole/checkpoints")[0].stat().st_size < 0.3 * Path("whole/policy/model.safetensors").stat().st_size


# The setting.


def bound(method: GRPO) -> GRPO:
    return method.bind(as_task("sorting"), 0, Budget(updates=10))


def test_the_reference_is_the_beginning_unless_another_is_named():
    tiny(seed=5).save("other")
    start, named = bound(GRPO(**TINY, kl_weight=0.1)), bound(GRPO(**TINY, kl_weight=0.1, reference="other"))
    assert start.anchor.hash == Anchor.of(start.language_policy).hash
    assert named.anchor.hash == Anchor.of(tiny(seed=5)).hash
    assert float(start.step()["policy/kl_reference"]) == 0.0
    assert float(named.step()["policy/kl_reference"]) > 0.0
    assert bound(GRPO(**TINY)).anchor is None


def test_a_soup_is_a_reference():
    for seed in (5, 6):
        tiny(seed).save(f"m{seed}")
    method = bound(GRPO(**TINY, kl_weight=0.1, reference="soup:m5,m6*3"))
    expected = 0.25 * tiny(5).trainable()[0] + 0.75 * tiny(6).trainable()[0]
    torch.testing.assert_close(next(method.anchor.policy.parameters()), expected.detach())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reference": "there/is/none", "kl_weight": 0.1}, "there is no model"),
        ({"reference": "other"}, "kl_weight above 0"),
    ],
)
def test_a_reference_that_cannot_be_had_or_is_not_used_is_refused(settings, says):
    with pytest.raises(PalaestraError, match=says):
        bound(GRPO(**TINY, **settings))
