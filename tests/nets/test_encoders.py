"""Every observation space becomes one feature vector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym_spaces

from palaestra.core import spaces
from palaestra.core.errors import Unsupported
from palaestra.nets.encoders import make_encoder

from ..environments import OBSERVATIONS


def encode(space, *observations):
    return make_encoder(space)(spaces.encode_obs(space, spaces.stack_obs(space, list(observations))))


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_the_features_have_the_announced_size_and_are_floats(name):
    space = OBSERVATIONS[name]
    space.seed(0)
    for batch in (1, 3):
        features = encode(space, *[space.sample() for _ in range(batch)])
        assert features.shape == (batch, make_encoder(space).size)
        assert features.dtype == torch.float32
    assert make_encoder(space)(spaces.zeros(space, 2)).shape == (2, make_encoder(space).size)


def test_a_float_vector_passes_untouched():
    obs = torch.randn(4, 3)
    assert make_encoder(OBSERVATIONS["vector"])(obs) is obs


def test_a_matrix_is_flattened_in_order():
    space = gym_spaces.Box(-1, 1, (2, 2), np.float32)
    assert encode(space, np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)).tolist() == [
        pytest.approx([0.1, 0.2, 0.3, 0.4])
    ]


def test_discrete_values_are_one_hot_from_the_start_of_their_space():
    assert encode(gym_spaces.Discrete(3, start=5), 5, 7).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert encode(gym_spaces.MultiDiscrete([3, 2]), np.array([2, 0]), np.array([0, 1])).tolist() == [
        [0, 0, 1, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_parts_of_a_dict_are_joined_whatever_their_names():
    space = OBSERVATIONS["dict"]  # "pos.x" and "items" would be refused as names of submodules
    features = encode(space, {"pos.x": np.array([0.5, -0.5], np.float32), "items": 1})
    assert sorted(features[0].tolist()) == [-0.5, 0, 0, 0.5, 1]


def test_structures_nest():
    space = gym_spaces.Dict(
        {"a": gym_spaces.Tuple([gym_spaces.Discrete(2), gym_spaces.Dict({"b": OBSERVATIONS["vector"]})])}
    )
    space.seed(0)
    assert encode(space, space.sample()).shape == (1, 5)


@pytest.mark.parametrize("shape", [(40, 40, 3), (3, 40, 40), (4, 84, 84), (84, 84, 4), (8, 8, 1), (20, 12, 3)])
def test_images_in_either_layout_and_of_many_sizes_are_encoded(shape):
    space = gym_spaces.Box(0, 255, shape, np.uint8)
    space.seed(0)
    encoder = make_encoder(space)
    assert encoder.channels_last == (shape[-1] <= 4)
    assert encode(space, space.sample()).shape == (1, encoder.size)


def test_pixels_are_scaled_to_at_most_1():
    space = gym_spaces.Box(0, 255, (8, 8, 1), np.uint8)
    encoder = make_encoder(space)
    seen = []
    encoder.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].max().item()))
    encoder(torch.full((1, 8, 8, 1), 255, dtype=torch.uint8))
    assert seen == [1.0]


def test_an_image_too_small_for_a_convolution_is_refused():
    with pytest.raises(Unsupported, match="images of 4x4 are too small"):
        make_encoder(gym_spaces.Box(0, 255, (4, 4, 3), np.uint8))


def test_a_space_without_tensors_is_refused_by_name():
    with pytest.raises(Unsupported, match="Text spaces are not supported"):
        make_encoder(gym_spaces.Text(5))
