"""vLLM behind the interface of `engine.generate`: in this process, or in a server of its own.

Before each generation it loads the weights of the model that is trained. Its log-probabilities differ a little from the
trainer's, since its kernels, and often its precision, are others; `objectives.correction` corrects for that. Each turn of a
conversation is a request of its own, whose prompt is all that came before, which vLLM has in its prefix cache.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from palaestra.core.errors import BadSetting, PalaestraError, Unsupported, require
from palaestra.core.seeding import seed_for
from palaestra.language.generation.engine import Ending, Generated, Request, Respond, check_requests
from palaestra.language.generation.sampling import Sampling
from palaestra.language.packing import unwrapped

if TYPE_CHECKING:
    from palaestra.language.policy import LanguagePolicy

MISSING = (
    "generation by vLLM needs vLLM, which is not installed here: pip install vllm, or run it in an environment of its own (vllm "
    "serve) and give its address, as in vllm:http://localhost:8000"
)
AT_ONCE = 256
"""Requests that a server is sent at a time."""
MOST_SECONDS = 1800.0
"""How long a server may take for a request before it counts as hung and the run ends."""


def engine_named(name: str) -> VLLM | None:
    """The engine that a name stands for: `vllm`, `vllm:ADDRESS`, or `own` for palaestra's own, which is None.

    Raises:
        BadSetting: the name is none of these, or the server's settings do not fit.
        PalaestraError: vLLM is not installed, or there is no server at the address.
    """
    if name == "own":
        return None
    if name == "vllm":
        return Colocated()
    if name.startswith(("vllm:http://", "vllm:https://")):
        return Server(name.removeprefix("vllm:"))
    raise BadSetting(f"generation is own, vllm or vllm:ADDRESS, such as vllm:http://localhost:8000; got {name!r}")


class Prompt(NamedTuple):
    """What vLLM is asked to go on from."""

    ids: list[int]
    limit: int
    """The most tokens that it may say."""
    seed: int


class Turn(NamedTuple):
    """What vLLM said to a prompt."""

    ids: list[int]
    logp: list[float]
    """Of each token under the distribution that it was drawn from; at temperature 0, under the one at temperature 1."""
    ended: bool
    """At an end of sequence or at a stop text, not at the limit."""


@dataclass
class _Sequence:
    """One answer that is being given."""

    request: Request
    number: int
    """Of the request, among all."""
    copy: int
    respond: Respond | None
    turns: int = 0
    ids: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logp: list[float] = field(default_factory=list)
    ended: bool = False

    def prompt(self) -> Prompt:
        """What the next turn goes on from."""
        seed = self.request.seeds[self.copy]
        return Prompt(
            self.request.ids.tolist() + self.ids,
            self.request.max_tokens - len(self.ids),
            # Later turns must not draw the first one's numbers again.
            seed if self.turns == 0 else seed_for(seed, "turn", self.turns),
        )

    def add_turn(self, turn: Turn) -> bool:
        """Append a turn and the environment's reply to it. Returns whether there is another turn."""
        heard = turn.ids if self.turns else self.request.opening + turn.ids
        self._write(turn.ids, turn.logp, True)
        self.turns, self.ended = self.turns + 1, turn.ended
        said = self.respond(heard) if turn.ended and self.respond is not None else None
        left = self.request.max_tokens - len(self.ids)
        if not said:
            return False
        self._write(said[:left], [0.0] * min(len(said), left), False)
        self.ended = False
        return len(said) < left

    def _write(self, ids: Sequence[int], logp: Sequence[float], chosen: bool) -> None:
        self.ids += ids
        self.mask += [chosen] * len(ids)
        self.logp += logp

    def generated(self, sampling: Sampling) -> Generated:
        """The answer, once it is whole."""
        mask, told = torch.tensor(self.mask), torch.tensor(self.logp)
        zeros = torch.zeros(len(mask))
        known = sampling.plain or (sampling.greedy and not sampling.penalises)
        own = told if known else torch.where(mask, torch.nan, zeros)
        return Generated(
            self.number,
            self.copy,
            torch.tensor(self.ids),
            mask,
            own,
            zeros if sampling.greedy else told,
            len(self.ids) == self.request.max_tokens and not self.ended,
        )


