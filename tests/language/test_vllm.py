"""vLLM behind the generation interface: against a stand-in with its classes, and against itself where it is installed."""

from __future__ import annotations

import copy
import importlib.util
import socket
import sys
import threading

import pytest
import torch

import palaestra as pal
from palaestra.cli.main import main
from palaestra.core.errors import BadSetting, PalaestraError, Unsupported
from palaestra.core.experience import Experience
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.generation.sampling import Sampling, penalised
from palaestra.language.generation.vllm import Colocated, engine_named, weights_of
from palaestra.language.policy import LanguagePolicy
from palaestra.objectives.segments import step_weights

from . import vllm_stand_in as stand_in
from .test_turns import Echo

INSTALLED = importlib.util.find_spec("vllm") is not None
ROWS = [{"prompt": "31="}, {"prompt": "9502="}]


@pytest.fixture(autouse=True)
def vllm(request, monkeypatch):
    """What `import vllm` gives."""
    if "really" not in request.fixturenames:
        monkeypatch.setitem(sys.modules, "vllm", stand_in)


@pytest.fixture
def really():
    if not INSTALLED:
        pytest.skip("vLLM is not installed")


@pytest.fixture
def policy():
    return made()


def made(name: str = "tiny-16x1", task: str | pal.TextTask = "sorting") -> LanguagePolicy:
    torch.manual_seed(0)
    policy = LanguagePolicy.make(name, as_task(task))
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.dim() > 1:
                p.mul_(5.0)
    policy.generate_with("vllm")
    return policy


def scored(policy, samples, temperature=1.0):
    """Log-probabilities under the policy itself, of chosen tokens."""
    batch = Experience.cat(
        [Experience(action=s.ids, mask=s.mask, segment=torch.full((len(s),), i)) for i, s in enumerate(samples)]
    )
    with torch.no_grad():
        return policy.score(batch, temperature).logp[batch.mask]


def told(samples, name="sampled_logp"):
    return torch.cat([getattr(s, name)[s.mask] for s in samples])


def test_answers_have_the_shape_and_the_log_probabilities_of_the_own_engine(policy):
    samples = policy.answer(ROWS, copies=6, max_tokens=8, seed=3)
    assert [s.group for s in samples] == [0] * 6 + [1] * 6
    for s in samples:
        assert s.ids[: s.prompt].tolist() == policy.prompt_ids(s.row["prompt"]).tolist()
        assert s.mask[s.prompt :].all() and not s.mask[: s.prompt].any()
        ended = s.completion[-1] == policy.tokeniser.eos_token_id
        assert s.truncated == (not ended)
        assert len(s.completion) == 8 or ended
    torch.testing.assert_close(told(samples, "logp"), scored(policy, samples), atol=1e-4, rtol=1e-4)
    assert torch.equal(told(samples), told(samples, "logp"))
    assert not any(s.logp.requires_grad or s.logp.is_inference() for s in samples)


