"""What generating costs: the formula by hand, and its laws."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from palaestra.core.task import as_task
from palaestra.language.compute import Shape
from palaestra.language.models import load_model

SHAPE = Shape(parameters=1000, layers=3, width=10)


def test_one_token_costs_its_products_and_a_look_at_the_prompt():
    assert SHAPE.generation_flops(7, 1) == 2 * 1000 + 4 * 3 * 10 * 7


def test_three_tokens_look_back_at_more_and_more():
    assert SHAPE.generation_flops(7, 3) == 3 * 2000 + 120 * (7 + 8 + 9)


def test_no_tokens_cost_nothing():
    assert SHAPE.generation_flops(7, 0) == 0


@given(st.integers(0, 100), st.integers(1, 500))
def test_an_answer_twice_as_long_costs_more_than_two_answers(prompt, tokens):
    assert SHAPE.generation_flops(prompt, 2 * tokens) > 2 * SHAPE.generation_flops(prompt, tokens)


@pytest.mark.parametrize(("width", "layers"), [(16, 1), (32, 2)])
def test_the_parameters_of_a_tiny_model_without_its_embeddings(width, layers):
    model, _ = load_model(f"tiny-{width}x{layers}", as_task("sorting"))
    shape = Shape.of(model)
    assert (shape.layers, shape.width) == (layers, width)
    products = layers * 16 * width**2  # four of attention and three, four times as wide, of the perceptron
    assert 0 <= shape.parameters - products < 0.05 * products + 5 * width * (layers + 1)