class VLLM(ABC):
    """What `Colocated` and `Server` share: conversations, turn by turn."""

    def generate(
        self, policy: LanguagePolicy, requests: Sequence[Request], sampling: Sampling, ending: Ending
    ) -> list[Generated]:
        """Answers to `requests`, in their order, copy by copy, by the policy's current weights.

        vLLM gives log-probabilities only under the distribution that it samples from, `sampled_logp`. So `logp` is NaN unless
        sampling is plain, or greedy without penalties.

        Raises:
            Unsupported: a request shows a clip.
        """
        check_requests(policy.model, requests)
        if any(request.clip is not None for request in requests):
            raise Unsupported("vLLM is not shown videos here; leave generation at own")
        rows = [
            _Sequence(request, i, j, request.respond() if request.respond else None)
            for i, request in enumerate(requests)
            for j in range(len(request.seeds))
        ]
        if rows:
            self.follow(policy)
        speaking = rows
        while speaking:
            turns = self.complete([row.prompt() for row in speaking], sampling, ending)
            speaking = [row for row, turn in zip(speaking, turns, strict=True) if row.add_turn(turn)]
        return [row.generated(sampling) for row in rows]

    @abstractmethod
    def follow(self, policy: LanguagePolicy) -> None:
        """Load the weights that a policy has now."""

    @abstractmethod
    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, ending: Ending) -> list[Turn]:
        """A turn after each prompt, in their order."""

    def __deepcopy__(self, memo: Any) -> VLLM:
        return self  # a copy of a policy, such as a reference, brings its own weights whenever it is asked


class Colocated(VLLM):
    """vLLM in this process, beside the model that is trained. `options` go to `vllm.LLM`."""

    def __init__(self, **options: Any):
        # Its engine would be a process of its own otherwise, which the weights would have to be sent to.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if not torch.cuda.is_available():  # it would bind this process's threads to cores, and fill gigabytes of memory
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        try:
            import vllm
        except ImportError:
            raise PalaestraError(MISSING) from None
        self.vllm, self.options, self.llm = vllm, options, None

    def follow(self, policy: LanguagePolicy) -> None:
        tied = bool(policy.model.config.get_text_config().tie_word_embeddings) and not torch.cuda.is_available()
        if self.llm is None:
            self.llm = self._start(policy, tied)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights_of(policy.model, tied)})
        self.llm.reset_prefix_cache()

    def _start(self, policy: LanguagePolicy, tied: bool) -> Any:
        cuda = torch.cuda.is_available()
        kind = str(policy.model.dtype).removeprefix("torch.")
        usual = {
            # Its fast kernels for GPUs take no single precision.
            "dtype": "bfloat16" if cuda and kind == "float32" else kind,
            # Most of the memory is for training.
            "gpu_memory_utilization": 0.4,
            "enforce_eager": not cuda,
            # On a CPU it has a packed copy of a tied head, which it does not make anew with the embedding.
            "hf_overrides": {"tie_word_embeddings": False} if tied else {},
        }
        with TemporaryDirectory() as scratch:
            folder = str(policy.save(Path(scratch) / "model"))
            options = {"logprobs_mode": "processed_logprobs", "load_format": "dummy", **usual, **self.options}
            return self.vllm.LLM(folder, **options)

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, ending: Ending) -> list[Turn]:
        how = settings(sampling, ending)
        params = [
            self.vllm.SamplingParams(**how, seed=prompt.seed, max_tokens=prompt.limit, detokenize=bool(ending.stop))
            for prompt in prompts
        ]
        asked = [{"prompt_token_ids": prompt.ids} for prompt in prompts]
        assert self.llm is not None
        turns = []
        for answer in self.llm.generate(asked, params, use_tqdm=False):
            (said,) = answer.outputs
            ids = list(said.token_ids)
            logp = [place[token].logprob for place, token in zip(said.logprobs, ids, strict=True)]
            turns.append(Turn(ids, logp, said.finish_reason == "stop"))
        return turns


