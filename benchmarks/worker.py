"""One timed training run of one library, in a process of its own; prints environment steps per second.

    python benchmarks/worker.py palaestra sac HalfCheetah-v5 --threads 2 --steps 3000

`--threads 0` leaves the number to each library. The clock runs from the end of the warm-up (SAC) or of the first iteration
(PPO) to the last step, so that imports, compilation and buffer allocation are left out for every library alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time

WARMUP = 300  # random steps before SAC learns
SETTLE = 600  # steps before the clock starts: past the warm-up and, for JAX, past compilation
PPO = {"num_envs": 8, "steps": 256, "minibatch": 64, "epochs": 10}

Ticks = list[tuple[int, float]]


def palaestra_run(method: str, task: str, threads: int, steps: int, compiled: bool) -> Ticks:
    """The whole engine, with its logging and guards; no evaluation while the clock runs."""
    import palaestra as pal

    if method == "sac":
        base, settings = pal.SAC, {"warmup_steps": WARMUP, "network": (256, 256), "batch_size": 256}
    else:
        base, settings = pal.PPO, {"num_envs": PPO["num_envs"], "rollout_steps": PPO["steps"]}
        settings |= {"minibatch": PPO["minibatch"], "epochs": PPO["epochs"]}
    ticks: Ticks = []

    class Timed(base):  # type: ignore[misc,valid-type]
        def step(self):
            metrics = super().step()
            ticks.append((self.counters.steps, time.perf_counter()))
            return metrics

    with tempfile.TemporaryDirectory() as folder:
        engine = {
            "evaluate_every": 0,
            "evaluate_episodes": 1,
            "checkpoint_every": 0,
            "tensorboard": False,
            "compile": compiled,
        }
        pal.train(
            Timed(**settings), task, steps=steps, out=folder + "/run", threads=threads or None, quiet=True, **engine
        )
    return ticks


def stable_baselines_run(library: str, method: str, task: str, threads: int, steps: int) -> Ticks:
    """stable-baselines3 ('sb3') or its JAX sibling ('sbx'), with the same settings."""
    import gymnasium
    import torch

    if threads:
        torch.set_num_threads(threads)
    if library == "sb3":
        from stable_baselines3 import PPO as PPOClass
        from stable_baselines3 import SAC as SACClass
    else:
        from sbx import PPO as PPOClass
        from sbx import SAC as SACClass
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    ticks: Ticks = []

    class Clock(BaseCallback):
        def _on_step(self) -> bool:
            ticks.append((self.num_timesteps, time.perf_counter()))
            return True

    if method == "sac":
        model = SACClass(
            "MlpPolicy",
            task,
            seed=0,
            policy_kwargs={"net_arch": [256, 256]},
            batch_size=256,
            learning_starts=WARMUP,
            train_freq=1,
            gradient_steps=1,
        )
    else:
        envs = DummyVecEnv([lambda: gymnasium.make(task)] * PPO["num_envs"])
        model = PPOClass(
            "MlpPolicy", envs, seed=0, n_steps=PPO["steps"], batch_size=PPO["minibatch"], n_epochs=PPO["epochs"]
        )
    model.learn(steps, callback=Clock())
    if method == "ppo":  # the clock is read at the first step of every iteration, after the update before it
        iteration = PPO["num_envs"] * PPO["steps"]
        ticks = [tick for tick in ticks if tick[0] % iteration == PPO["num_envs"]]
    return ticks


def speed(ticks: Ticks, method: str) -> float:
    """Environment steps per second over the part of the run that counts."""
    skip = SETTLE if method == "sac" else PPO["num_envs"] * PPO["steps"]
    counted = [tick for tick in ticks if tick[0] > skip]
    (first, began), (last, ended) = counted[0], counted[-1]
    return (last - first) / (ended - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["palaestra", "palaestra-plain", "sb3", "sbx"])
    parser.add_argument("method", choices=["sac", "ppo"])
    parser.add_argument("task")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    if args.library.startswith("palaestra"):
        compiled = args.library == "palaestra"  # as every long run is; -plain leaves losses to autograd
        ticks = palaestra_run(args.method, args.task, args.threads, args.steps, compiled)
    else:
        ticks = stable_baselines_run(args.library, args.method, args.task, args.threads, args.steps)
    print(f"steps_per_second {speed(ticks, args.method):.2f}")


if __name__ == "__main__":
    main()
