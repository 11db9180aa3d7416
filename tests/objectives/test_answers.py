"""What losses declare of themselves holds of all of them."""

from __future__ import annotations

import math

import pytest
import torch

from palaestra.core.errors import BadSetting, UnknownName
from palaestra.objectives.answers import Answers, Tokens, loss_named, losses

ALL = sorted(losses())
N = 4


def answers(longer: int = 1, **fields) -> Answers:
    """Four answers to two prompts, `longer` times as long."""
    logp = longer * torch.tensor([-1.0, -2.5, -0.7, -3.0], dtype=torch.float64)
    given = {
        "logp": logp,
        "ref_logp": longer * torch.tensor([-1.2, -2.0, -1.0, -2.0], dtype=torch.float64),
        "prev_logp": longer * torch.tensor([-1.1, -2.2, -0.9, -2.5], dtype=torch.float64),
        "length": longer * torch.tensor([2, 3, 1, 4]),
        "score": torch.tensor([0.9, 0.2, 0.6, 0.5], dtype=torch.float64),
        "advantage": torch.tensor([0.4, -0.3, 0.1, 0.0], dtype=torch.float64),
        "kl": longer * torch.tensor([0.3, 0.1, 0.0, 0.2], dtype=torch.float64),
        "desirable": torch.tensor([True, False, True, False]),
        "group": torch.tensor([5, 5, 2, 2]),
        "tokens": Tokens(
            logp.repeat_interleave(2) / 2, torch.arange(N).repeat_interleave(2), logp.repeat_interleave(2) / 3
        ),
        **fields,
    }
    return Answers(**given)


def called(loss, given: Answers) -> torch.Tensor:
    if loss.unit == "pair":
        return loss(given.at(torch.tensor([0, 2])), given.at(torch.tensor([1, 3])))
    return loss(given)


@pytest.mark.parametrize("name", ALL)
def test_a_loss_is_one_finite_number_per_unit(name):
    found = called(losses()[name], answers())
    assert found.shape == ((N,) if losses()[name].unit == "answer" else (2,))
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", ALL)
def test_a_loss_refuses_to_go_without_what_it_needs_and_needs_nothing_else(name):
    loss = losses()[name]
    only = {need: getattr(answers(), need) for need in loss.needs}
    if loss.unit == "pair":
        first, second = (Answers(**only).at(torch.tensor(index)) for index in ([0, 2], [1, 3]))
        loss(first, second)
    else:
        loss(Answers(**only))
    for need in loss.needs:
        with pytest.raises(BadSetting, match=f"{name}' needs {need}"):
            loss(*([answers().replace(**{need: None})] * (1 + (loss.unit == "pair"))))


@pytest.mark.parametrize("name", ALL)
def test_a_loss_refuses_numbers_that_are_none(name):
    loss = losses()[name]
    for need in set(loss.needs) - {"desirable", "group", "tokens", "length"}:
        spoilt = getattr(answers(), need).clone()
        spoilt[1] = math.nan
        with pytest.raises(BadSetting, match=need):
            called(loss, answers(**{need: spoilt}))


@pytest.mark.parametrize("name", ALL)
def test_whether_tokens_are_added_or_averaged_is_as_declared(name):
    loss = losses()[name]
    if name == "bt-rm":  # which has no log-probabilities
        return
    once, twice = (called(loss, answers(longer)) for longer in (1, 2))
    assert torch.allclose(once, twice) == (loss.reduction == "mean")


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_finite_where_the_policy_is_the_reference(name):
    loss = losses()[name]
    field = "score" if name == "bt-rm" else "tokens" if "tokens" in loss.needs else "logp"
    value = answers().ref_logp.clone().requires_grad_()
    given = answers(**{field: Tokens(value, torch.arange(N), value.detach()) if field == "tokens" else value})
    (slope,) = torch.autograd.grad(called(loss, given).sum(), value)
    assert bool(slope.isfinite().all())


@pytest.mark.parametrize("name", ALL)
def test_every_loss_says_what_it_is_in_one_line_of_a_table(name):
    loss = losses()[name]
    assert loss.equation and "\n" not in loss.equation
    assert loss.source


def test_an_empty_answer_has_no_mean():
    with pytest.raises(BadSetting, match="empty"):
        called(loss_named("simpo"), answers(length=torch.tensor([2, 0, 1, 1])))


def test_an_unknown_loss_is_refused_and_the_nearest_named():
    with pytest.raises(UnknownName, match="inpo"):
        loss_named("inpoo")


def test_answers_are_selected_as_often_as_asked():
    found = answers().at(torch.tensor([3, 3, 0]))
    assert found.length.tolist() == [4, 4, 2] and found.group.tolist() == [2, 2, 5] and found.tokens is None
