"""What palaestra uses of vLLM (0.32), made of transformers: the same names, arguments and results, one token at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]


class LLM:
    """`tilt` is added to the logit of token 6, as if another program had rounded the model."""

    tilt = 0.0

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        logprobs_mode: str = "raw_logprobs",
        load_format: str = "auto",
        hf_overrides: dict[str, Any] | None = None,
    ):
        import transformers

        kind = transformers.AutoModelForCausalLM
        self.model = kind.from_pretrained(model, dtype=getattr(torch, dtype), **(hf_overrides or {}))
        if load_format == "dummy":
            for p in self.model.parameters():
                torch.nn.init.uniform_(p, -1e-3, 1e-3)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self.logprobs_mode = logprobs_mode
        self.asked: list[list[int]] = []
        self.resets = 0

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        return [
            RequestOutput(p["prompt_token_ids"], [self._complete(p["prompt_token_ids"], params)])
            for p, params in zip(prompts, sampling_params, strict=True)
        ]

    def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> list[None]:
        assert method == "reload_weights"
        given = kwargs or {}
        if "weights_path" in given:
            from safetensors.torch import load_file

            weights = load_file(f"{given['weights_path']}/model.safetensors").items()
        else:
            weights = given["weights_iterator"]
        own = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, weight in weights:
                own.pop(name).copy_(weight)
        assert not own, f"no weights for {list(own)}"
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.resets += 1
        return True

    @torch.no_grad()
    def _complete(self, prompt: list[int], params: SamplingParams) -> CompletionOutput:
        self.asked.append(prompt)
        assert params.ignore_eos and params.logprobs == 0 and self.logprobs_mode == "processed_logprobs"
        generator = torch.Generator().manual_seed(params.seed)
        ids: list[int] = []
        logprobs = []
        for _ in range(params.max_tokens):
            logits = self.model(torch.tensor([prompt + ids])).logits[0, -1].float()
            logits[6] += self.tilt
            seen = torch.tensor(prompt + ids).unique()
            by = params.repetition_penalty
            logits[seen] = torch.where(logits[seen] > 0, logits[seen] / by, logits[seen] * by)
            logp = _processed(logits, params)
            token = int(torch.multinomial(logp.exp(), 1, generator=generator) if params.temperature else logp.argmax())
            ids.append(token)
            logprobs.append({token: Logprob(float(logp[token]))})
            if token in (params.stop_token_ids or []):
                return CompletionOutput(0, "", ids, logprobs, "stop", token)
            said = self.tokenizer.decode(ids, skip_special_tokens=True) if params.stop else ""
            if any(text in said for text in params.stop or []):
                assert params.detokenize
                return CompletionOutput(0, said, ids, logprobs, "stop", said)
        return CompletionOutput(0, "", ids, logprobs, "length")


def _processed(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Log-probabilities of what is sampled from; at temperature 0, of the logits as they are."""
    if params.temperature == 0:
        return logits.log_softmax(-1)
    p = (logits / params.temperature).softmax(-1)
    if params.top_p < 1:
        order = p.argsort(descending=True)
        kept = p[order].cumsum(-1) - p[order] < params.top_p
        p[order[~kept]] = 0
    return (p / p.sum()).log()


@contextmanager
def serving(
    llm: LLM, development: bool = True, mode: str = "processed_logprobs", device: str = "cuda"
) -> Iterator[str]:
    """The address of a server (`vllm serve`) of a model."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/server_info") and development:
                config = {"model_config": {"logprobs_mode": mode}, "device_config": {"device": device}}
                self.reply({"vllm_config": config})
            elif self.path == "/v1/models":
                self.reply({"data": [{"id": "served"}]})
            else:
                self.reply({"detail": "Not Found"}, 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/collective_rpc":
                llm.collective_rpc(body["method"], kwargs=body["kwargs"])
                self.reply({"results": [None]})
            elif self.path == "/reset_prefix_cache":
                self.reply({"success": llm.reset_prefix_cache()})
            else:
                assert self.path == "/v1/completions" and body.pop("model") == "served"
                assert body.pop("return_token_ids")
                said = llm._complete(body.pop("prompt"), SamplingParams(**body))
                told = [place[token].logprob for place, token in zip(said.logprobs, said.token_ids, strict=True)]
                choice = {"token_ids": said.token_ids, "finish_reason": said.finish_reason}
                self.reply({"choices": [{**choice, "logprobs": {"token_logprobs": told}}]})

        def reply(self, content: Any, code: int = 200) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
