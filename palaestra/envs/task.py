"""Environments as tasks: any Gymnasium id, a factory, or a factory of vector environments."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from palaestra.core import registry
from palaestra.core.errors import BadEnvironment, BadSetting, PalaestraError, require, unknown
from palaestra.core.policy import Policy
from palaestra.core.seeding import Streams
from palaestra.core.task import Evaluation
from palaestra.envs import own
from palaestra.envs.vector import BROKEN, EnvList, EnvVector, failure

if TYPE_CHECKING:
    from gymnasium import Env

EVALUATION_ENVS = 10
"""How many evaluation episodes are played side by side."""


@dataclass
class EnvTask:
    """A reinforcement-learning environment. `spec` is a Gymnasium id or a function that makes an `Env` or a `VectorEnv`.

    A function that takes `num_envs` makes a vector environment; one without arguments makes a single environment.

    Raises:
        BadEnvironment: the function fails, cannot be called like this, or makes something else.
    """

    spec: str | Callable[..., Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    """How the command line named a user's factory, so that a run can be resumed from its folder alone."""

    def __post_init__(self) -> None:
        if isinstance(self.spec, str):
            self.name = self.spec
        elif not callable(self.spec):
            raise BadSetting(
                f"a task is a Gymnasium id or a function that makes an environment, got {_a(self.spec)}; several are "
                "made, so give the function that made it"
            )
        else:
            self.name = getattr(self.spec, "__name__", type(self.spec).__name__)
        for name, value in self.kwargs.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                raise BadSetting(
                    f"the keyword argument {name} of {self.name} is {_a(value)}, which a run's config.yaml cannot hold; give "
                    "numbers, text or lists of these, or a function that fills it in"
                ) from None
        probe: Any = self._make_vector(1) if self._vectorised else self.make()
        if self._vectorised:
            self.observation_space, self.action_space = probe.single_observation_space, probe.single_action_space
        else:
            self.observation_space, self.action_space = probe.observation_space, probe.action_space
        probe.close()

    def make(self, render_mode: str | None = None) -> Env:
        """One environment."""
        extra = {"render_mode": render_mode} if render_mode else {}
        if isinstance(self.spec, str):
            return make_env(self.spec, **self.kwargs, **extra)
        env = self._call({**self.kwargs, **extra}, ("observation_space", "action_space", "reset", "step"))
        if hasattr(env, "num_envs"):
            raise BadEnvironment(f"{self._maker} makes a vector environment; let it take their number as num_envs")
        return env

    def envs(self, count: int, streams: Streams, name: str) -> EnvList | EnvVector:
        """`count` environments, seeded by the stream `name`."""
        require(count >= 1, f"the number of environments must be at least 1, got {count}")
        if self._vectorised:
            return EnvVector(self._make_vector(count), streams, f"{self.name}/{name}")
        return EnvList(self.make, count, streams, f"{self.name}/{name}")

    def evaluate(self, policy: Policy, episodes: int, seed: int, video: Path | None = None) -> Evaluation:
        """Play `episodes` whole episodes with the greedy policy on environments of its own; `video` records the first.

        Episodes are numbered, and each environment plays a fixed share of the numbers, so the outcome is a function
        of the policy and the seed.
        """
        require(episodes >= 1, f"the number of episodes must be at least 1, got {episodes}")
        count = min(episodes, EVALUATION_ENVS)
        envs = self.envs(count, Streams(seed), "evaluate")
        share = torch.tensor([len(range(i, episodes, count)) for i in range(count)])
        running, lengths = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
        results: list[list[tuple[float, int]]] = [[] for _ in range(count)]
        generator = Streams(seed).generator("act")  # for policies that sample even then
        carry = policy.initial_carry(count, generator)
        with torch.no_grad():
            while bool((share > 0).any()):
                action, _, carry = policy.act(
                    envs.obs, carry, generator=generator, greedy=True, action_mask=envs.action_mask
                )
                step = envs.step(policy.env_action(action))
                running += step.reward * step.mask
                lengths += step.mask.long()
                ended = (step.terminated + step.truncated) > 0
                carry = policy.restarted(policy.rewarded(carry, step.reward), ended, generator)
                for i in ended.nonzero().flatten().tolist():
                    if share[i] > 0:
                        results[i].append((float(running[i]), int(lengths[i])))
                    share[i] -= 1
                    running[i], lengths[i] = 0.0, 0
        envs.close()
        if video is not None:
            self._film(policy, seed, video)
        ordered = [results[i % count][i // count] for i in range(episodes)]
        return Evaluation([r for r, _ in ordered], [n for _, n in ordered])

    def frames(
        self, policy: Policy, seed: int, limit: int = 1000, rate: int | None = None
    ) -> tuple[list[np.ndarray], float]:
        """At most `limit` pictures `(H, W, 3)` uint8 of one greedy episode, and how many make a second.

        With `rate`, steps between are left out so that about that many pictures make a second.
        """
        env = self.make(render_mode="rgb_array")
        native = int(env.metadata.get("render_fps", 30))
        stride = max(1, round(native / rate)) if rate else 1
        try:
            obs, info = env.reset(seed=Streams(seed).integer(f"{self.name}/evaluate/0"))
            play, reward = policy.player(generator=Streams(seed).generator("act")), None
            pictures = [env.render()]
            while len(pictures) < limit:
                over = False
                for _ in range(stride):
                    action = play(obs, reward, info.get("action_mask"))
                    obs, reward, terminated, truncated, info = env.step(action)
                    over = terminated or truncated
                    if over:
                        break
                pictures.append(env.render())
                if over:
                    break
            return [np.asarray(p, dtype=np.uint8) for p in pictures], native / stride
        finally:
            env.close()

    def describe(self) -> dict[str, Any]:
        made_by = registry.source_of(self.spec) if hasattr(self.spec, "__qualname__") else self.name
        return {"kind": "env", "spec": self.source or made_by, "kwargs": self.kwargs}

    def _film(self, policy: Policy, seed: int, path: Path) -> None:
        try:
            import imageio.v2 as imageio
        except ImportError:
            raise PalaestraError("videos need imageio: pip install 'palaestra[video]'") from None
        pictures, fps = self.frames(policy, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            imageio.mimsave(path, pictures, duration=1000 / fps, loop=0)  # type: ignore[call-overload]
        else:
            imageio.mimsave(path, pictures, fps=fps)  # type: ignore[call-overload]

    @property
    def _vectorised(self) -> bool:
        if isinstance(self.spec, str):
            return self.spec.startswith(own.NAMESPACE)
        return "num_envs" in _parameters(self.spec)

    def _make_vector(self, count: int) -> Any:
        if isinstance(self.spec, str):
            return make_env(self.spec, num_envs=count, **self.kwargs)
        needed = ("single_observation_space", "single_action_space", "num_envs", "reset", "step")
        envs = self._call({**self.kwargs, "num_envs": count}, needed)
        if envs.num_envs != count:
            raise BadEnvironment(f"{self._maker} was asked for num_envs={count} and made {envs.num_envs}")
        return envs

    @property
    def _maker(self) -> str:
        return f"the factory {self.source or self.name}"

    def _call(self, given: dict[str, Any], needed: tuple[str, ...]) -> Any:
        """What the user's function makes when it is `given` these, refused if it lacks what is `needed`."""
        assert callable(self.spec)
        try:
            made = self.spec(**given)
        except BROKEN as error:
            raise self._uncallable(given) or failure(self._maker, error) from error
        if made is None or isinstance(made, type):
            raise BadEnvironment(f"{self._maker} returns {made}; let it return the environment that it makes")
        missing = [name for name in needed if not hasattr(made, name)]
        if missing:
            wanted = "gymnasium.vector.VectorEnv" if "num_envs" in needed else "gymnasium.Env"
            raise BadEnvironment(
                f"{self._maker} returns {_a(made)} without {', '.join(missing)}; let it return a {wanted}"
            )
        return made

    def _uncallable(self, given: dict[str, Any]) -> BadEnvironment | None:
        """The error of a function that does not take what it is `given`, if that is what is wrong with it."""
        try:
            inspect.signature(self.spec).bind(**given)  # type: ignore[arg-type]
        except ValueError:  # a built-in function that does not tell
            return None
        except TypeError as error:
            call = ", ".join(f"{name}={value!r}" for name, value in given.items())
            return BadEnvironment(
                f"{self._maker} cannot be called as {self.name}({call}): {error}; it is given the task's kwargs, num_envs "
                "if it takes that, and render_mode to be filmed"
            )
        return None


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except ValueError:  # a built-in function that does not tell
        return set()


def _a(thing: Any) -> str:
    name = type(thing).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def make_env(env_id: str, num_envs: int | None = None, **kwargs: Any) -> Any:
    """`gymnasium.make`, or with `num_envs` `gymnasium.make_vec`, with an unknown id answered by the nearest known one."""
    import gymnasium

    own.register_all()
    try:
        if num_envs is not None:
            return gymnasium.make_vec(env_id, num_envs, "vector_entry_point", **kwargs)
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except (gymnasium.error.NameNotFound, gymnasium.error.VersionNotFound, gymnasium.error.NamespaceNotFound):
        raise unknown("task", env_id, {*gymnasium.registry, *registry.table("tasks")}) from None
    except gymnasium.error.DependencyNotInstalled as error:
        raise PalaestraError(f"{env_id} needs more packages: {error}") from None
    except gymnasium.error.Error as error:
        raise PalaestraError(f"{env_id}: {error}") from None
    except BROKEN as error:
        raise failure(env_id, error) from error
