"""The list of tasks says of each environment what the environment itself says."""

from __future__ import annotations

import gymnasium
import pytest

from palaestra.core.errors import PalaestraError
from palaestra.envs.catalogue import KNOWN, catalogue, text_of


@pytest.mark.parametrize("name", [name for members in KNOWN.values() for name in members])
def test_the_spaces_in_the_list_are_those_of_the_environment(name):
    try:
        seen = catalogue([name])[0]
    except PalaestraError as error:
        pytest.skip(str(error))  # its simulator is not installed
    listed = next(item for item in catalogue() if item.name == name)
    assert (listed.observations, listed.actions, listed.action_kind) == seen[2:]


def test_an_environment_that_a_package_registered_is_listed_under_its_namespace():
    gymnasium.register("somewhere/Else-v3", "gymnasium.envs.classic_control.pendulum:PendulumEnv")
    try:
        assert ("somewhere/Else-v3", "somewhere") in {item[:2] for item in catalogue()}
    finally:
        del gymnasium.registry["somewhere/Else-v3"]


def test_nested_spaces_are_written_with_their_names():
    space = gymnasium.spaces.Dict(
        {"camera": gymnasium.spaces.Box(0, 255, (8, 8, 3), "uint8"), "gear": gymnasium.spaces.Discrete(3)}
    )
    assert text_of(space) == "Dict(camera: Box 8x8x3 uint8, gear: Discrete 3)"
