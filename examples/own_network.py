"""Networks of your own: hidden sizes as numbers, or a function (inputs, outputs) -> module for anything else.

python examples/own_network.py
"""

from __future__ import annotations

import argparse

import numpy as np
from torch import nn

import palaestra as pal


def with_layer_norm(inputs: int, outputs: int) -> nn.Module:
    """Called once for the actor and once for the critic (once for each, where there are several); maps `(B, inputs)` to
    `(B, outputs)`."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.LayerNorm(64), nn.SiLU(), nn.Linear(64, outputs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8192)
    steps = parser.parse_args().steps

    sizes = pal.PPO(network=(128, 128), activation="silu")
    own = pal.PPO(network=with_layer_norm)
    for name, method in (("sizes", sizes), ("own", own)):
        run = pal.train(method, "CartPole-v1", steps=steps, out=f"runs/own-network/{name}", overwrite=True)
        print(f"{run.title}: return {run.evaluate(episodes=10).mean:.0f}")

    # A saved policy is numbers and a description, never code: bring your function along when you load it.
    folder = run.policy.save("own-policy")
    loaded = pal.load_policy(folder, network=with_layer_norm)
    obs = np.array([0.0, 0.5, 0.05, -0.5], np.float32)
    print(f"action {run.policy.predict(obs)} before saving, {loaded.predict(obs)} after loading")
