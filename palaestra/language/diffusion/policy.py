"""A masked-diffusion language model as a policy: an answer is a place of masked tokens that is filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from palaestra.core.errors import BadCheckpoint, PalaestraError, Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Scored
from palaestra.core.precision import passing
from palaestra.language.diffusion.loading import load_diffusion_model, pretrained
from palaestra.language.diffusion.sampling import Filled, Unmasking, fill_image, fill_text
from palaestra.language.generation.engine import copy_seeds
from palaestra.language.generation.sampling import Sampling
from palaestra.language.logprob import token_logp
from palaestra.language.models import with_adapter
from palaestra.language.packing import recomputing, unwrapped
from palaestra.language.policy import MOST_ROWS, LanguagePolicy, until
from palaestra.language.rows import Row
from palaestra.language.sample import Sample
from palaestra.language.task import Environment, TextTask, talks

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

IMAGE = "image"
"""The `modality` of rows that are answered with an image; any other is answered with text."""


@dataclasses.dataclass
class _Asked:
    """One answer that is wanted."""

    row: int
    prompt: Tensor  # (P,)
    seed: int
    image: bool


class DiffusionLanguagePolicy(LanguagePolicy):
    """Answers prompts by filling in what is masked, text and images alike, and scores tokens given those that are shown."""

    kind: ClassVar[str] = "diffusion-language-model"

    def __init__(self, model: Any, tokeniser: PreTrainedTokenizerBase):
        super().__init__(model, tokeniser)
        self._forbidden: dict[bool, Tensor] = {}

    @staticmethod
    def make(name: str, task: TextTask | None = None, adapter: int = 0, alpha: int = 0) -> DiffusionLanguagePolicy:
        """The policy of a model that `load_diffusion_model` finds; with LoRA adapters of a rank above 0, as `with_adapter` makes
        them."""
        model, tokeniser = load_diffusion_model(name, task)
        adapted = with_adapter(model, adapter, alpha, None, ["head"]) if adapter else model
        return DiffusionLanguagePolicy(adapted, tokeniser)

    # What the model is.

    @property
    def network(self) -> Any:
        """The model itself; where it has adapters, they are in it."""
        return unwrapped(self.model)

    @property
    def mask_id(self) -> int:
        return int(self.network.config.mask_token_id)

    @property
    def unmasking(self) -> Unmasking:
        """How it answers."""
        return Unmasking(**(self.network.config.unmasking or {}))

    def answers_by(self, tokens: int | None = None, **settings: Any) -> None:
        """Let it answer so from now on, also once it is loaded again; settings of `Unmasking` that are None stay as they are."""
        config = self.network.config
        config.answer_tokens = tokens or config.answer_tokens
        given = {name: value for name, value in settings.items() if value is not None}
        config.unmasking = dataclasses.asdict(dataclasses.replace(self.unmasking, **given))

    def place(self, row: Row, max_tokens: int) -> int:
        """How many tokens the answer to a row has a place for."""
        return int(self.network.config.image_tokens) if row.get("modality") == IMAGE else max_tokens

    def forbidden(self, image: bool) -> Tensor:
        """(V,) bool, the tokens that an answer never has: in images all but image codes; in text those, [MASK], and whatever
        else only marks."""
        if image not in self._forbidden:
            config = self.network.config
            codes = torch.zeros(config.vocab_size, dtype=torch.bool)
            if config.image_codes:
                codes[config.image_offset : config.image_offset + config.image_codes] = True
            if image:
                require(bool(config.image_codes), "the model knows no images; train it on a task that has some")
                self._forbidden[True] = ~codes
            else:
                codes[len(self.tokeniser) :] = True
                own = self.tokeniser
                for i in (self.mask_id, own.pad_token_id, own.bos_token_id, own.unk_token_id):
                    if i is not None and i not in self._end_ids():
                        codes[i] = True
                self._forbidden[False] = codes
        return self._forbidden[image]

    # Answers.

    def answer(  # type: ignore[override]
        self,
        rows: Sequence[Row],
        *,
        copies: int = 1,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        greedy: bool = False,
        stop: Sequence[str] = (),
        seed: int = 0,
        batch: int = MOST_ROWS,
        environment: Callable[[Row], Environment | None] | None = None,
        first: int = 0,
    ) -> list[Sample]:
        """`copies` answers to each row's prompt, row by row; a group for each row.

        A text has a place of `max_tokens` tokens, and is what stands before its end; rows whose `modality` is "image" are
        answered with one. The answers to row i are a function of `seed` and i, counted from `first` on.

        Raises:
            BadSetting: a prompt with the mask token in it, or a place that the model's blocks and steps do not fit.
        """
        require(batch >= 1, f"batch must be at least 1, got {batch}")
        if any(talks(environment, row) for row in rows[:1]):
            raise Unsupported(
                "an answer in turns needs a model that speaks token by token; masked diffusion fills in one"
            )
        sampling = Sampling(temperature=0) if greedy else sampling or Sampling()
        if sampling.penalises:
            raise Unsupported(
                "masked diffusion has no order in which a token repeats another; leave repetition_penalty at 1"
            )
        length = self.network.config.answer_tokens if max_tokens is None else max_tokens
        require(length >= 1, f"max_tokens must be at least 1, got {length}")
        asked = []
        for i, row in enumerate(rows):
            prompt = self.prompt_ids(row["prompt"])
            require(
                not bool((prompt == self.mask_id).any()), "a prompt has the mask token in it; fill() fills those in"
            )
            image = row.get("modality") == IMAGE
            asked += [_Asked(i, prompt, s, image) for s in copy_seeds(seed, f"answer/{first + i}", copies)]
        # Prompts of one length together, so that little is padded.
        order = sorted(range(len(asked)), key=lambda j: (asked[j].image, len(asked[j].prompt)))
        samples: list[Any] = [None] * len(asked)
        for image in (False, True):
            own = [j for j in order if asked[j].image == image]
            for start in range(0, len(own), batch):
                part = own[start : start + batch]
                with passing(self.model.device, keep=True):
                    found = self._filled(
                        [asked[j] for j in part], self.place(rows[asked[part[0]].row], length), sampling
                    )
                for j, (ids, logp, sampled_logp) in zip(part, found, strict=True):
                    row = rows[asked[j].row]
                    samples[j] = self._sample(asked[j], first + asked[j].row, row, ids, logp, sampled_logp, stop)
        return samples

    def fill(self, text: str, *, image: bool = False, greedy: bool = True, seed: int = 0) -> str:
        """A text with its mask tokens filled in, wherever they stand, one at a time; of an `image`, with image codes."""
        ids = self.tokeniser(text, add_special_tokens=False, return_tensors="pt").input_ids
        count = int((ids == self.mask_id).sum())
        require(count > 0, f"there is no {self.tokeniser.mask_token} in the text, so that nothing is to be filled in")
        sampling, slow = Sampling(temperature=0 if greedy else 1), Unmasking(steps=count, image_steps=count)
        filled = self._run(ids, None, 0, [seed], image, sampling, slow, ())
        return self._decode(filled.ids[0].tolist())

    def _filled(self, asked: Sequence[_Asked], length: int, sampling: Sampling) -> list[tuple[Tensor, ...]]:
        """The answers, their log-probabilities and those they were drawn with, each `(length,)`; prompts padded on the left."""
        longest = max(len(a.prompt) for a in asked)
        ids = torch.full((len(asked), longest + length), self.mask_id)
        visible = torch.ones(ids.shape, dtype=torch.bool)
        for row, a in enumerate(asked):
            gap = longest - len(a.prompt)
            ids[row, gap:longest] = a.prompt
            ids[row, :gap] = self._padding
            visible[row, :gap] = False
        image, seeds = asked[0].image, [a.seed for a in asked]
        ends = () if image else self._end_ids()
        filled = self._run(ids, visible, longest, seeds, image, sampling, self.unmasking, ends)
        return [tuple(x[i, longest:].cpu() for x in filled) for i in range(len(asked))]

    def _run(
        self,
        ids: Tensor,
        visible: Tensor | None,
        start: int,
        seeds: Sequence[int],
        image: bool,
        sampling: Sampling,
        unmasking: Unmasking,
        ends: Sequence[int],
    ) -> Filled:
        device = next(self.model.parameters()).device
        ids = ids.to(device)
        shown = None if visible is None or bool(visible.all()) else visible.to(device)
        weight = unmasking.image_guidance if image else unmasking.guidance

        def predict(x: Tensor, part: slice) -> Tensor:
            logits: Tensor = self.network(input_ids=x, attention_mask=shown, part=part).logits
            if not weight:
                return logits
            blind = x.clone()
            blind[:, :start] = self.mask_id
            without = self.network(input_ids=blind, attention_mask=shown, part=part).logits
            return without + (weight + 1) * (logits - without)

        arguments = (predict, ids, start, self.mask_id, self.forbidden(image).to(device), seeds, sampling, unmasking)
        return fill_image(*arguments) if image else fill_text(*arguments, ends)

    def _sample(
        self, asked: _Asked, group: int, row: Row, ids: Tensor, logp: Tensor, sampled_logp: Tensor, stop: Sequence[str]
    ) -> Sample:
        """An answer up to its end, which what stands behind it does not belong to."""
        length, over = (len(ids), True) if asked.image else self._length(ids, stop)
        none = torch.zeros(len(asked.prompt))
        return Sample(
            ids=torch.cat([asked.prompt, ids[:length]]),
            mask=torch.cat([none.bool(), torch.ones(length, dtype=torch.bool)]),
            logp=torch.cat([none, logp[:length]]),
            sampled_logp=torch.cat([none, sampled_logp[:length]]),
            prompt=len(asked.prompt),
            text=until(self._decode(ids[:length].tolist()), stop),
            truncated=not over,
            row=row,
            group=group,
        )

    def _length(self, ids: Tensor, stop: Sequence[str]) -> tuple[int, bool]:
        """How long an answer is, its end included, and whether it has one."""
        ends = torch.isin(ids, torch.tensor(self.ending(stop).ids)).nonzero().flatten()
        length, over = (int(ends[0]) + 1, True) if len(ends) else (len(ids), False)
        if stop and any(text in self._decode(ids[:length].tolist()) for text in stop):
            shorter = (n for n in range(1, length + 1) if any(t in self._decode(ids[:n].tolist()) for t in stop))
            return next(shorter), True
        return length, over

    def generate_image(self, prompts: Sequence[str], *, greedy: bool = False, seed: int = 0) -> Tensor:
        """The image codes `(n, tokens)` that are drawn to each prompt, numbered from 0."""
        rows = [{"prompt": prompt, "modality": IMAGE} for prompt in prompts]
        codes = torch.stack([s.completion for s in self.answer(rows, greedy=greedy, seed=seed)])
        return codes - self.network.config.image_offset

    # Tokens.

    def act(self, obs: Any, carry: Any = None, **_: Any) -> Acted:
        raise Unsupported("a masked-diffusion model does not speak token by token; answer() fills in whole answers")

    def score(self, batch: Experience, temperature: float = 1.0) -> Scored:
        """Log-probability and entropy of packed tokens, `(N,)`, where `mask` is 1; 0 elsewhere.

        `obs` `(N,)` are the ids that are shown, with [MASK] in the place of what is not, and `action` `(N,)` the tokens that
        belong there; `segment` `(N,)` tells sequences apart.
        """
        asked, batch = batch, batch.to(self.model.device)
        lengths = torch.unique_consecutive(batch.segment, return_counts=True)[1]
        shown = pad_sequence(list(batch.obs.split(lengths.tolist())), batch_first=True, padding_value=self._padding)
        inside = torch.arange(shown.shape[1], device=shown.device) < lengths.unsqueeze(1)
        rows = batch.mask.bool().nonzero().squeeze(-1)
        with passing(self.model.device):
            with recomputing(self.network, self.recompute):
                hidden = self.network.hidden_states(shown, inside)[inside][rows]
            logp, entropy = token_logp(hidden, self.network.head.weight, None, batch.action[rows], temperature)
        zeros = torch.zeros(len(batch.action), device=logp.device)
        logp, entropy = (zeros.index_put((rows,), x).to(asked.action.device) for x in (logp, entropy))
        return Scored(logp, entropy, None)

    @property
    def _padding(self) -> int:
        return self.tokeniser.pad_token_id or 0

    # Files.

    @staticmethod
    def load(folder: Path) -> DiffusionLanguagePolicy:
        """The policy in a folder."""
        try:
            return DiffusionLanguagePolicy(*pretrained(str(folder)))
        except PalaestraError as error:
            raise BadCheckpoint(str(error)) from None
