"""From a trained policy to one that acts elsewhere: save, load, predict, and ONNX for machines without torch.

python examples/deploy_policy.py
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np

import palaestra as pal

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    steps = parser.parse_args().steps

    run = pal.train("ppo", "CartPole-v1", steps=steps, out="runs/deploy", overwrite=True)
    run.policy.save("cartpole")  # policy.json and policy.safetensors; normalisers are part of the policy

    policy = pal.load_policy("cartpole")  # pal.load_policy(run.folder) gives the same
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy.predict(obs))
        total, over = total + float(reward), terminated or truncated
    print(f"one episode with the loaded policy: return {total:.0f}")

    try:
        import onnxruntime
    except ImportError:
        print("for ONNX: pip install 'palaestra[onnx]'")
    else:
        session = onnxruntime.InferenceSession(policy.export_onnx("cartpole.onnx"))
        batch = np.stack([obs, -obs]).astype(np.float32)
        (actions,) = session.run(None, {session.get_inputs()[0].name: batch})
        print(f"ONNX {actions.tolist()}, torch {policy.predict(batch).tolist()}")
