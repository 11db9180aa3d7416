"""A causal language model as a policy: a token is an action, and the memory is the model's cache."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from palaestra.core import files
from palaestra.core.devices import models_device
from palaestra.core.errors import BadCheckpoint, BadDataset, PalaestraError, Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Policy, Scored
from palaestra.core.precision import passing
from palaestra.core.world import world
from palaestra.language.chat import added, messages_of, opening, ordinary, read
from palaestra.language.dialogue import Dialogues
from palaestra.language.generation.decoder import positions
from palaestra.language.generation.engine import Ending, Request, copy_seeds, generate
from palaestra.language.generation.sampling import Sampling, choose
from palaestra.language.generation.stops import ending_at, special_ids, text_of
from palaestra.language.generation.vllm import VLLM, engine_named
from palaestra.language.judges.calls import Caller
from palaestra.language.judges.judge import shown
from palaestra.language.layout import Layout, layout_of
from palaestra.language.logprob import token_logp
from palaestra.language.models import load_model, pretrained, with_adapter
from palaestra.language.packing import adapted, hidden_states, in_packs, packable, recomputing
from palaestra.language.rows import Row, shown_prompt
from palaestra.language.sample import Sample
from palaestra.language.task import TEXT, Environment, Reply, TextTask
from palaestra.language.vision import Clip, ClipTable, clip_of, expanded, seen, sees
from palaestra.nets.shards import gathered, is_sharded

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from palaestra.language.generation.beam import BeamSearch
    from palaestra.language.generation.proxy import ProxyTuned

MOST_ROWS = 256
"""Sequences that are generated at a time."""
UNREAD = 0.1
"""The share of unknown tokens in a prompt above which the policy warns that it cannot read it."""


class LanguagePolicy(Policy):
    """Chooses tokens, `answer`s prompts and scores answers. On disk it is an ordinary folder for `from_pretrained`.

    Its model is put where `core.devices` says; what it is given and gives is where the caller has it.
    """

    kind: ClassVar[str] = "language-model"
    """What its folder says it is: the name of its class in the registry."""

    def __init__(self, model: Any, tokeniser: PreTrainedTokenizerBase):
        super().__init__(TEXT, TEXT)
        _refuse_half_tied(model)
        self.model, self.tokeniser = model.to(models_device()), tokeniser
        self.sees = sees(model)
        self.packs = not self.sees and packable(model)
        self.clip_table = ClipTable()
        self.recompute = False
        """Whether scores with a gradient keep layers' inputs alone, and compute the rest again in the backward pass."""
        self.engine: VLLM | BeamSearch | ProxyTuned | None = None
        """What gives answers in place of the engine of palaestra."""
        self._endings: dict[tuple[str, ...], Ending] = {}
        self._told_unread = False
        self.caller = Caller()
        """What calls environments, so that those to be awaited have one event loop."""

    @staticmethod
    def make(name: str, task: TextTask | None = None, adapter: int = 0, alpha: int = 0) -> LanguagePolicy:
        """The policy of a model that `load_model` finds; with LoRA adapters of a rank above 0, as `with_adapter` makes them."""
        model, tokeniser = load_model(name, task)
        return LanguagePolicy(with_adapter(model, adapter, alpha) if adapter else model, tokeniser)

    def train(self, mode: bool = True) -> LanguagePolicy:
        """Dropout stays off: log-probabilities are compared between passes."""
        return super().train(False)

    # Text.

    def prompt_ids(self, prompt: Any, tools: Sequence[Any] | None = None) -> Tensor:
        """The ids of a prompt `(L,)`: text as it is, messages (and descriptions of tools) by the model's chat template.

        It warns of the first prompt that holds more tokens than a few (`UNREAD`) that the tokeniser does not know.
        """
        if isinstance(prompt, str):
            ids = self.tokeniser(prompt).input_ids
            if ids and len(ids) > 1 and ids[-1] == self.tokeniser.eos_token_id:  # some tokenisers end every text
                ids = ids[:-1]
        else:
            ids = opening(self.tokeniser, prompt, tools)
        self._warn_of_unread(prompt, ids)
        return torch.tensor(ids, dtype=torch.int64)

    def _warn_of_unread(self, prompt: Any, ids: list[int]) -> None:
        tokeniser = self.tokeniser
        if self._told_unread or tokeniser.unk_token_id in (None, tokeniser.bos_token_id, tokeniser.eos_token_id):
            return
        unknown = ids.count(tokeniser.unk_token_id)
        if unknown > UNREAD * len(ids):
            self._told_unread = True
            warnings.warn(
                f"the model's tokeniser does not know {unknown} of {len(ids)} tokens of {shown(shown_prompt(prompt))}, which are "
                f"{tokeniser.unk_token} to the model, and perhaps of other prompts; give a model with a vocabulary for them",
                stacklevel=3,
            )

    def asked(self, row: Row) -> tuple[Tensor, Clip | None]:
        """The ids of a row's prompt `(L,)`, and the clip that it shows: frames `(T, 3, H, W)` in its column `video`."""
        if "prompt" not in row:
            raise BadDataset(f"a row has no 'prompt', but {', '.join(row)}")
        ids = self.prompt_ids(row["prompt"], row.get("tools"))
        if row.get("video") is None:
            return ids, None
        if not self.sees:
            raise Unsupported(
                "the rows show videos, and the model takes none; give one that does, such as tiny-video-32x2"
            )
        clip = clip_of(row["video"], self.model.config)
        return expanded(ids, clip, self.model.config.video_token_id), clip

    def completion_ids(self, text: str) -> Tensor:
        """The ids of an answer, its end included, `(L,)`."""
        ids = self.tokeniser(text, add_special_tokens=False).input_ids
        return torch.tensor([*ids, self.tokeniser.eos_token_id], dtype=torch.int64)

    def with_answer(self, prompt: Tensor, text: str, truncated: bool = False) -> tuple[Tensor, Tensor]:
        """The ids of a prompt with an answer and, unless it was truncated, its end behind it, `(L,)`, and which of them are the
        answer's, `(L,)` bool.

        Raises:
            BadDataset: the model has not as many positions.
        """
        ids = self.fitting(prompt, self.completion_ids(text)[: -1 if truncated else None])
        return ids, torch.arange(len(ids)) >= max(1, len(prompt))  # nothing says how likely a first token is

    def fitting(self, prompt: Tensor, answer: Tensor) -> Tensor:
        """The ids of a prompt and of an answer behind each other, refused unless the model has as many positions."""
        ids = torch.cat([prompt, answer])
        allowed = positions(self.model)
        if allowed is not None and len(ids) > allowed:
            asked, said = (shown(self._decode(part.tolist()), 40) for part in (prompt, answer))
            raise BadDataset(
                f"the answer {said} to {asked} needs {len(ids)} positions with its prompt, but the model has {allowed}; shorten "
                "it, or leave the row out"
            )
        return ids

    def ending(self, stop: Sequence[str] = ()) -> Ending:
        """What ends an answer: the model's own end, texts, and special tokens, which texts are read without.

        Raises:
            BadSetting: a stop text is empty, or has a special token in the middle of it.
        """
        key = tuple(stop)
        if key not in self._endings:
            vocabulary = self.model.config.get_text_config().vocab_size
            self._endings[key] = ending_at(self.tokeniser, self._end_ids(), key, vocabulary)
        return self._endings[key]

    def answer(
        self,
        rows: Sequence[Row],
        *,
        copies: int = 1,
        max_tokens: int = 64,
        sampling: Sampling | None = None,
        greedy: bool = False,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        batch: int = MOST_ROWS,
        environment: Callable[[Row], Environment | None] | None = None,
        prompts: Sequence[Tensor] | None = None,
        prefixes: Sequence[Tensor] | None = None,
        first: int = 0,
    ) -> list[Sample]:
        """`copies` answers to each row's prompt, row by row; a group for each row.

        The answers to row i are a function of `seed` and i, counted from `first` on. `environment` makes what replies to an
        answer's turns, one for each answer; the text of a sample is then the whole conversation. `prompts` gives the ids of
        prompts where they are not those of the rows, and `prefixes` ids that open the answers to each, which count among their
        `max_tokens` and have mask 0.

        Raises:
            BadDataset: a row has no prompt.
            BadSetting: there are not as many prompts or prefixes as rows, or a stop text is none.
        """
        for name, ids in (("prompts", prompts), ("prefixes", prefixes)):
            fits = ids is None or len(ids) == len(rows)
            require(fits, f"{len(rows)} rows need as many {name}, got {len(ids or ())}")
        stop = (stop,) if isinstance(stop, str) else stop
        sampling = Sampling(temperature=0) if greedy else sampling or Sampling()
        asked = [self.asked(row) for row in rows]
        asked_ids = [ids for ids, _ in asked] if prompts is None else prompts
        given = [torch.zeros(0, dtype=torch.int64) for _ in rows] if prefixes is None else prefixes
        dialogues = [Dialogues(self, row, environment) for row in rows]
        requests = [
            Request(
                torch.cat([asked_ids[i], given[i]]),
                copy_seeds(seed, f"answer/{first + i}", copies),
                max_tokens - len(given[i]),
                dialogues[i].respond,
                asked[i][1],
                len(given[i]),
            )
            for i in range(len(rows))
        ]
        ending = self.ending(stop)
        samples = []
        given_by = (
            self.engine.generate(self, requests, sampling, ending)
            if self.engine is not None
            else generate(self.model, requests, sampling, ending, batch)
        )
        for said in given_by:
            i = said.request
            before, none = requests[i].ids, torch.zeros(len(requests[i].ids))
            text = self._decode([*given[i].tolist(), *said.ids.tolist()])
            samples.append(
                Sample(
                    ids=torch.cat([before, said.ids]),
                    mask=torch.cat([none.bool(), said.mask]),
                    logp=torch.cat([none, said.logp]),
                    sampled_logp=torch.cat([none, said.sampled_logp]),
                    prompt=len(asked_ids[i]),
                    text=text if requests[i].respond else until(text, stop),
                    truncated=said.truncated,
                    row=rows[i],
                    group=first + i,
                    clip=asked[i][1],
                    messages=dialogues[i].messages(said, given[i]),
                )
            )
        return samples

    def generate_with(self, engine: str | VLLM | BeamSearch | ProxyTuned) -> None:
        """Let `own`, `vllm`, `vllm:ADDRESS` or an engine such as `BeamSearch(5)` give answers from now on."""
        if engine != "own" and (self.kind != LanguagePolicy.kind or self.sees):
            raise Unsupported(
                f"{engine} gives no answers of models that see or are no causal ones; leave generation at own"
            )
        self.engine = engine_named(engine) if isinstance(engine, str) else engine

    def reply_ids(self, reply: Reply, last: int, tools: Sequence[Any] | None = None) -> list[int]:
        """The ids that a reply adds behind a turn whose last one is `last`: text as it is, messages by the chat template, whose
        special tokens alone are read as such."""
        said = ordinary(self.tokeniser, reply)
        if isinstance(said, str):
            return read(self.tokeniser, said)
        ids = read(self.tokeniser, added(self.tokeniser, messages_of(said), tools))
        ends, first = self._end_ids(), ids[0] if ids else None
        ended = (last in ends and first in ends) or (last == first and last in special_ids(self.tokeniser).values())
        return ids[1:] if ended else ids  # the model has said its end itself

    def predict(self, obs: Any, greedy: bool = True, action_mask: Any = None) -> Any:
        """The answer to a prompt (text, or messages), as text; a list of texts for a list of prompts."""
        many = isinstance(obs, (list, tuple)) and not (obs and isinstance(obs[0], Mapping))
        samples = self.answer([{"prompt": p} for p in (obs if many else [obs])], greedy=greedy)
        return [s.text for s in samples] if many else samples[0].text

    # Tokens.

    @torch.no_grad()
    def act(
        self,
        obs: Any,
        carry: Any = None,
        *,
        generator: torch.Generator | None = None,
        greedy: bool = False,
        action_mask: Any = None,
    ) -> Acted:
        """One token after `obs` `(B, L)`, ids that the cache `carry` has not read yet; `generate` is the fast way."""
        out = self.model(input_ids=obs, cache=carry, use_cache=True, logits_to_keep=1)
        uniform = torch.rand(len(obs), generator=generator, dtype=torch.float64)
        chosen = choose(out.logits[:, -1], uniform, Sampling(temperature=0.0 if greedy else 1.0))
        return Acted(chosen.token, chosen.logp, out.cache)

    def score(self, batch: Experience, temperature: float = 1.0) -> Scored:
        """Log-probability and entropy of packed tokens, `(N,)`, where `mask` is 1; 0 elsewhere.

        `action` `(N,)` are the ids of whole sequences laid end to end, `segment` `(N,)` tells them apart. Where they are shown
        clips, `row` `(N,)` says which of those in the `clip_table`.
        """
        with passing(self.model.device):
            logp, entropy = self._score(batch.to(self.model.device), temperature)
        return Scored(logp.to(batch.action.device), entropy.to(batch.action.device), None)

    @torch.no_grad()
    def logps(self, parts: Sequence[Experience], temperature: float = 1.0, tokens: int = 16_384) -> list[Tensor]:
        """Log-probabilities `(L,)` of the tokens of each sequence, at most `tokens` of them in a pass, without a gradient."""
        return in_packs(parts, lambda piece: self.score(piece, temperature).logp, tokens)

    def _score(self, batch: Experience, temperature: float) -> tuple[Tensor, Tensor]:
        layout = layout_of(batch)
        rows = batch.mask.bool().nonzero().squeeze(-1)
        if bool(torch.isin(rows, layout.lengths.cumsum(0) - layout.lengths).any()):
            raise Unsupported("the first token of a sequence has no probability; give prompts a token, and mask it out")
        if not self.packs:
            start = layout.lengths.cumsum(0) - layout.lengths
            clips = [] if batch.row is None else self.clip_table.of(batch.row[start])
            logp, entropy = self._score_padded(batch.action, layout.lengths, rows, temperature, clips)
        else:
            head, hidden = self.model.get_output_embeddings(), self._before(batch, layout, rows)
            logp, entropy = token_logp(
                hidden, head.weight, getattr(head, "bias", None), batch.action[rows], temperature
            )
        zeros = torch.zeros(len(batch.action), device=logp.device)
        return zeros.index_put((rows,), logp), zeros.index_put((rows,), entropy)

    def logits(self, batch: Experience) -> Tensor:
        """What each of the n packed tokens where `mask` is 1 was chosen from, `(n, V)`: whole distributions, at once, and where
        the model is."""
        if not self.packs:
            raise Unsupported("whole distributions need a model that takes packed sequences, which this one does not")
        batch = batch.to(self.model.device)
        rows = batch.mask.bool().nonzero().squeeze(-1)
        with passing(self.model.device):
            return self.model.get_output_embeddings()(self._before(batch, layout_of(batch), rows)).float()

    def _before(self, batch: Experience, layout: Layout, rows: Tensor) -> Tensor:
        """The hidden states that packed tokens `rows` `(n,)` are chosen from, `(n, d)`."""
        return hidden_states(self.model, batch.action, layout, self.recompute, layout.at(rows - 1))

    def _score_padded(
        self, ids: Tensor, lengths: Tensor, rows: Tensor, temperature: float, clips: Sequence[Clip] = ()
    ) -> tuple[Tensor, Tensor]:
        """The same with an ordinary forward pass over sequences padded behind their ends, for models that take no other."""
        padded = torch.nn.utils.rnn.pad_sequence(list(ids.split(lengths.tolist())), batch_first=True)
        mask = torch.arange(padded.shape[1], device=ids.device) < lengths.unsqueeze(1)
        given = seen(self.model, padded, mask.long(), clips) if clips else {"input_ids": padded}
        with recomputing(self.model, self.recompute):
            logits = self.model(**given, attention_mask=mask.long(), use_cache=False).logits[mask][rows - 1]
        logp = (logits.float() / temperature).log_softmax(-1)
        return logp.gather(-1, ids[rows].unsqueeze(-1)).squeeze(-1), -(logp.exp() * logp).sum(-1)

    # Files.

    def trainable(self) -> list[Tensor]:
        """The parameters that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def save(self, path: str | Path) -> Path:
        """Write the folder that `from_pretrained` reads, with adapters merged in."""
        folder = Path(path)
        model = self.model
        if hasattr(model, "get_base_model"):
            model = copy.deepcopy(model).merge_and_unload()
        weights = None
        if is_sharded(self):
            own, tied = (dict(model.named_parameters(remove_duplicate=once)) for once in (True, False))
            state = model.state_dict()
            weights = gathered({name: state[name] for name in state if name in own or name not in tied})

        def write() -> None:
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            with files.replacing(folder) as fresh:
                model.save_pretrained(fresh, state_dict=weights)
                self.tokeniser.save_pretrained(fresh)
                files.write_text(fresh / "policy.json", json.dumps({"policy": self.kind}, indent=2))

        world().alone(write)
        return folder

    @staticmethod
    def load(folder: Path) -> LanguagePolicy:
        """The policy in a folder."""
        try:
            return LanguagePolicy(*pretrained(str(folder)))
        except PalaestraError as error:
            raise BadCheckpoint(str(error)) from None

    def export_onnx(self, path: str | Path) -> Path:
        raise Unsupported(
            "a language model is saved as a folder for from_pretrained, from which other libraries export; save(path) writes it"
        )

    def _decode(self, ids: list[int]) -> str:
        return text_of(self.tokeniser, ids)

    def _end_ids(self) -> tuple[int, ...]:
        config = getattr(self.model, "generation_config", None)
        named = [getattr(config, "eos_token_id", None), self.tokeniser.eos_token_id]
        found = [i for ids in named if ids is not None for i in (ids if isinstance(ids, (list, tuple)) else [ids])]
        require(bool(found), "the model has no end-of-sequence token, so that no answer would ever end")
        return tuple(dict.fromkeys(found))


def _refuse_half_tied(model: Any) -> None:
    """Raise `Unsupported` for adapters that merging would put into the other end of a model, too."""
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    own = [getattr(end, "base_layer", end) for end in ends]
    if any(map(adapted, ends)) and getattr(own[0], "weight", None) is getattr(own[1], "weight", own):
        raise Unsupported(
            "the model has an adapter on its embedding or its head, which are tied, so that it cannot be merged when the model "
            "is saved; leave both without adapters, or train them whole (modules_to_save)"
        )


def until(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop text in it."""
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    return text[: min(places)] if places else text
