"""Clips: a moving picture, or a sentence that says why there is none."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

import palaestra as pal
from palaestra.core.errors import PalaestraError
from palaestra.report import clip
from palaestra.runs.record import load_records

from .made_runs import write_run

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def test_a_trained_policy_is_filmed_in_a_small_animated_picture():
    pytest.importorskip("pygame", reason="pygame, which draws CartPole, is not installed")
    settings = {"network": (8, 8), "num_envs": 2, "rollout_steps": 16, "epochs": 1}
    pal.train(
        pal.PPO(**settings), "CartPole-v1", steps=32, out="run", quiet=True, tensorboard=False, evaluate_episodes=1
    )
    film = clip.clip(load_records("run")[0])
    with Image.open(io.BytesIO(film)) as picture:
        assert picture.format == "WEBP" and picture.n_frames > 1 and picture.width == clip.WIDTH
    assert len(film) <= clip.LARGEST


def test_a_run_without_a_policy_gives_a_sentence():
    write_run("run", [1.0])
    with pytest.raises(PalaestraError, match=r"policy\.json is missing"):
        clip.render(load_records("run")[0])


def test_the_code_of_a_users_environment_is_not_run_for_a_report():
    write_run("run", [1.0], task="evil.py:make")
    Path("evil.py").write_text("open('pwned', 'w')\ndef make(): ...\n")
    with pytest.raises(PalaestraError, match="--video"):
        clip.render(load_records("run")[0])
    assert not Path("pwned").exists()


def test_the_last_film_of_such_a_run_is_shown_instead():
    folder = write_run("run", [1.0], task="mine.py:make")
    (folder / "videos").mkdir()
    frames = [Image.new("RGB", (64, 32), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(folder / "videos" / "000000001000.gif", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(clip.render(load_records("run")[0]))) as picture:
        assert picture.n_frames == 3 and picture.size == (clip.WIDTH, clip.WIDTH // 2)


def test_a_renderer_that_kills_its_process_is_a_sentence_too(monkeypatch):
    write_run("run", [1.0])
    monkeypatch.setattr(clip.sys, "executable", shutil.which("false"))
    with pytest.raises(PalaestraError, match="ended with status 1"):
        clip.clip(load_records("run")[0])


def test_a_clip_that_is_hard_to_compress_is_made_coarser_until_it_fits():
    noise = np.random.default_rng(0).integers(0, 255, (40, 120, 160, 3), dtype=np.uint8)
    film = clip._encode([Image.fromarray(frame) for frame in noise], 50)
    assert len(film) <= clip.LARGEST
