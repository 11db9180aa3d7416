"""Reward models: what says how good an answer is, on the trunk of a language model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.policy import Acted, Scored
from palaestra.core.precision import passing
from palaestra.core.seeding import seed_for
from palaestra.core.task import Evaluation
from palaestra.language.layout import Layout, layout_of
from palaestra.language.logprob import token_logp
from palaestra.language.models import load_classifier, load_model, with_adapter
from palaestra.language.packing import bins, hidden_states, unwrapped
from palaestra.language.policy import LanguagePolicy
from palaestra.language.preferences import ranked_of
from palaestra.language.rows import Row, shown_prompt
from palaestra.language.sample import Sample
from palaestra.language.task import EXAMPLES, TextTask
from palaestra.objectives.calibration import calibration, correlation
from palaestra.objectives.group_preference import level_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RewardPolicy(LanguagePolicy):
    """Scores answers, and gives none. On disk it is an ordinary folder for `AutoModelForSequenceClassification`.

    A sequence is a prompt, an answer and, unless it was cut off, its end. The score is read at the last token that transformers
    does not take for padding: the end, where that is another token than padding.
    """

    kind: ClassVar[str] = "reward-model"

    def __init__(self, model: Any, tokeniser: PreTrainedTokenizerBase):
        super().__init__(model, tokeniser)
        self.packs = _packs(self)

    @staticmethod
    def make(name: str, task: TextTask | None = None, adapter: int = 0, alpha: int = 0) -> RewardPolicy:
        """The trunk of a causal model that `load_model` finds, and a head that gives every answer 0."""
        return RewardPolicy.on(*load_model(name, task), adapter, alpha)

    @staticmethod
    def on(model: Any, tokeniser: PreTrainedTokenizerBase, adapter: int = 0, alpha: int = 0) -> RewardPolicy:
        """A head of zeros on a copy of the trunk of a causal model."""
        from transformers import AutoModelForSequenceClassification

        config = copy.deepcopy(model.config)
        config.num_labels, config.pad_token_id = 1, _padding(config, tokeniser)
        try:
            classifier = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
        except ValueError:
            raise Unsupported(f"transformers has no classifier of the shape of {type(model).__name__}") from None
        classifier.base_model.load_state_dict(model.base_model.state_dict())
        if not hasattr(classifier, "score"):
            raise Unsupported(f"a {type(classifier).__name__} does not read its scores at single tokens")
        torch.nn.init.zeros_(classifier.score.weight)
        return RewardPolicy(
            with_adapter(classifier, adapter, alpha, "SEQ_CLS") if adapter else classifier,
            tokeniser,
        )

    @staticmethod
    def load(folder: str | Path) -> RewardPolicy:
        """The reward model in a folder (of a run, too), or of a hub name."""
        return RewardPolicy(*load_classifier(str(folder)))

    # Scores.

    @property
    def head(self) -> Any:
        """What makes a score of a hidden state."""
        return unwrapped(self.model).score

    def rewards(self, batch: Experience) -> Tensor:
        """The score of each of some packed sequences, `(S,)`, with its gradient."""
        asked, batch = batch, batch.to(self.model.device)
        with passing(self.model.device):
            if self.packs:
                layout = layout_of(batch)
                ends = layout.at(self._ends(batch))
                hidden = hidden_states(self.model, batch.action, layout, self.recompute, ends)
                found = self.head(hidden).float().squeeze(-1)
            else:
                found = self._padded(batch)
        return found.to(asked.action.device)

    def rewards_and_logp(self, batch: Experience, language_head: Tensor) -> tuple[Tensor, Tensor]:
        """The scores `(S,)`, and the log-probabilities of the tokens with mask 1, `(N,)`, 0 elsewhere, that a language head
        `(V, d)` on the same trunk gives."""
        if not self.packs:
            raise Unsupported(
                "a language term needs a model that takes packed sequences, which this one does not; leave lm_weight at 0"
            )
        asked, batch = batch, batch.to(self.model.device)
        with passing(self.model.device):
            layout = layout_of(batch)
            hidden = hidden_states(self.model, batch.action, layout, self.recompute)
            rows = batch.mask.bool().nonzero().squeeze(-1)
            before = hidden.index_select(0, layout.at(rows - 1))
            logp, _ = token_logp(before, language_head, None, batch.action[rows], 1.0)
            zeros = torch.zeros(len(batch.action), device=logp.device)
            score, logp = self._at_ends(batch, layout, hidden), zeros.index_put((rows,), logp)
        return score.to(asked.action.device), logp.to(asked.action.device)

    @torch.no_grad()
    def judge(self, samples: Sequence[Sample], tokeniser: Any, micro_tokens: int = 16_384) -> Tensor:
        """The scores of answers `(n,)`: of their ids as they are, if `tokeniser`, whose ids they are, has the same vocabulary,
        else of their text. One that ended at a stop text is read up to it, with an end as those have that were learnt from."""
        alike = tokeniser is self.tokeniser or tokeniser.get_vocab() == self.tokeniser.get_vocab()
        if not alike:
            return self._scored([self._ids(s.row, s.said, s.truncated) for s in samples], micro_tokens)
        whole = [self.ended(s) for s in samples]
        return self._scored([self.fitting(s.ids[: s.prompt], s.completion) for s in whole], micro_tokens, whole)

    @torch.no_grad()
    def scorer(self, rows: Sequence[Row], answers: Sequence[str]) -> Tensor:
        """The scores `(n,)` of answers in text, which have ended: a `Scorer`."""
        return self._scored([self._ids(row, answer) for row, answer in zip(rows, answers, strict=True)])

    def predict(self, obs: Any, greedy: bool = True, action_mask: Any = None) -> Any:
        """The score of a text, which is a prompt with its answer, or of a conversation; a list of scores for a list of texts."""
        many = isinstance(obs, (list, tuple)) and not (obs and isinstance(obs[0], dict))
        asked = obs if many else [obs]
        found = self.scorer(
            [{"prompt": x if isinstance(x, str) else x[:-1]} for x in asked],
            ["" if isinstance(x, str) else x[-1]["content"] for x in asked],
        ).tolist()
        return found if many else found[0]

    def agreement(self, task: TextTask, pairs: int, seed: int) -> Evaluation:
        """How often it scores the better of two answers higher, over at least so many pairs from held-out rows, if there are as
        many; a tie counts half. With it, how far its probabilities can be believed, and whether it goes by length.

        Returns:
            A return is 1 for a pair that it gets right, a length the mean number of tokens of its two answers.
        """
        rows = task.rows("test")
        start = seed_for(seed, "evaluate") % len(rows)
        parts, told, texts = list[Tensor](), list[tuple[float, int, int]](), list[tuple[Row, str]]()
        found = 0
        for i in range(len(rows)):
            row = rows[(start + i) % len(rows)]
            ranked = ranked_of(row)
            for answer, worth, cut in zip(ranked.answers, ranked.scores, ranked.truncated, strict=True):
                parts.append(self._ids(row, answer, cut))
                told.append((worth, i, len(self.completion_ids(answer))))
                texts.append((row, answer))
            found += sum(a > b for a in ranked.scores for b in ranked.scores)
            if found >= pairs:
                break
        require(found > 0, f"no held-out row of {task.name} has an answer that is better than another")
        with torch.no_grad():
            score = self._scored(parts)
        given, group, length = (torch.tensor(column) for column in zip(*told, strict=True))
        better, worse = level_pairs(-given, group)
        gap = score[better] - score[worse]
        right = 0.5 * (1 + gap.sign())
        tokens = (length[better] + length[worse]) / 2
        return Evaluation(
            right.tolist(),
            tokens.long().tolist(),
            [
                {"prompt": shown_prompt(row["prompt"]), "answer": text, "score": float(score[k])}
                for k, (row, text) in enumerate(texts[:EXAMPLES])
            ],
            _measures(gap, right, length[better] - length[worse], score, length.float()),
        )

    def _scored(
        self, sequences: Sequence[Tensor], micro_tokens: int = 16_384, samples: Sequence[Sample] = ()
    ) -> Tensor:
        """The score of each sequence; those that are `samples` may have their prompt in common."""
        found = torch.zeros(len(sequences))
        for members in bins([len(ids) for ids in sequences], micro_tokens):
            count = torch.tensor([len(sequences[i]) for i in members])
            batch = Experience(
                action=torch.cat([sequences[i] for i in members]),
                segment=torch.arange(len(members)).repeat_interleave(count),
            )
            if samples:
                group = torch.tensor([samples[i].group for i in members])
                mask = torch.cat([samples[i].mask for i in members])
                batch = batch.replace(mask=mask, group=group.repeat_interleave(count))
            found[members] = self.rewards(batch)
        return found

    def read(self, prompt: Any, answer: str, truncated: bool = False) -> tuple[Tensor, Tensor]:
        """The ids of a prompt and of an answer as it was trained on them: in tokens of their own, with an end behind unless the
        answer was cut off."""
        said = self.completion_ids(answer)
        return self.prompt_ids(prompt), said[:-1] if truncated else said

    def _ids(self, row: Row, answer: str, truncated: bool = False) -> Tensor:
        return self.fitting(*self.read(row["prompt"], answer, truncated))

    def ended(self, sample: Sample) -> Sample:
        """An answer in tokens of this vocabulary; one that ended at a stop text as if it had ended there by itself, which nobody
        has said how likely it was."""
        end = torch.tensor([self.tokeniser.eos_token_id])
        if sample.truncated or sample.messages or torch.equal(sample.completion[-1:], end):
            return sample
        ids = torch.cat([sample.ids[: sample.prompt], self.completion_ids(sample.text)])
        unknown = torch.full((len(ids),), torch.nan)
        mask = torch.arange(len(ids)) >= sample.prompt
        return dataclasses.replace(sample, ids=ids, mask=mask, logp=unknown, sampled_logp=unknown)

    def _at_ends(self, batch: Experience, layout: Layout, hidden: Tensor) -> Tensor:
        return self.head(hidden.index_select(0, layout.at(self._ends(batch)))).float().squeeze(-1)

    def _ends(self, batch: Experience) -> Tensor:
        """Where the score of each sequence is read, `(S,)`."""
        sequence, count = torch.unique_consecutive(batch.segment, return_inverse=True, return_counts=True)[1:]
        padding = self.model.config.pad_token_id
        place = torch.arange(len(sequence), device=sequence.device)
        real = place if padding is None else torch.where(batch.action != padding, place, -1)
        return torch.full_like(count, -1).scatter_reduce(0, sequence, real, "amax")

    def _padded(self, batch: Experience) -> Tensor:
        lengths = torch.unique_consecutive(batch.segment, return_counts=True)[1]
        parts = batch.action.split(lengths.tolist())
        padding = self.model.config.pad_token_id or 0
        ids = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=padding)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1)
        return self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, 0].float()

    # What it is not.

    def answer(self, *values: Any, **named: Any) -> list[Sample]:
        raise Unsupported("a reward model scores answers and gives none; ask a language model")

    def act(self, *values: Any, **named: Any) -> Acted:
        raise Unsupported("a reward model scores answers and gives none; ask a language model")

    def score(self, *values: Any, **named: Any) -> Scored:
        raise Unsupported("a reward model does not say how likely answers are; its scores are rewards(batch)")


def _measures(gap: Tensor, right: Tensor, longer: Tensor, score: Tensor, length: Tensor) -> dict[str, float]:
    """What is known of scores, by name: numbers of bins without pairs, and of lengths that do not occur, are left out."""
    bins_of = calibration(gap)
    found = {
        "pairs": float(len(gap)),
        "margin": float(gap.mean()),
        "calibration_error": float(bins_of.error),
        "length_correlation": float(correlation(score, length)),
    }
    for i, (pairs, predicted, won) in enumerate(zip(*bins_of, strict=True)):
        if pairs > 0:
            found |= {
                f"predicted_{i + 1}": float(predicted),
                f"won_{i + 1}": float(won),
                f"pairs_{i + 1}": float(pairs),
            }
    for name, of in (("chosen_shorter", longer < 0), ("chosen_longer", longer > 0)):
        if bool(of.any()):
            found |= {f"{name}": float(of.float().mean()), f"accuracy_{name}": float(right[of].mean())}
    return found


def _padding(config: Any, tokeniser: PreTrainedTokenizerBase) -> int | None:
    """The token that pads: where the model has none of its own, an unknown one, if that is another than the end."""
    end = tokeniser.eos_token_id
    known = (config.pad_token_id, tokeniser.pad_token_id, tokeniser.unk_token_id, end)
    return next((i for i in known if i is not None and i != end), end)


@torch.no_grad()
def _packs(policy: RewardPolicy) -> bool:
    """Whether scores of packed sequences are those that the model itself gives: tried on six tokens."""
    config, device = policy.model.config, policy.model.device
    ids = torch.tensor([i for i in range(7) if i != config.pad_token_id][:6], device=device)
    ids %= config.get_text_config().vocab_size
    segment = torch.tensor([0, 0, 0, 0, 1, 1], device=device)
    try:
        layout = Layout.of(torch.tensor([4, 2], device=device))
        hidden = hidden_states(policy.model, ids, layout)
        packed = policy._at_ends(Experience(action=ids, segment=segment), layout, hidden)
        apart = [policy.model(input_ids=part.unsqueeze(0), use_cache=False).logits[0, 0] for part in (ids[:4], ids[4:])]
    except Exception:  # whatever a model of unusual shape may say to a pass of this form
        return False
    return torch.allclose(packed, torch.stack(apart).float(), atol=1e-4, rtol=1e-4)
