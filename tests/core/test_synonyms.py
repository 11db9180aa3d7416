"""The names of other libraries: not accepted, and answered with palaestra's."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import palaestra as pal
from palaestra.cli.main import main
from palaestra.core import registry
from palaestra.core.errors import UnknownName, unknown
from palaestra.core.method import Method, make_method
from palaestra.core.synonyms import FOREIGN, meant_by
from palaestra.language.tasks.prompts import PromptTask

METHODS = {name: registry.method_class(name) for name in registry.METHODS}


def settings(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.init}


@pytest.mark.parametrize(
    ("method", "theirs", "ours"),
    [
        # stable-baselines3
        ("sac", "learning_rate", "lr"),
        ("sac", "learning_starts", "warmup_steps"),
        ("sac", "train_freq", "steps_per_round"),
        ("sac", "gradient_steps", "updates_per_round"),
        ("sac", "ent_coef", "alpha"),
        ("sac", "net_arch", "network"),
        ("ppo", "n_steps", "rollout_steps"),
        ("ppo", "n_epochs", "epochs"),
        ("ppo", "batch_size", "minibatch"),
        ("ppo", "gae_lambda", "lam"),
        ("ppo", "clip_range", "clip"),
        ("ppo", "ent_coef", "entropy_weight"),
        ("ppo", "vf_coef", "value_weight"),
        ("ppo", "n_envs", "num_envs"),
        ("dqn", "exploration_fraction", "epsilon_share"),
        ("dqn", "target_update_interval", "target_every"),
        ("trpo", "target_kl", "max_kl"),
        # CleanRL
        ("ppo", "num_steps", "rollout_steps"),
        ("ppo", "update_epochs", "epochs"),
        ("ppo", "clip_coef", "clip"),
        ("td3", "policy_frequency", "policy_delay"),
        ("dsac-t", "policy_frequency", "delay_update"),
        # d3rlpy
        ("sac", "actor_learning_rate", "lr"),
        ("sac", "initial_temperature", "alpha_init"),
        ("td3", "target_smoothing_sigma", "target_noise"),
        # Tianshou
        ("ppo", "eps_clip", "clip"),
        ("ppo", "repeat_per_collect", "epochs"),
        ("ppo", "hidden_sizes", "network"),
        ("ppo", "discount_factor", "gamma"),
        ("reinforce", "critic_lr", "value_lr"),
    ],
)
def test_a_setting_of_another_library_is_answered_with_ours(method, theirs, ours):
    for ask in (lambda: METHODS[method](**{theirs: 1}), lambda: make_method(method, {theirs: 1})):
        with pytest.raises(UnknownName) as wrong:
            ask()
        assert f"unknown setting of {method}: '{theirs}'; did you mean '{ours}'?" in str(wrong.value)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "train sac --method.learning-rate 1e-3",
            "unknown option '--method.learning-rate'; did you mean '--method.lr'?",
        ),
        ("train sac --learning_rate 1e-3", "unknown option '--learning-rate'; did you mean '--method.lr'?"),
        ("train ppo --env-id CartPole-v1", "unknown option '--env-id'; did you mean '--task'?"),
        ("train ppo --total-timesteps 5", "unknown option '--total-timesteps'; did you mean '--steps'?"),
        ("train ppo --track", "unknown option '--track'; did you mean '--wandb'?"),
        ("compare ppo sac --ppo.n-epochs 3", "unknown option '--ppo.n-epochs'; did you mean '--ppo.epochs'?"),
    ],
)
def test_so_is_a_flag(command, says, capsys):
    assert main(command.split()) == 2
    assert says in capsys.readouterr().err


def test_so_is_an_option_in_python():
    with pytest.raises(UnknownName, match=r"unknown option 'eval_freq'; did you mean 'evaluate_every'\?"):
        pal.train("ppo", "CartPole-v1", steps=10, eval_freq=5)


def test_a_name_that_nobody_uses_is_answered_with_the_nearest_in_spelling():
    assert meant_by("gama", ["gamma", "lr"]) is None
    assert "did you mean 'gamma'?" in str(unknown("setting", "gama", ["gamma", "lr"]))


def test_nothing_is_suggested_that_the_method_does_not_have():
    assert meant_by("clip_range", settings(pal.SAC)) is None


def test_the_table_names_settings_and_options_that_there_are():
    there_are = set().union(*map(settings, METHODS.values()), settings(pal.Engine))
    there_are |= {*inspect.signature(pal.train).parameters, *inspect.signature(pal.compare).parameters}
    there_are |= {field.name for field in dataclasses.fields(PromptTask)}
    assert set(FOREIGN) <= there_are


def test_an_option_of_the_task_is_not_meant_by_one_of_the_method():
    known = ["--method.max-tokens", "--method.lr", "--task.limit"]
    assert meant_by("--task.max-tokens", known) == "--task.limit"
    assert meant_by("--max-tokens", known) == meant_by("--method.max-new-tokens", known) == "--method.max-tokens"


def test_a_method_with_a_constructor_of_its_own_takes_what_that_takes():
    class Preset(pal.PPO):
        def __init__(self, size: int, **more):
            super().__init__(network=(size,), **more)

    assert Preset(size=5, lr=1.0).config["network"] == (5,)
    with pytest.raises(TypeError):
        Preset(size=5, learning_rate=1.0)


def test_the_signature_of_a_method_still_lists_its_settings():
    for cls in METHODS.values():
        assert list(inspect.signature(cls).parameters) == [f.name for f in dataclasses.fields(cls) if f.init]
        assert issubclass(cls, Method)
