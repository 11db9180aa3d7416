"""Policy-guided diffusion: what the model learns from, its loss and schedules, and hosts that learn from its steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import palaestra as pal
from palaestra.cli.main import main
from palaestra.core.errors import BadCheckpoint, BadDataset, BadSetting, Unsupported
from palaestra.core.method import Budget
from palaestra.data.task import DatasetTask
from palaestra.objectives.diffusion import denoising_loss
from palaestra.runs.folder import load_config

from ..datasets import random_dataset, save_tiny
from ..methods_table import TINY_DIFFUSION
from ..test_every_method import fingerprint
from .tiny import bind_offline

QUIET = {"quiet": True, "tensorboard": False, "evaluate_every": 0, "evaluate_episodes": 1}
HOST = {"network": (8, 8), "batch_size": 16, "synthetic": "model", "refresh_every": 10}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The name of a small dataset, beside which a model of its trajectories has been trained."""
    monkeypatch.chdir(tmp_path)
    name = save_tiny("Pendulum-v1", "dataset")
    pal.train(pal.PGD(**TINY_DIFFUSION), name, updates=2, out="model", **QUIET)
    return name


def test_the_loss_is_of_noisy_windows():
    method = bind_offline(pal.PGD(**TINY_DIFFUSION))
    clean, sigma, noise = method._drawn(method.starts, torch.Generator().manual_seed(0))
    assert clean.shape == noise.shape == (4, 8, 6) and sigma.shape == (4,)
    loss, outputs = method.loss(clean, sigma, noise)
    expected = denoising_loss(method.denoiser(clean + sigma.view(4, 1, 1) * noise, sigma), clean, sigma)
    torch.testing.assert_close(loss, expected)
    assert outputs["loss/denoising"] is loss


def test_windows_are_of_whole_steps_in_order():
    method = bind_offline(pal.PGD(**TINY_DIFFUSION))
    clean, _, _ = method._drawn(method.starts, torch.Generator().manual_seed(0))
    steps = method.task.dataset.steps
    rows = method.model.encode(steps)
    for window in clean:
        (first,) = (rows == window[0]).all(1).nonzero().flatten().tolist()
        torch.testing.assert_close(window, rows[first : first + 8])


def test_windows_of_held_out_episodes_are_not_learnt_from():
    method = bind_offline(pal.PGD(**TINY_DIFFUSION))  # a half of three episodes, rounded down
    episode = method.task.dataset.episode
    assert len(episode[method.held_out_starts].unique()) == 1
    assert set(episode[method.starts].tolist()).isdisjoint(episode[method.held_out_starts].tolist())


def test_the_learning_rate_rises_along_a_line_and_falls_along_a_cosine():
    method = bind_offline(pal.PGD(**TINY_DIFFUSION, warmup=0.2), updates=100)
    found = {}
    for method.counters.updates in (0, 10, 20, 60, 100):
        found[method.counters.updates] = method._schedule()
    assert found == pytest.approx({0: 0.1, 10: 0.55, 20: 1.0, 60: 0.5, 100: 0.0})


def test_the_average_moves_every_so_many_updates_towards_what_is_learnt():
    method = bind_offline(pal.PGD(**TINY_DIFFUSION, ema=0.75))
    average = next(method.model.denoiser.parameters())
    before = average.clone()
    method.step()
    assert torch.equal(average, before)
    method.step()
    learnt = next(method.denoiser.parameters())
    torch.testing.assert_close(average, 0.75 * before + 0.25 * learnt.detach())


def test_the_loss_on_held_out_episodes_is_logged_now_and_then():
    method = bind_offline(pal.PGD(**{**TINY_DIFFUSION, "network": (16,)}))
    logged = [i for i in range(1, 101) if "loss/held_out" in method.step()]
    assert logged == [100]


