"""A tiny setting of every registered method, so that one parametrised test can train them all.

Add a row here for every new method: the smallest network and the shortest rollout that still exercise all its code.
"""

from __future__ import annotations

TINY_OFF = {"network": (8, 8), "batch_size": 8, "buffer_size": 200, "warmup_steps": 20}
TINY_ON = {"network": (8, 8), "num_envs": 2, "rollout_steps": 16}

TINY_DATA = {"network": (8, 8), "batch_size": 8}

TINY_SEQUENCE = {"window": 4, "batch_size": 3, "width": 8, "layers": 1, "warmup": 20}

TINY_STEPWISE = {"batch_steps": 10, "network": (4,), "critic_network": (4,), "critic_steps": 2, "value_samples": 2}

TINY_MODEL = {"comparisons": 2, "memory": 4, "refit_every": 3, "refit_updates": 2}

TINY_ROUNDS = {"boost_every": 12, "learner_samples": 10, "max_learners": 3, "discriminator_steps": 2}

TINY_DIFFUSION = {
    "network": (16, 16),
    "window": 8,
    "batch_size": 4,
    "held_out": 0.5,
    "ema_every": 2,
    "sampling_steps": 3,
    "trajectories": 20,
    "rollout": 8,
}

TINY_TEXT = {"model": "tiny-16x1", "prompts": 2, "group": 3, "minibatches": 2, "epochs": 2}

TINY_FILLING = {"model": "mdm-16x1", "prompts": 3, "group": 3, "epochs": 2, "image_steps": 3, "masking": "random"}

TINY_SCORED = {"model": "tiny-16x1", "prompts": 3}

TINY_PAIRS = {"model": "tiny-16x1", "prompts": 3, "drawn": 3}

TINY_RL = {"model": "tiny-16x1", "prompts": 4, "minibatches": 2, "epochs": 2}

TINY_TAUGHT = {"teacher": "tiny-16x1", "replay": 0.5, "targets": "hard", "margin": 0.2, "bar": 0.5, "lookahead": 2}

TINY_DUELS = {"model": "tiny-16x1", "prompts": 4, "group": 4, "minibatches": 2}

