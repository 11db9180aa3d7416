"""What other libraries call palaestra's settings and options: for error messages, which then name the one that was meant.

These names are not accepted in place of palaestra's: one name for one thing.
"""

from __future__ import annotations

from collections.abc import Iterable

# palaestra's name: what stable-baselines3, CleanRL, d3rlpy, Tianshou and others say. Where a foreign name stands twice, it
# means what comes first here among the settings that the method has.
FOREIGN = {
    # Settings of methods.
    "max_tokens": "max_new_tokens max_completion_length max_response_length",
    "limit": "max_tokens max_new_tokens max_completion_length max_response_length",
    "value_lr": "critic_lr critic_learning_rate vf_lr",
    "lr": "learning_rate actor_lr actor_learning_rate policy_lr critic_lr critic_learning_rate q_lr vf_lr step_size",
    "alpha_lr": "temp_learning_rate temperature_lr",
    "gamma": "discount discount_factor",
    "lam": "gae_lambda lambda lambda_ gae_lam",
    "tau": "polyak soft_update_tau",
    "network": "net_arch hidden_sizes hidden_units hidden_dims hidden_dim layers",
    "activation": "activation_fn nonlinearity",
    "num_envs": "n_envs env_num training_num num_train_envs",
    "rollout_steps": "n_steps num_steps horizon rollout_length step_per_collect",
    "steps_per_round": "train_freq train_frequency step_per_collect",
    "updates_per_round": "gradient_steps update_per_step utd utd_ratio",
    "epochs": "n_epochs update_epochs num_epochs ppo_epochs repeat_per_collect",
    "inner_steps": "n_epochs update_epochs num_epochs",
    "value_epochs": "n_critic_updates",
    "minibatch": "batch_size minibatch_size",
    "value_minibatch": "batch_size minibatch_size",
    "batch_size": "minibatch_size",
    "buffer_size": "replay_size replay_buffer_size memory_size buffer_capacity",
    "warmup_steps": "learning_starts start_timesteps start_steps random_steps",
    "clip": "clip_range clip_coef clip_param clip_eps clip_ratio eps_clip",
    "value_clip": "clip_range_vf clip_vloss vf_clip",
    "entropy_weight": "ent_coef entropy_coef entropy_coefficient ent_weight",
    "alpha": "ent_coef entropy_coef autotune auto_alpha temperature",
    "alpha_init": "initial_temperature init_alpha init_temperature",
    "value_weight": "vf_coef value_coef vf_weight value_loss_coef",
    "max_grad_norm": "grad_clip gradient_clip clip_grad_norm max_gradient_norm",
    "max_kl": "target_kl kl_target delta",
    "standardise_advantage": "normalize_advantage norm_adv advantage_normalization",
    "normalise_obs": "norm_obs obs_norm observation_scaler",
    "normalise_reward": "norm_reward rew_norm reward_normalization",
    "reward_scale": "reward_scaler reward_scaling",
    "anneal": "anneal_lr lr_schedule lr_scheduler",
    "schedule": "lr_scheduler_type lr_schedule lr_scheduler",
    "warmup": "warmup_steps num_warmup_steps",
    "policy_delay": "policy_frequency update_actor_interval update_actor_freq actor_update_interval delay_update",
    "delay_update": "policy_delay policy_frequency",
    "target_every": "target_update_interval target_network_frequency target_update_freq",
    "target_noise": "target_policy_noise policy_noise target_smoothing_sigma",
    "target_noise_clip": "noise_clip target_smoothing_clip",
    "exploration_noise": "action_noise",
    "epsilon_start": "exploration_initial_eps start_e eps_start",
    "epsilon_end": "exploration_final_eps end_e eps_end eps_train_final",
    "epsilon_share": "exploration_fraction",
    "critics_count": "n_critics num_critics",
    "cg_steps": "cg_max_steps",
    "line_search_steps": "line_search_max_iter",
    "line_search_shrink": "line_search_shrinking_factor",
    # Options of runs and comparisons.
    "task": "env env_id env_name environment gym_id",
    "steps": "total_timesteps num_timesteps timesteps max_steps",
    "seeds": "num_seeds n_seeds",
    "workers": "n_jobs num_workers",
    "out": "log_dir logdir output_dir save_dir",
    "evaluate_every": "eval_freq eval_frequency eval_interval evaluation_interval",
    "evaluate_episodes": "n_eval_episodes eval_episodes",
    "checkpoint_every": "save_freq save_frequency checkpoint_freq checkpoint_frequency",
    "log_every": "log_interval log_freq log_frequency",
    "wandb": "track use_wandb",
    "tensorboard": "tensorboard_log",
    "video": "capture_video record_video render",
    "threads": "num_threads torch_threads",
}


def meant_by(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that a user of another library may mean by `name`; both may be flags such as `--method.lr`."""
    owner, theirs = _owner(name), _plain(name)  # an option of the task is not meant by one of the method
    ours = {_plain(option): option for option in known if not owner or _owner(option) == owner}
    if theirs in ours:
        return ours[theirs]
    return next((ours[own] for own, others in FOREIGN.items() if own in ours and theirs in others.split()), None)


def _owner(name: str) -> str:
    return name.lstrip("-").rpartition(".")[0]


def _plain(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("-", "_").lower()
