"""The policy protocol: `act`, `score`, and everything a user does with a trained policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from palaestra.core import files, registry, spaces
from palaestra.core.errors import BadCheckpoint, PalaestraError, Unsupported
from palaestra.core.experience import Experience, tree_map

if TYPE_CHECKING:
    from gymnasium import Space


class Acted(NamedTuple):
    """What `act` returns."""

    action: Tensor  # (B, m) or (B,), in the policy's units
    logp: Tensor | None  # (B,) log-probability or log-density of `action`; None for a deterministic policy
    carry: Any  # the policy's memory: None for an MLP, a state for a recurrent net, a KV cache for a language model


class Scored(NamedTuple):
    """What `score` returns for a batch of actions taken elsewhere."""

    logp: Tensor  # (B,)
    entropy: Tensor  # (B,)
    value: Tensor | None  # (B,) where the policy has a value head


class Policy(nn.Module):
    """Chooses actions and scores those chosen; owns its normalisers, which are saved with it.

    A subclass defines `act` and, where a method needs it, `score`; `settings()` returns the JSON that rebuilds it.
    """

    def __init__(self, observation_space: Space, action_space: Space):
        super().__init__()
        self.observation_space = observation_space
        self.action_space = action_space

    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        """Choose actions for a batch of encoded observations; `greedy` takes the mode instead of a sample."""
        raise NotImplementedError

    def score(self, batch: Experience) -> Scored:
        """Log-probability, entropy and value of the actions in `batch` under the present parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no tractable likelihood")

    def initial_carry(self, batch: int, generator: torch.Generator | None = None) -> Any:
        """The memory at the start of `batch` episodes; what is random about it is drawn from `generator`."""
        return None

    def restarted(self, carry: Any, ended: Tensor, generator: torch.Generator | None = None) -> Any:
        """The memory `carry` of episodes of which some `ended` `(B,)`: for those, that of a new one."""
        if carry is None or not bool(ended.any()):
            return carry
        fresh = self.initial_carry(len(ended), generator)
        return tree_map(lambda new, old: torch.where(ended.view(-1, *[1] * (old.dim() - 1)), new, old), fresh, carry)

    def rewarded(self, carry: Any, reward: Tensor) -> Any:
        """The memory `carry` once the last action was rewarded, `(B,)`; most policies take no notice."""
        return carry

    def env_action(self, action: Tensor) -> np.ndarray:
        """A batch of actions in the policy's units as the environment expects them."""
        return action.cpu().numpy()

    def random_action(self, batch: int, generator: torch.Generator, action_mask: Any = None) -> Tensor:
        """Actions drawn uniformly, in the policy's units: the warm-up of off-policy methods."""
        raise NotImplementedError(f"{type(self).__name__} has no uniform exploration")

    def generate_with(self, engine: Any) -> None:
        """Let something else than palaestra's sampling give this policy's answers in text (`Engine.generation`)."""
        if engine != "own":
            raise Unsupported(f"{engine} gives answers in text, and this policy gives none")

    def settings(self) -> dict[str, Any]:
        """Constructor arguments besides the two spaces, as JSON."""
        return {}

    def observe(self, batch: Experience) -> None:
        """Let the policy's normalisers see freshly collected experience."""

    def predict(self, obs: Any, greedy: bool = True, action_mask: Any = None) -> Any:
        """The action for one observation, in the environment's units (or a batch of actions for a batch).

        A batch is told from a single observation by its number of dimensions. A policy with a memory acts as at the start of
        an episode; `player()` remembers.
        """
        return self._predict(obs, None, greedy, action_mask)[0]

    def player(self, greedy: bool = True, generator: torch.Generator | None = None) -> Player:
        """The policy as one who plays an episode: `play = policy.player()`, then `action = play(obs)` step by step."""
        return Player(self, greedy, generator)

    @torch.no_grad()
    def _predict(
        self, obs: Any, carry: Any, greedy: bool, action_mask: Any, generator: torch.Generator | None = None
    ) -> tuple[Any, Any]:
        """The action in the environment's units, and the memory after it."""
        batched = _is_batch(self.observation_space, obs)
        rows = obs if batched else spaces.stack_obs(self.observation_space, [obs])
        encoded = spaces.encode_obs(self.observation_space, rows)
        spaces.check_obs(self.observation_space, encoded, "the observation given to predict")
        if action_mask is not None:
            action_mask = torch.as_tensor(np.asarray(action_mask)).reshape(len(rows), -1)
        was_training = self.training
        self.eval()
        action, _, carry = self.act(encoded, carry, generator=generator, greedy=greedy, action_mask=action_mask)
        self.train(was_training)
        chosen = self.env_action(action)
        return chosen if batched else chosen[0], carry

    def save(self, path: str | Path) -> Path:
        """Write the policy to a folder: `policy.json` (what it is) and `policy.safetensors` (its numbers)."""
        folder = Path(path)
        description = {
            "policy": registry.name_of(type(self)),
            "observation_space": spaces.to_json(self.observation_space),
            "action_space": spaces.to_json(self.action_space),
            "settings": self.settings(),
        }
        with files.replacing(folder) as fresh:
            files.write_tensors(fresh / "policy.safetensors", dict(self.state_dict()))
            files.write_text(fresh / "policy.json", json.dumps(description, indent=2))
        return folder

    def export_onnx(self, path: str | Path) -> Path:
        """Write the greedy policy as an ONNX graph from encoded observations to actions in the environment's units."""
        from palaestra.nets.onnx import export

        return export(self, Path(path))