# name: (task, settings, budget); "data:" and an environment is a dataset of it. The budget is in environment steps, or in
# updates for methods that never act, or act in text.
TINY = {
    "sac": ("Pendulum-v1", TINY_OFF, 120),
    "dsac-t": ("Pendulum-v1", {**TINY_OFF, "steps_per_round": 2}, 120),
    "dsac-v1": ("Pendulum-v1", {**TINY_OFF, "steps_per_round": 2}, 120),
    "td3": ("Pendulum-v1", TINY_OFF, 120),
    "ddpg": ("Pendulum-v1", TINY_OFF, 120),
    "dqn": ("CartPole-v1", {**TINY_OFF, "steps_per_round": 2, "target_every": 3, "dueling": True}, 120),
    "ppo": ("CartPole-v1", {**TINY_ON, "minibatch": 8, "epochs": 2}, 192),
    "mdpo": ("CartPole-v1", {**TINY_ON, "inner_steps": 2, "value_minibatch": 8, "value_epochs": 2}, 192),
    "mdpo-off": ("Pendulum-v1", {**TINY_OFF, "refresh_steps": 7, "tsallis_q": 1.5, "anneal_step_size": True}, 120),
    "trpo": ("CartPole-v1", {**TINY_ON, "cg_steps": 3, "value_minibatch": 8, "value_epochs": 2}, 192),
    "a2c": ("CartPole-v1", {**TINY_ON, "rollout_steps": 5}, 192),
    "bc": ("data:CartPole-v1", TINY_DATA, 40),
    "td3-bc": ("data:Pendulum-v1", TINY_DATA, 40),
    "prdc": ("data:Pendulum-v1", TINY_DATA, 40),
    "a2pr": ("data:Pendulum-v1", {**TINY_DATA, "critic_network": (8, 8), "vae_network": (8,), "move_guide": True}, 40),
    "iql": ("data:Pendulum-v1", TINY_DATA, 40),
    "cql": ("data:Pendulum-v1", {**TINY_DATA, "proposals": 2, "gap": 1.0}, 40),
    "dac": ("data:Pendulum-v1", {**TINY_OFF, "discriminator_network": (8,), "absorbing": True}, 120),
    "ailboost": ("data:Pendulum-v1", {**TINY_OFF, **TINY_ROUNDS, "discriminator_network": (8,)}, 120),
    "rlpd": ("data:Pendulum-v1", {**TINY_OFF, "critics_count": 3, "steps_per_round": 2, "updates_per_round": 2}, 120),
    "hnpg": ("data:palaestra/CombinationLock-v0", TINY_STEPWISE, 80),
    "reinforce": ("CartPole-v1", {**TINY_ON, "value_minibatch": 8, "value_epochs": 2}, 192),
    "bve": ("data:CartPole-v1", TINY_DATA, 40),
    "mce": ("data:CartPole-v1", {**TINY_DATA, "reward_scale": 0.1}, 40),
    "dqn-offline": ("data:CartPole-v1", {**TINY_DATA, "target_every": 3}, 40),
    "qr-dqn": ("data:CartPole-v1", {**TINY_DATA, "target_every": 3, "quantiles": 5}, 40),
    "rem": ("data:CartPole-v1", {**TINY_DATA, "target_every": 3, "heads": 5}, 40),
    "bcq": ("data:CartPole-v1", {**TINY_DATA, "target_every": 3}, 40),
    "cql-discrete": ("data:CartPole-v1", {**TINY_DATA, "target_every": 3}, 40),
    "pgd": ("data:Pendulum-v1", TINY_DIFFUSION, 20),
    "dt": ("data:Pendulum-v1", TINY_SEQUENCE, 40),
    "oppo": ("data:Pendulum-v1", {**TINY_SEQUENCE, "embedding": 2, "label_count": 20, "flip": 0.1}, 40),
    "crr": ("data:CartPole-v1", {**TINY_DATA, "target_every": 3}, 40),
    "spo": ("judged", {**TINY_ON, "rollout_steps": 30, "minibatch": 8, "epochs": 2, "queue": 3, "iterates": 3}, 240),
    "spo-sac": ("judged", {**TINY_OFF, "warmup_steps": 40, "queue": 2, "iterates": 3}, 120),
    "spo-lm": ("cyclic-style", {**TINY_TEXT, "kl_weight": 0.1}, 16),
    "reward-agent": ("judged", {**TINY_ON, **TINY_MODEL, "minibatch": 8, "epochs": 2}, 240),
    "reward-agent-sac": ("judged", {**TINY_OFF, **TINY_MODEL, "warmup_steps": 40}, 120),
    "sft": ("sorting", {"model": "tiny-16x1", "batch_size": 4}, 16),
    "grpo": ("sorting", {**TINY_TEXT, "kl_weight": 0.1, "micro_tokens": 40, "clip_high": 0.3, "dual_clip": 3.0}, 16),
    "dapo": ("sorting", {**TINY_TEXT, "overlong": "mask", "soft_overlong": 0.5}, 16),
    "dr-grpo": ("sorting", {**TINY_TEXT, "temperature": 0.8}, 16),
    "lite-ppo": ("sorting", {**TINY_TEXT, "top_p": 0.9, "top_k": 8, "min_p": 0.01}, 16),
    "rloo": ("sorting", {**TINY_TEXT, "warmup": 3, "reward_scale": "standardise", "standardise": True}, 16),
    "reinforce-pp": ("sorting", {**TINY_TEXT, "group": 1}, 16),
    "ppo-lm": ("sorting", {**TINY_TEXT, "group": 1, "kl_weight": 0.05}, 16),
    "reg-grpo": ("sorting", {**TINY_TEXT, "hints": 1.0, "noise": 1.0, "window": 3, "kl_weight": 0.1}, 16),
    "grpo-augmented": ("sorting", {**TINY_TEXT, "window": 3, "resample": 1}, 16),
    "rebel": ("sorting", {**TINY_TEXT, "length": "mean"}, 16),
    "mdm-sft": ("squares", {"model": "mdm-16x1", "batch_size": 4, "image_masking": "cosine", "micro_tokens": 60}, 16),
    "unigrpo": ("squares", {**TINY_FILLING, "kl_weight": 0.05, "minibatches": 2}, 16),
    "dpo": ("noisy-sort", TINY_PAIRS, 8),
    "ipo": ("noisy-sort", TINY_PAIRS, 8),
    "simpo": ("noisy-sort", TINY_PAIRS, 8),
    "r-dpo": ("noisy-sort", {"model": "tiny-16x1", "prompts": 3, "reference_rate": 0.5}, 8),
    "slic": ("noisy-sort", TINY_PAIRS, 8),
    "plackett-luce": ("noisy-sort", TINY_PAIRS, 8),
    "rrhf": ("noisy-sort", TINY_PAIRS, 8),
    "pro": ("noisy-sort", TINY_PAIRS, 8),
    "copg": ("noisy-sort", TINY_PAIRS, 8),
    "kto": ("noisy-sort", TINY_PAIRS, 8),
    "tdpo1": ("noisy-sort", TINY_PAIRS, 8),
    "tdpo2": ("noisy-sort", TINY_PAIRS, 8),
    "a-lol": ("noisy-sort", TINY_SCORED, 8),
    "a-lol-seq": ("noisy-sort", TINY_SCORED, 8),
    "a-lol-ref-free": ("noisy-sort", TINY_SCORED, 8),
    "a-lol-kl": ("noisy-sort", TINY_SCORED, 8),
    "wbc": ("noisy-sort", TINY_SCORED, 8),
    "gold": ("noisy-sort", {**TINY_SCORED, "rescored": True}, 8),
    "r-lol": ("noisy-sort", TINY_SCORED, 8),
    "inpo": ("noisy-sort", TINY_DUELS, 8),
    "dno": ("noisy-sort", {**TINY_DUELS, **TINY_TAUGHT}, 8),
    "sppo": ("noisy-sort", TINY_DUELS, 8),
    "iterated-dpo": ("noisy-sort", TINY_DUELS, 8),
    "reward-model": ("noisy-sort", {**TINY_PAIRS, "margin": 0.5, "lm_weight": 0.1}, 8),
    "ppo-max": ("sort-len", {**TINY_RL, "critic_rounds": 1, "advantage_clip": 0.5, "entropy_weight": 0.01}, 16),
    "ppo-max-released": ("sort-len", TINY_RL, 16),
    "rto": ("noisy-sort", {**TINY_RL, "dpo_model": "tiny-16x1", "endless": -1.0}, 16),
    "salsa": ("noisy-sort", {**TINY_RL, "other": "tiny-16x1", "reward_scale": "deviation"}, 16),
    "unlikeliness": ("bandit", {**TINY_TEXT, "answers_wanted": 4, "micro_tokens": 6}, 16),
    "trpa": (
        "bandit",
        {**TINY_TEXT, "kl_root": True, "alone": "prompt", "entropy_weight": 0.01, "micro_tokens": 6},
        16,
    ),
    "odpo": ("bandit", {**TINY_TEXT, "per_prompt": True, "length": "sum"}, 16),
}
