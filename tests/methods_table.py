"""A tiny setting of every registered method, so that one parametrised test can train them all.

Add a row here for every new method: the smallest network and the shortest rollout that still exercise all its code.
"""

from __future__ import annotations

TINY_OFF = {"network": (8, 8), "batch_size": 8, "buffer_size": 200, "warmup_steps": 20}
TINY_ON = {"network": (8, 8), "num_envs": 2, "rollout_steps": 16}

# name: (task, settings, steps)
TINY = {
    "sac": ("Pendulum-v1", TINY_OFF, 120),
    "dsac-t": ("Pendulum-v1", {**TINY_OFF, "steps_per_round": 2}, 120),
    "dsac-v1": ("Pendulum-v1", {**TINY_OFF, "steps_per_round": 2}, 120),
    "td3": ("Pendulum-v1", TINY_OFF, 120),
    "ddpg": ("Pendulum-v1", TINY_OFF, 120),
    "dqn": ("CartPole-v1", {**TINY_OFF, "steps_per_round": 2, "target_every": 3, "dueling": True}, 120),
    "ppo": ("CartPole-v1", {**TINY_ON, "minibatch": 8, "epochs": 2}, 192),
}