def test_it_learns_the_data():
    method = bind_offline(pal.PGD(**{**TINY_DIFFUSION, "batch_size": 32, "lr": 3e-3, "held_out": 0.0}), updates=200)
    losses = [float(method.step()["loss/denoising"]) for _ in range(200)]
    assert np.mean(losses[-30:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 1}, "window must be at least 2"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"held_out": 1.0}, r"held_out must be in \[0, 1\)"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"ema": -0.1}, r"ema must be in \[0, 1\)"),
        ({"trajectories": 0}, "trajectories must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        pal.PGD(**settings).check()


def test_windows_longer_than_every_episode_are_refused():
    with pytest.raises(BadDataset, match="no window of 201 steps: its longest episode has 200"):
        bind_offline(pal.PGD(**{**TINY_DIFFUSION, "window": 201}))


def test_discrete_actions_are_refused():
    with pytest.raises(Unsupported, match="pgd needs box actions"):
        bind_offline(pal.PGD(**TINY_DIFFUSION), "CartPole-v1")


# Hosts.


def bound(method, name: str):
    return method.bind(DatasetTask(name), 0, Budget(updates=100))


def test_a_batch_is_synthetic_by_its_share_and_for_the_rest_recorded(data):
    method = bound(pal.TD3BC(**HOST, synthetic_share=0.75), data)
    batch, metrics = method.draw_batch()
    recorded = method.data.dataset.steps.obs
    found = [bool((recorded == obs).all(1).any()) for obs in batch.obs]
    assert found == [False] * 12 + [True] * 4
    assert float(metrics["synthetic/age"]) == 0
    assert method.counters.model_steps == 20 * 8


def test_the_usual_share_is_240_of_256():
    assert round(pal.TD3BC().synthetic_share * pal.TD3BC().batch_size) == 240


@pytest.mark.parametrize("cls", [pal.TD3BC, pal.PRDC, pal.IQL, pal.CQL, pal.BC, pal.A2PR])
def test_every_host_in_a_box_learns_from_synthetic_steps(cls, data):
    method = bound(cls(**HOST), data)
    for _ in range(12):
        metrics = method.step()
        assert all(bool(value.isfinite()) for value in metrics.values())


def test_the_first_steps_are_unguided_and_later_ones_guided_to_the_present_actor(data, monkeypatch):
    method = bound(pal.TD3BC(**HOST), data)
    given = []
    refresh = method.made_up.refresh
    monkeypatch.setattr(method.made_up, "refresh", lambda policy: (given.append(policy), refresh(policy))[1])
    ages = [float(method.step()["synthetic/age"]) for _ in range(21)]
    assert given == [None, method.actor, method.actor]
    assert ages == [*range(10), *range(10), 0]


def test_what_a_refresh_logs(data):
    method = bound(pal.TD3BC(**HOST), data)
    first = method.step()
    always = {"synthetic/done", "synthetic/mean", "synthetic/deviation", "dynamics/real", "dynamics/synthetic"}
    assert always < first.keys() and "logp/real" not in first
    for _ in range(10):
        later = method.step()
    assert always | {"logp/synthetic", "logp/unguided", "logp/real"} < later.keys()
    made = method.made_up
    real, rows = (made.model.encode(steps)[:, :5] for steps in (method.data.dataset.steps, made.steps))
    worst = ((rows.mean(0) - real.mean(0)) / real.std(0)).abs().max()
    assert float(later["synthetic/mean"]) == pytest.approx(float(worst), rel=0.01)
    assert 0 < float(later["synthetic/deviation"]) < 100
    with torch.no_grad():
        distance = (made.steps.action - method.target_actor(made.steps.obs)).square().sum(1)
    assert float(later["logp/synthetic"]) == pytest.approx(
        -0.5 * math.log(2 * math.pi) - float(distance.mean()) / 2, abs=0.05
    )


def test_observations_are_standardised_by_recorded_ones_alone(data):
    method = bound(pal.TD3BC(**HOST), data)
    for _ in range(11):
        method.step()
    torch.testing.assert_close(method.actor.encoder.mean, method.data.dataset.steps.obs.mean(0))


def test_rewards_of_synthetic_steps_are_scaled_alike(data):
    method = bound(pal.TD3BC(**HOST, reward_scale=2.0, reward_shift=1.0), data)
    batch, _ = method.draw_batch()
    torch.testing.assert_close(method.scaled(batch).reward, 2 * batch.reward + 1)


@pytest.mark.parametrize("cls", [pal.TD3BC, pal.IQL])
def test_cut_off_and_resumed_it_ends_byte_equal(cls, data):
    def run(folder):
        engine = pal.Engine(**QUIET, checkpoint_every=5)
        return pal.Run(cls(**HOST), data, updates=26, folder=folder, engine=engine)

    whole = run("whole").train()
    step, made = cls.step, []

    def mortal(self):
        if len(made) == 17:
            raise RuntimeError("the power is cut")
        made.append(None)
        return step(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(cls, "step", mortal)
        run("cut").train()
    resumed = pal.load_run("cut").train(resume=True)
    assert fingerprint(resumed.folder) == fingerprint(whole.folder)


def test_a_run_is_not_resumed_with_another_model(data):
    method = bound(pal.TD3BC(**HOST), data)
    method.step()
    state = method.state_dict()
    pal.train(pal.PGD(**TINY_DIFFUSION), data, updates=3, out="model", overwrite=True, **QUIET)
    with pytest.raises(BadCheckpoint, match="the model that synthetic steps are from has changed"):
        bound(pal.TD3BC(**HOST), data).load_state_dict(state)


def test_the_command_line_names_the_model_and_the_strength(data, capsys):
    small = [
        "--method.network",
        "8",
        "--method.batch-size",
        "16",
        "--updates",
        "2",
        "--no-tensorboard",
        "--evaluate-every",
        "0",
    ]
    command = ["train", "td3-bc", "--dataset", data, "--synthetic", "model", "--guidance", "0.5", *small]
    assert main([*command, "--out", "run"]) == 0
    settings = load_config("run/config.yaml")["settings"]
    assert (settings["synthetic"], settings["guidance"]) == ("model", 0.5)
    assert main([*command, "--out", "other", "--synthetic", "nowhere"]) == 2
    assert "there is none in nowhere" in capsys.readouterr().err


def test_a_comparison_trains_every_method_with_every_sampler_and_source_of_synthetic_steps(data, monkeypatch):
    class Planned(BaseException):
        pass

    def plan(methods, *given, **options):
        found.extend(methods)
        raise Planned

    found: list[pal.Method] = []
    monkeypatch.setattr("palaestra.runs.compare.compare", plan)
    command = f"compare bc td3-bc --dataset {data} --updates 2 --sampler uniform rw --td3-bc.guidance 3"
    with pytest.raises(Planned):
        main([*command.split(), "--synthetic", "none", "model", "--guidance", "0", "0.5"])
    said = [(m.name, m.sampler, m.synthetic, m.guidance) for m in found]
    assert said == [
        *(
            ("bc", sampler, *rest)
            for sampler in ("uniform", "rw")
            for rest in ((None, 1.0), ("model", 0.0), ("model", 0.5))
        ),
        *(("td3-bc", sampler, *rest) for sampler in ("uniform", "rw") for rest in ((None, 1.0), ("model", 3.0))),
    ]


def test_a_folder_without_a_model_is_refused(data):
    with pytest.raises(BadSetting, match="there is none in nowhere; train one: palaestra train pgd"):
        bound(pal.TD3BC(**{**HOST, "synthetic": "nowhere"}), data)
    pal.train(pal.BC(network=(8,)), data, updates=2, out="clone", **QUIET)
    with pytest.raises(BadSetting, match="clone is of a method that generates no steps"):
        bound(pal.TD3BC(**{**HOST, "synthetic": "clone"}), data)


def test_a_model_of_other_spaces_is_refused(data):
    with pytest.raises(Unsupported, match="the model in model has the observation space"):
        pal.BC(network=(8,), synthetic="model").bind(
            DatasetTask(random_dataset("CartPole-v1", 450)), 0, Budget(updates=1)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": -1.0}, "guidance must not be negative"),
        ({"synthetic_share": 0.0}, r"synthetic_share must be in \(0, 1\]"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
    ],
)
def test_settings_of_the_mixture_out_of_range_are_refused(settings, message):
    with pytest.raises(BadSetting, match=message):
        pal.TD3BC(**settings).check()