def test_greedy_answers_are_those_of_the_own_engine(policy):
    theirs = policy.answer(ROWS, max_tokens=8, greedy=True)
    policy.generate_with("own")
    for one, other in zip(theirs, policy.answer(ROWS, max_tokens=8, greedy=True), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(one.logp, other.logp, atol=1e-4, rtol=1e-4)
        assert torch.equal(one.sampled_logp, other.sampled_logp)


def test_tempered_answers_know_how_likely_they_were_as_sampled_and_nothing_else(policy):
    samples = policy.answer(ROWS, copies=4, max_tokens=8, sampling=Sampling(temperature=0.6), seed=1)
    torch.testing.assert_close(told(samples), scored(policy, samples, 0.6), atol=1e-4, rtol=1e-4)
    assert told(samples, "logp").isnan().all()
    assert all((s.logp[~s.mask] == 0).all() for s in samples)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_penalised_answers_know_how_likely_they_were_as_sampled_and_nothing_else(policy, temperature):
    sampling = Sampling(temperature=temperature, repetition_penalty=3.0)
    samples = policy.answer(ROWS, copies=4, max_tokens=8, sampling=sampling, seed=1)
    assert told(samples, "logp").isnan().all()
    for s in samples:
        prompt = s.ids[: s.prompt]
        logits = policy.model(s.ids.unsqueeze(0)).logits[0, s.prompt - 1 : -1].detach()
        seen = torch.stack(
            [torch.isin(torch.arange(logits.shape[1]), s.ids[: len(prompt) + i]) for i in range(len(logits))]
        )
        drawn = penalised(logits, seen, 3.0)
        if temperature:
            expected = drawn.log_softmax(-1).gather(-1, s.completion.unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(s.sampled_logp[s.mask], expected, atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(drawn.argmax(-1), s.completion)
            assert not s.sampled_logp.any()


def test_copies_have_seeds_of_their_own_and_keep_them(policy):
    one, again = (policy.answer(ROWS, copies=6, max_tokens=8, seed=4) for _ in range(2))
    assert [s.ids.tolist() for s in one] == [s.ids.tolist() for s in again]
    assert len({tuple(s.ids.tolist()) for s in one[:6]}) > 1


def test_answers_end_at_a_stop_text_which_is_left_out(policy):
    samples = policy.answer(ROWS, copies=12, max_tokens=12, stop=("5", "7"), seed=0)
    stopped = [s for s in samples if policy.tokeniser.decode(s.completion[-1:]) in ("5", "7")]
    assert stopped
    assert not any(s.truncated for s in stopped)
    assert not any("5" in s.text or "7" in s.text for s in samples)


def test_every_answer_is_given_by_the_weights_of_that_moment(policy):
    policy.answer(ROWS, max_tokens=4)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    samples = policy.answer(ROWS, copies=4, max_tokens=8, seed=3)
    torch.testing.assert_close(told(samples), scored(policy, samples), atol=1e-4, rtol=1e-4)
    assert policy.engine.llm.resets == 2


def test_a_frozen_copy_shares_the_engine_and_brings_its_own_weights(policy):
    frozen = copy.deepcopy(policy)
    assert frozen.engine is policy.engine
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(0.5)
    for asked in (policy, frozen, policy):
        samples = asked.answer(ROWS, copies=3, max_tokens=8, seed=3)
        torch.testing.assert_close(told(samples), scored(asked, samples), atol=1e-4, rtol=1e-4)


def test_environments_reply_between_turns_as_they_do_to_the_own_engine():
    policy, task = made(task=Echo()), Echo()
    samples = policy.answer(
        task.rows("train"), copies=6, max_tokens=12, stop=task.stop, environment=task.environment, seed=3
    )
    assert any("!" in s.text for s in samples)
    for s in samples:
        said = [policy.tokeniser.decode([i]) for i in s.completion.tolist()]
        chosen = s.mask[s.prompt :].tolist()
        replies = 0
        for i, token in enumerate(said):
            if chosen[i] and token.isdigit() and i + 1 < len(said):
                assert said[i + 1 : i + 3] == [token, "!"][: len(said) - i - 1]
                assert not any(chosen[i + 1 : i + 3])
                replies += 1
        assert replies <= 3
        assert len(said) <= 12
        assert (s.logp[~s.mask] == 0).all()
        if not chosen[-1]:
            assert s.truncated and len(said) == 12
    torch.testing.assert_close(told(samples), scored(policy, samples), atol=1e-4, rtol=1e-4)


def test_a_conversation_is_cut_where_a_reply_finds_no_room(policy):
    answers = policy.answer(ROWS[:1], copies=20, max_tokens=20, seed=4)
    place, ended = next((i, s) for i, s in enumerate(answers) if not s.truncated)
    how = {"copies": 20, "max_tokens": len(ended.completion), "seed": 4}
    for reply, cut in (("1", True), (None, False)):
        again = policy.answer(ROWS[:1], environment=lambda row, reply=reply: lambda turn: reply, **how)[place]
        assert again.completion.tolist() == ended.completion.tolist()
        assert again.truncated == cut


def test_later_turns_do_not_draw_the_first_one_s_numbers_again(policy):
    """Where every turn begins alike, turns with one seed would all be the same."""
    seeds = []
    complete = Colocated.complete
    policy.engine.complete = lambda prompts, *rest: (
        seeds.append([prompt.seed for prompt in prompts]) or complete(policy.engine, prompts, *rest)
    )
    policy.answer(ROWS[:1], copies=3, max_tokens=30, stop=("5",), seed=2, environment=lambda row: lambda turn: "1")
    assert len(seeds) > 1
    assert len({s for turn in seeds for s in turn}) == sum(map(len, seeds))


def test_a_branch_goes_on_from_its_prefix(policy):
    whole = policy.answer(ROWS[:1], max_tokens=8, greedy=True)[0]
    prefix = whole.completion[:3]
    branch = policy.answer(ROWS[:1], max_tokens=8, greedy=True, prefixes=[prefix])[0]
    assert branch.ids.tolist() == whole.ids.tolist()
    assert not branch.mask[: branch.prompt + 3].any()


def test_adapters_are_merged_on_the_way_and_stay_apart_in_the_model(policy, tmp_path):
    policy.save(tmp_path / "base")
    adapted = LanguagePolicy.make(str(tmp_path / "base"), adapter=2)
    with torch.no_grad():
        for name, p in adapted.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    before = {name: p.clone() for name, p in adapted.model.named_parameters()}
    adapted.save(tmp_path / "merged")
    merged = dict(LanguagePolicy.load(tmp_path / "merged").model.named_parameters())
    sent = dict(weights_of(adapted.model))
    assert sent.keys() == merged.keys()
    assert dict(weights_of(adapted.model, tied=True)).keys() == {*merged, "lm_head.weight"}
    for name, weight in sent.items():
        torch.testing.assert_close(weight, merged[name].detach(), atol=1e-6, rtol=1e-6)
    assert all(torch.equal(p, before[name]) for name, p in adapted.model.named_parameters())
    adapted.generate_with("vllm")
    samples = adapted.answer(ROWS, copies=3, max_tokens=8, seed=0)
    torch.testing.assert_close(told(samples), scored(adapted, samples), atol=1e-4, rtol=1e-4)


# A server.


@pytest.fixture
def served(policy, tmp_path):
    policy.save(tmp_path / "served")
    return stand_in.LLM(str(tmp_path / "served"), dtype="float32", logprobs_mode="processed_logprobs")


def test_a_server_gives_the_same_answers_as_the_engine_in_this_process(policy, served):
    near = policy.answer(ROWS, copies=5, max_tokens=8, seed=3, stop=("5",))
    with stand_in.serving(served) as address:
        policy.generate_with(f"vllm:{address}")
        far = policy.answer(ROWS, copies=5, max_tokens=8, seed=3, stop=("5",))
    assert [s.ids.tolist() for s in near] == [s.ids.tolist() for s in far]
    assert [s.truncated for s in near] == [s.truncated for s in far]
    torch.testing.assert_close(told(near), told(far))


def test_a_server_is_sent_the_weights(policy, served):
    with stand_in.serving(served) as address:
        policy.generate_with(f"vllm:{address}/")
        with torch.no_grad():
            for p in policy.model.parameters():
                p.mul_(0.5)
        samples = policy.answer(ROWS, copies=4, max_tokens=8, seed=3)
    torch.testing.assert_close(told(samples), scored(policy, samples), atol=1e-4, rtol=1e-4)


def test_a_server_that_cannot_be_learnt_with_says_what_it_lacks(policy, served):
    with pytest.raises(PalaestraError, match=r"no vLLM server at http://127\.0\.0\.1:9"):
        policy.generate_with("vllm:http://127.0.0.1:9")
    with (
        stand_in.serving(served, development=False) as address,
        pytest.raises(PalaestraError, match="VLLM_SERVER_DEV_MODE=1"),
    ):
        policy.generate_with(f"vllm:{address}")
    with (
        stand_in.serving(served, mode="raw_logprobs") as address,
        pytest.raises(BadSetting, match="--logprobs-mode processed_logprobs"),
    ):
        policy.generate_with(f"vllm:{address}")
    with stand_in.serving(served, device="cpu") as address:
        policy.generate_with(f"vllm:{address}")
        with pytest.raises(Unsupported, match="tied to the embedding"):
            policy.answer(ROWS)


def test_a_server_that_never_answers_ends_the_run_by_its_name(policy, monkeypatch):
    monkeypatch.setattr("palaestra.language.generation.vllm.MOST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        address = f"http://127.0.0.1:{hung.getsockname()[1]}"
        with pytest.raises(PalaestraError, match=rf"{address} has not answered .*server_info.* for 0\.2 s"):
            policy.generate_with(f"vllm:{address}")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "no vLLM server at {}"),
        (b"no HTTP\r\n\r\n", "no vLLM server at {}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", r"{}/server_info\S* answered something else than JSON"),
    ],
    ids=["cut", "nonsense", "another server's"],
)
def test_what_no_vllm_server_says_ends_the_run_by_its_name(policy, said, error):
    def reply(server):
        with server.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        thread = threading.Thread(target=reply, args=(server,), daemon=True)
        thread.start()
        with pytest.raises(PalaestraError, match=error.format(address)):
            policy.generate_with(f"vllm:{address}")
        thread.join()


# What is refused.


def test_without_vllm_its_name_is_told_with_the_other_way(policy, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PalaestraError, match=r"pip install vllm.*vllm:http://localhost:8000"):
        policy.generate_with("vllm")


@pytest.mark.parametrize("name", ["vlm", "vllm:", "vllm:localhost:8000", "own:1", ""])
def test_an_engine_that_is_none_is_refused(name):
    with pytest.raises(BadSetting, match="own, vllm or vllm:ADDRESS"):
        engine_named(name)


def test_what_is_no_causal_model_of_text_is_refused(policy):
    policy.sees = True
    with pytest.raises(Unsupported, match="generation at own"):
        policy.generate_with("vllm")


def test_what_the_model_has_no_positions_for_is_refused(policy):
    with pytest.raises(BadSetting, match="positions"):
        policy.answer(ROWS, max_tokens=5000)
    assert policy.answer([]) == []


# Learning from what it sampled.


def method(**settings):
    made = pal.GRPO(model="tiny-16x1", prompts=2, group=4, **settings).bind(as_task("sorting"), 0, Budget(updates=3))
    made.policy().generate_with("vllm")
    return made


def learnt(made):
    samples = made.answers(made.next_rows(2), "a round")
    rewards = torch.arange(float(len(samples)))
    return samples, made.learnable(samples, rewards, torch.tensor([s.group for s in samples]))


@pytest.fixture
def tilted(monkeypatch):
    monkeypatch.setattr(stand_in.LLM, "tilt", 1.5)


def test_old_log_probabilities_are_the_trainer_s_and_tokens_weigh_their_ratio(tilted):
    made = method(temperature=0.8)
    samples, batch = learnt(made)
    for part, s in zip(batch.parts, samples, strict=True):
        own = scored(made.policy(), [s], 0.8)
        torch.testing.assert_close(part.logp[s.mask], own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            part.weight[s.mask], (own - s.sampled_logp[s.mask]).exp().clamp(max=2.0), atol=1e-4, rtol=1e-4
        )
        assert (part.weight[~s.mask] == 1).all()
    weights = torch.cat([p.weight[p.mask] for p in batch.parts])
    assert weights.min() < 0.9 < 1.0 < weights.max() <= 2.0


def test_an_engine_that_rounds_alike_weighs_nothing_and_learns_the_same():
    """The step from vLLM's samples is the one that they would give if the own engine had sampled them."""
    made = method(lr=1e-2)
    _, batch = learnt(made)
    assert all((p.weight - 1).abs().max() < 1e-4 for p in batch.parts)
    before = copy.deepcopy(made.policy().state_dict())
    made.update(batch)
    weighed = copy.deepcopy(made.policy().state_dict())
    again = method(lr=1e-2)
    again.policy().load_state_dict(before)
    again.update(batch.replace(weight=[None] * len(batch)))
    after = again.policy().state_dict()
    for name, value in after.items():
        torch.testing.assert_close(value, weighed[name], atol=1e-4, rtol=1e-4)
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def test_a_weight_scales_a_token_s_share_of_the_gradient(tilted):
    made = method(average="token-mean", lr=1e-3)
    _, batch = learnt(made)
    weighed = batch.with_weights(lambda mask, segment: step_weights(mask, segment, "token-mean"))
    count = sum(int(p.mask.sum()) for p in batch.parts)
    for part, whole in zip(weighed.parts, batch.parts, strict=True):
        torch.testing.assert_close(part.weight, whole.weight * whole.mask / count)


def test_how_far_the_two_are_apart_is_measured(tilted):
    far = method().step()
    assert far["sampler/difference"] > 0.05
    assert 0 <= far["sampler/truncated"] < 1


def test_the_own_engine_is_measured_only_where_its_distribution_is_cut():
    plain = pal.GRPO(model="tiny-16x1", prompts=2, group=4).bind(as_task("sorting"), 0, Budget(updates=3)).step()
    assert "sampler/difference" not in plain
    cut = pal.GRPO(model="tiny-16x1", prompts=2, group=4, top_p=0.8).bind(as_task("sorting"), 0, Budget(updates=3))
    _, batch = learnt(cut)
    weights = torch.cat([p.weight[p.mask] for p in batch.parts])
    assert weights.min() >= 0.8 - 1e-4  # what is left of the distribution is at least top_p of it
    assert weights.max() <= 1 + 1e-4


def test_a_run_is_driven_and_resumed_by_vllm(tmp_path):
    made = pal.GRPO(model="tiny-16x1", prompts=2, group=4)
    run = pal.train(made, "sorting", updates=2, out=tmp_path / "run", generation="vllm", quiet=True)
    assert run.metrics[-1]["evaluation/length"] > 0
    assert max(row.get("sampler/difference", 0) for row in run.metrics) < 1e-4
    again = pal.train(made, "sorting", updates=3, out=tmp_path / "run", generation="own", resume=True, quiet=True)
    assert again.finished


def test_an_evaluation_s_answers_and_samples_are_given_by_vllm(tmp_path, monkeypatch, capsys):
    made = pal.SFT(model="tiny-16x1")
    pal.train(made, "sorting", updates=1, out=tmp_path / "run", quiet=True)
    evaluate = ["evaluate", str(tmp_path / "run"), "--episodes", "3", "--samples", "2"]
    assert main(evaluate) == 0
    own = capsys.readouterr().out
    asked = []
    complete = Colocated.complete
    monkeypatch.setattr(Colocated, "complete", lambda *given: asked.append(len(given[1])) or complete(*given))
    assert main([*evaluate, "--generation", "vllm"]) == 0
    assert asked == [3, 6]
    greedy = [text.partition("answers sampled")[0] for text in (own, capsys.readouterr().out)]
    assert greedy[0] == greedy[1]
    assert main([*evaluate, "--generation", "vlm"]) == 2
    assert "own, vllm or vllm:ADDRESS" in capsys.readouterr().err


def test_a_policy_without_text_has_no_use_for_it(tmp_path, capsys):
    with pytest.raises(Unsupported, match="gives answers in text"):
        pal.train(pal.PPO(), "CartPole-v1", steps=10, out=tmp_path / "run", generation="vllm", quiet=True)
    pal.train(pal.REINFORCE(), "CartPole-v1", steps=10, out=tmp_path / "acts", quiet=True)
    assert main(["evaluate", str(tmp_path / "acts"), "--generation", "vllm"]) == 2
    assert "vllm gives answers in text, and this policy gives none" in capsys.readouterr().err


def test_the_real_vllm_agrees_with_the_own_engine(really):
    """Heads of 32: its attention on a processor takes none of 16."""
    policy, task = made("tiny-128x2", Echo()), Echo()
    for _ in range(2):
        samples = policy.answer(
            task.rows("train"), copies=4, max_tokens=12, stop=task.stop, environment=task.environment, seed=3
        )
        assert any(not s.mask[s.prompt :].all() for s in samples)
        torch.testing.assert_close(told(samples), scored(policy, samples), atol=1e-5, rtol=1e-5)
        with torch.no_grad():
            for p in policy.model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    theirs = policy.answer(task.rows("train"), max_tokens=8, greedy=True)
    policy.generate_with("own")
    ours = policy.answer(task.rows("train"), max_tokens=8, greedy=True)
    assert [s.ids.tolist() for s in theirs] == [s.ids.tolist() for s in ours]