class Player:
    """A policy in the middle of an episode, whose memory it keeps; a new episode is a new player."""

    def __init__(self, policy: Policy, greedy: bool = True, generator: torch.Generator | None = None):
        self.policy, self.greedy, self.generator = policy, greedy, generator
        self.carry = policy.initial_carry(1, generator)

    def __call__(self, obs: Any, reward: float | None = None, action_mask: Any = None) -> Any:
        """The action for the next observation, in the environment's units; `reward` is what the last action earned, which
        policies that are told a return take note of."""
        if reward is not None and self.carry is not None:
            self.carry = self.policy.rewarded(self.carry, torch.tensor([reward], dtype=torch.float32))
        rows = spaces.stack_obs(self.policy.observation_space, [obs])
        action, self.carry = self.policy._predict(rows, self.carry, self.greedy, action_mask, self.generator)
        return action[0]


DESCRIPTION = ("policy", "observation_space", "action_space", "settings")
"""The entries of `policy.json`."""
LANGUAGE_MODELS = ("language-model", "diffusion-language-model", "reward-model")
"""Policies whose folders are those of `from_pretrained`, and whose `policy.json` says nothing but which they are."""


def load_policy(path: str | Path, network: Callable[[int, int], nn.Module] | None = None) -> Policy:
    """Load a policy that `Policy.save` (or a run) wrote; nothing in the files is executed.

    A policy that was trained with the user's own network needs the same `network` function again.
    """
    folder = Path(path)
    if not (folder / "policy.json").exists() and (folder / "policy" / "policy.json").exists():
        folder = folder / "policy"
    description = files.read_json(folder / "policy.json")
    for kind in LANGUAGE_MODELS:
        if description == {"policy": kind}:
            return registry.locate(registry.POLICIES[kind]).load(folder)
    settings = _settings(description, network, folder)
    with torch.random.fork_rng(devices=[]):  # what networks draw as they are built is overwritten at once
        outline = None
        if network is None:  # built without memory first, so that no file can ask for more than it brings itself
            with torch.device("meta"):
                outline = _build(description, settings, folder).state_dict()
        tensors = files.read_tensors(folder / "policy.safetensors", outline)
        policy = _build(description, settings, folder)
    try:
        policy.load_state_dict(tensors)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise BadCheckpoint(f"{folder / 'policy.safetensors'} does not fit its policy.json: {message}") from None
    broken = parameters_finite(policy)
    if broken is not None:
        raise BadCheckpoint(f"{folder / 'policy.safetensors'} holds NaN or infinity in '{broken}'")
    return policy.eval()


def _settings(description: dict[str, Any], network: Callable[..., nn.Module] | None, folder: Path) -> dict[str, Any]:
    for key in description:
        if key not in DESCRIPTION:
            raise BadCheckpoint(f"{folder / 'policy.json'} has an entry '{key}', which no policy has")
    settings = description.get("settings")
    if not isinstance(settings, dict) or not isinstance(description.get("policy"), str):
        raise BadCheckpoint(f"{folder / 'policy.json'} lacks the policy's class or settings")
    if (settings.get("network") == "custom") != (network is not None):
        raise BadCheckpoint(
            f"the policy in {folder} was trained with your own network; pass it: load_policy(path, network=...)"
            if network is None
            else f"the policy in {folder} was not trained with a network of your own; leave out network="
        )
    return settings if network is None else {**settings, "network": network}


def _build(description: dict[str, Any], settings: dict[str, Any], folder: Path) -> Policy:
    cls = registry.policy_class(description["policy"])
    try:
        observation_space, action_space = (
            spaces.from_json(description[f"{s}_space"]) for s in ("observation", "action")
        )
        return cls(observation_space, action_space, **settings)
    except Exception as error:  # whatever a strange file may cause
        message = " ".join(str(error).split())
        raise BadCheckpoint(
            f"{folder / 'policy.json'} describes no policy ({type(error).__name__}: {message})"
        ) from error


def parameters_finite(module: nn.Module) -> str | None:
    """The name of the first parameter or buffer that is not finite, or None."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _is_batch(space: Any, obs: Any) -> bool:
    if spaces.kind(space) in ("dict", "tuple"):
        key, sub = next(iter(spaces.children(space).items()))
        return _is_batch(sub, obs[key] if isinstance(obs, dict) else obs[int(key)])
    extra = np.ndim(obs) - len(space.shape or ())
    if extra not in (0, 1):
        raise PalaestraError(f"expected an observation of shape {space.shape} or a batch of them, got {np.shape(obs)}")
    return extra == 1
