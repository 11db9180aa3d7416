"""Which tokens the clip range stops: counted by hand, over passes, and through a resume."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import pytest
import torch

import palaestra as pal
from palaestra.core.errors import BadCheckpoint
from palaestra.core.method import Budget
from palaestra.core.task import as_task
from palaestra.language.judges.judge import Judge
from palaestra.language.tasks.sorting import Sorting
from palaestra.methods.language.grpo import GRPO
from palaestra.methods.language.unigrpo import UniGRPO
from palaestra.methods.preference.ppo_max import PPOMax
from palaestra.report.page import write_report
from palaestra.runs.log import TALLIES, read_tallies, write_tallies
from palaestra.runs.record import load_records

from ..report.made_runs import write_run
from ..report.test_page import HOSTILE

TINY = {"prompts": 3, "group": 4}
METHODS = {
    "grpo": GRPO(model="tiny-16x1", **TINY),
    "grpo in many passes": GRPO(model="tiny-16x1", micro_tokens=1, **TINY),
    "ppo-max": PPOMax(model="tiny-16x1", minibatches=1, critic_rounds=0, **TINY),
    "unigrpo": UniGRPO(model="mdm-16x1", **TINY),
}


@pytest.fixture(params=METHODS)
def round_of(request):
    """A method, and a minibatch of its own answers, all with advantage 1."""
    method = METHODS[request.param].bind(as_task("sorting"), 0, Budget(updates=100))
    samples, _ = method.sample()
    whole = method.learnable(samples, torch.rand(len(samples)), torch.tensor([s.group for s in samples]))
    batch = next(method.minibatches_of(whole, 0))
    return method, batch.replace(advantage=[torch.ones(len(part)) for part in batch.parts])


def sampled_apart(batch, ratios):
    """The minibatch as if what sampled it had found some tokens less likely, by these ratios."""
    apart = torch.zeros(100)
    for token, ratio in ratios.items():
        apart[token] = log(ratio)
    return batch.replace(logp=[part.logp - apart[part.action] for part in batch.parts])


def frequencies(batch):
    """How often the learnt tokens of a minibatch come up, by their ids, the most frequent first."""
    ids, counts = torch.unique(torch.cat([part.action[part.mask.bool()] for part in batch.parts]), return_counts=True)
    return dict(sorted(zip(ids.tolist(), counts.tolist()), key=lambda pair: -pair[1]))


def test_tokens_whose_ratio_leaves_the_range_are_counted_by_the_side_on_which_they_leave_it(round_of):
    method, batch = round_of
    (often, n), (other, m), (rare, _) = list(frequencies(batch).items())[:3]
    name = method.language_policy.tokeniser.convert_ids_to_tokens
    before = [p.clone() for p in method.optimiser.params]
    metrics = method.update(sampled_apart(batch, {often: 2.0, other: 1.5, rare: 1.1}))
    assert method.tallies() == {"tokens clipped up": [(name(often), n), (name(other), m)]}
    assert float(metrics["policy/clipped_up"]) == pytest.approx((n + m) / sum(frequencies(batch).values()))
    assert all(value.dim() == 0 for value in metrics.values())
    for p, old in zip(method.optimiser.params, before, strict=True):
        p.data.copy_(old)
    worse = batch.replace(advantage=[-torch.ones(len(part)) for part in batch.parts])
    method.update(sampled_apart(worse, {often: 0.5, other: 2.0}))  # upwards, a worse answer is not held
    assert method.tallies()["tokens clipped down"] == [(name(often), n)]
    assert method.tallies()["tokens clipped up"] == [(name(often), n), (name(other), m)]


def test_where_nothing_is_clipped_nothing_is_named(round_of):
    method, batch = round_of
    method.update(batch)
    assert method.tallies() == {}


@dataclass
class Varied(Sorting):
    """A task of which an untrained model's answers are not all alike."""

    def judge(self):
        return Judge(lambda completions, **_: [float(len(set(text))) for text in completions])


def trained(folder, updates, **settings):
    made = GRPO(model="tiny-16x1", prompts=2, group=4, lr=1e-2, **settings)
    return pal.train(made, Varied(), updates=updates, out=folder, resume=True, quiet=True, tensorboard=False)


def test_a_resumed_run_has_counted_what_a_whole_one_has_and_its_report_tells_it(tmp_path):
    for updates in (6, 12):
        trained(tmp_path / "cut", updates, epochs=3, clip=0.02)
    trained(tmp_path / "whole", 12, epochs=3, clip=0.02)
    whole, cut = ((tmp_path / name / TALLIES).read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    ((most, count), *_) = read_tallies(tmp_path / "whole")["tokens clipped up"]
    assert count > 0
    page = write_report(load_records(tmp_path / "cut"), tmp_path / "page.html", title="t", command="c")
    assert f"{most}</bdi>” {count}" in page.read_text()


def test_a_run_that_clips_nothing_keeps_no_counts(tmp_path):
    trained(tmp_path / "run", 2)
    assert not (tmp_path / "run" / TALLIES).exists()
    assert read_tallies(tmp_path / "run") == {}


def test_whatever_a_token_says_stays_text(tmp_path):
    folder = write_run(tmp_path / "run", [0.1, 0.2], method="grpo", task="sorting", kind="prompts")
    write_tallies(folder, {text: [(text, 3)] for text in HOSTILE})
    page = write_report(load_records(folder), tmp_path / "page.html", title="t", command="c").read_text()
    assert "&lt;svg onload" in page
    for markup in ("<script>window", "<img", "<svg", "\x1b", "\u202e", "\x00"):
        assert markup not in page


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', '{"a": [["b", "c"]]}', '{"a": [["b", 1e999]]}'])
def test_a_file_of_counts_that_holds_none_is_refused_by_name(content, tmp_path):
    (tmp_path / TALLIES).write_text(content)
    with pytest.raises(BadCheckpoint, match=TALLIES):
        read_tallies(tmp_path)
