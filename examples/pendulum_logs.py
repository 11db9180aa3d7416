"""A log as a machine might leave it: operators of different skill swing up a pendulum, and a table keeps what they did.

    python examples/pendulum_logs.py --out logs.csv

Nothing of palaestra is used: this stands for the logger of your own system. docs/offline.md goes on from the table.
"""

from __future__ import annotations

import argparse
import csv
import math

import gymnasium as gym
import numpy as np

HEAD = ["episode", "step", "obs_cos", "obs_sin", "obs_speed", "action_0", "reward", "terminated", "truncated"]
SKILLS = (0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.3, 0.95)
"""How often each operator does the right thing, and something random otherwise."""


def right_torque(obs: np.ndarray) -> float:
    """Pump energy into the swing, then balance."""
    angle, speed = math.atan2(obs[1], obs[0]), float(obs[2])
    if abs(angle) < 0.5 and abs(speed) < 3:
        return float(np.clip(-10 * angle - 2 * speed, -2, 2))
    missing = 15 - (speed**2 / 2 + 15 * math.cos(angle))  # energy that the upright position has and this one lacks
    return float(np.clip(missing * speed, -2, 2)) if speed else 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="logs.csv")
    parser.add_argument("--episodes", type=int, default=80)
    given = parser.parse_args()
    env, rng = gym.make("Pendulum-v1"), np.random.default_rng(0)
    returns = []
    with open(given.out, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEAD)
        for episode in range(given.episodes):
            obs, _ = env.reset(seed=episode)
            skill, total, step, over = SKILLS[episode % len(SKILLS)], 0.0, 0, False
            while not over:
                torque = right_torque(obs) if rng.random() < skill else rng.uniform(-2, 2)
                next_obs, reward, terminated, truncated, _ = env.step(np.array([torque], np.float32))
                table.writerow([episode, step, *obs, torque, reward, int(terminated), int(truncated)])
                obs, total, step, over = next_obs, total + float(reward), step + 1, terminated or truncated
            # Where the last step led: a line of its own, without action and reward.
            table.writerow([episode, step, *obs, "", "", "", ""])
            returns.append(total)
    print(f"{given.out}: {given.episodes} episodes, mean return {np.mean(returns):.0f}, best {max(returns):.0f}")


if __name__ == "__main__":
    main()