class Server(VLLM):
    """A vLLM server, for instance on GPUs of its own:

    `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs`

    Weights go through a folder, so that the server must see this machine's temporary files (`TMPDIR`), and development mode
    is what lets it be told to read them.

    Raises:
        PalaestraError: there is no such server, or none in development mode.
        BadSetting: its log-probabilities are not those of the distribution that it samples from.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        config = self._call("server_info?config_format=json")["vllm_config"]
        require(
            config["model_config"]["logprobs_mode"] == "processed_logprobs",
            f"{self.address} gives log-probabilities of another distribution than it samples from; start it with "
            "--logprobs-mode processed_logprobs",
        )
        self.on_cpu = "cpu" in str(config["device_config"])
        self.model = str(self._call("v1/models")["data"][0]["id"])

    def follow(self, policy: LanguagePolicy) -> None:
        if self.on_cpu and policy.model.config.get_text_config().tie_word_embeddings:
            raise Unsupported(
                "a vLLM server on a CPU keeps an old head where it is tied to the embedding; use one on a GPU"
            )
        with TemporaryDirectory() as scratch:
            weights = {name: weight.contiguous() for name, weight in weights_of(policy.model)}
            save_file(weights, Path(scratch) / "model.safetensors")
            self._call("collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": scratch}})
        self._call("reset_prefix_cache", {})

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, ending: Ending) -> list[Turn]:
        how = {"model": self.model, "return_token_ids": True, **settings(sampling, ending)}

        def ask(prompt: Prompt) -> Turn:
            body = {**how, "prompt": prompt.ids, "max_tokens": prompt.limit, "seed": prompt.seed}
            said = self._call("v1/completions", body)["choices"][0]
            return Turn(said["token_ids"], said["logprobs"]["token_logprobs"], said["finish_reason"] == "stop")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, prompts))

    def _call(self, where: str, body: dict[str, Any] | None = None) -> Any:
        """The server's JSON, to a POST of `body` or, without one, a GET.

        Raises:
            PalaestraError: it answers with an error, or not at all.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}/{where}", data, {"Content-Type": "application/json"} if data is not None else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=MOST_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            told = error.read().decode(errors="replace")[:300]
            hint = "; start it with VLLM_SERVER_DEV_MODE=1" if error.code == 404 else ""
            raise PalaestraError(f"{request.full_url} answered {error.code} {error.reason}: {told}{hint}") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise PalaestraError(
                f"the vLLM server at {self.address} has not answered {where} for {MOST_SECONDS:g} s; start it again, and resume "
                "the run"
                if isinstance(reason, TimeoutError)
                else f"there is no vLLM server at {self.address} ({reason})"
            ) from None
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise PalaestraError(
                f"{request.full_url} answered something else than JSON; is it a vLLM server's?"
            ) from None


def settings(sampling: Sampling, ending: Ending) -> dict[str, Any]:
    """The options of a request, under the names that `SamplingParams` and the server share."""
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop": list(ending.stop),
        "stop_token_ids": list(ending.ids),
        "ignore_eos": True,  # what ends an answer is `stop_token_ids` alone
        "logprobs": 0,  # of the chosen token alone
    }


def weights_of(model: Any, tied: bool = False) -> Iterator[tuple[str, Tensor]]:
    """The parameters under the names of a saved model, with LoRA adapters merged in; the model itself stays as it is.

    With `tied`, the head comes by a name of its own, although it is the embedding.
    """
    base = unwrapped(model)
    adapted = {name: layer for name, layer in base.named_modules() if hasattr(layer, "get_delta_weight")}
    head = next((name for name, layer in base.named_modules() if layer is base.get_output_embeddings()), "")
    for name, p in base.named_parameters():
        layer, inner, rest = name.partition(".base_layer.")
        weight = p.detach()
        if inner and rest == "weight":
            weight = weight + sum(adapted[layer].get_delta_weight(a) for a in adapted[layer].active_adapters).detach()
        if "lora_" not in name:
            yield name.replace(".base_layer.", "."), weight
        if tied and p is base.get_output_embeddings().weight:
            yield f"{head}.weight", weight
