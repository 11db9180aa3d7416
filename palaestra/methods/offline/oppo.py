"""Offline preference-guided policy optimisation, OPPO (Kang et al., arXiv 2305.16217): preferences without a reward.

An encoder embeds windows of behaviour, and a policy learns to reproduce every window from its embedding. Labels, which of two
windows is better, shape the embeddings: the preferred one shall lie nearer to an embedding z*, which is learnt with them. The
finished policy is given z*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from palaestra.core.errors import Unsupported, require
from palaestra.core.experience import Experience
from palaestra.core.hints import NonNegativeFloat, PositiveInt
from palaestra.core.method import Metrics, Paper
from palaestra.core.task import Task
from palaestra.data.preference_files import load_preferences
from palaestra.data.preferences import FreshPairs, LabelledPairs, ScriptedTeacher
from palaestra.data.sampling import Sampler
from palaestra.data.windows import windows
from palaestra.methods.offline.sequence import SequenceMethod
from palaestra.nets.adam import Adam, Jointly
from palaestra.nets.encoders import Flat
from palaestra.nets.gradient import Objective, Outputs
from palaestra.nets.sequence_actor import SequenceActor
from palaestra.nets.transformer import Pooling, WindowEncoder
from palaestra.objectives.preference import agreement, excess_length, triplet, unit_length

STATE_NOISE = 0.1
"""Deviation of the noise on standardised observations where windows are reproduced for human labels."""

Keep = tuple[Tensor | None, Tensor | None]
"""Dropout of the encoder and of the policy."""


@dataclass
class OPPO(SequenceMethod):
    """Offline preference-guided policy optimisation."""

    paper: ClassVar[Paper] = Paper("Beyond Reward: Offline Preference-guided Policy Optimization", 2023, "2305.16217")
    summary: ClassVar[str] = "learns from preferences between windows by embedding them, without a reward"

    labels: str = "scripted"
    """Who labels: scripted, by the rewards in the data, or the name of a set of preferences, or a file of people's."""
    label_count: PositiveInt | None = None
    """Pairs that the scripted teacher labels beforehand; None labels every pair that is drawn."""
    foresee: int = 200
    """Steps whose rewards the scripted teacher sees, from a window's first on."""
    average: bool = False
    """Let the scripted teacher compare means of rewards, not sums, which are shorter near an episode's end."""
    flip: float = 0.0
    """Share of the scripted teacher's labels that are turned round."""
    embedding: PositiveInt = 8
    """Numbers of an embedding."""
    encoder_heads: int = 2
    """Heads of the encoder's attention."""
    pooling: Pooling = "sum"
    """What the encoder makes of its tokens: sum, mean, or sum_padded, over padding as well, as the released code does."""
    z_lr: float = 1e-3
    """AdamW's learning rate for z*."""
    preference_weight: NonNegativeFloat = 0.1
    """Weight of the preferences against reproducing the windows."""
    norm_weight: NonNegativeFloat = 0.1
    """Weight of the distance of embeddings from the unit sphere; 0 leaves it out."""
    joint: bool = True
    """Train all together; otherwise encoder and z* in the first half of the budget, then the policy alone."""
    condition: Literal["z", "unit", "best"] = "z"
    """What the finished policy is given: z*, z*/|z*|, or the mean embedding of the episode with the highest return."""
    human: bool = False
    """As the released code is for human labels: ties count, embeddings may lie within the unit ball, and the policy learns from
    unlabelled windows with noisy observations, at every second update."""

    def check(self) -> None:
        super().check()
        ScriptedTeacher(self.foresee, self.average, flip=self.flip)
        own = self.label_count is None and self.flip == 0
        require(self.labels == "scripted" or own, "label_count and flip are the scripted teacher's; leave them out")
        require(self.condition in ("z", "unit", "best"), f"condition must be z, unit or best, got {self.condition!r}")
        require(self.joint or not self.human, "human is trained jointly; leave out one of human and joint=False")

    def setup(self, task: Task) -> None:
        dataset = task.dataset  # type: ignore[attr-defined]
        self.setup_actor(task, self.embedding)
        if self.human and not isinstance(self.actor.encoder, Flat):
            raise Unsupported(
                f"human adds noise to vectors, but {task.name} observes {task.observation_space}; leave it out"
            )
        sizes = {"width": self.width, "layers": self.layers, "heads": self.encoder_heads, "horizon": self.horizon}
        self.encoder = WindowEncoder(
            task.observation_space, self.actor.box.size, self.embedding, pooling=self.pooling, **sizes
        )
        self.encoder.encoder.fit(dataset.steps.obs)
        self.z = nn.Parameter(2 * torch.randn(self.embedding))
        self.encoder_optimiser = self.adamw(self.encoder)
        self.z_optimiser = Adam([self.z], self.z_lr, weight_decay=self.weight_decay)
        self.jointly = Jointly(self.encoder_optimiser, self.actor_optimiser)
        self.data = Sampler(dataset, self.streams)
        self.pairs: FreshPairs | LabelledPairs
        teacher = ScriptedTeacher(self.foresee, self.average, flip=self.flip)
        if self.labels == "scripted" and self.label_count is None:
            self.pairs = FreshPairs(dataset, teacher, self.window, self.streams)
            return
        if self.labels == "scripted":
            preferences = teacher.label(dataset, self.label_count or 0, self.window, self.streams.seed)
        else:
            preferences = load_preferences(self.labels, dataset, self.window)
        self.pairs = LabelledPairs(preferences, self.window, self.streams)
        self.counters.labels = len(preferences)

    def policy(self) -> SequenceActor:
        with torch.no_grad():
            best = self.best_embedding() if self.condition == "best" else self.z
            self.actor.condition.copy_(best / best.norm() if self.condition == "unit" else best)
        return self.actor

    def step(self) -> Metrics:
        pairs, label = self.pairs.sample(self.batch_size)
        fresh = isinstance(self.pairs, FreshPairs)
        batch = pairs if fresh or self.human else Experience.cat([pairs, self.unlabelled(2 * self.batch_size)])
        self.warm()
        metrics = self.imitate_unlabelled() if self.human and self.counters.updates % 2 == 0 else {}
        optimiser, loss = self.stage()
        metrics |= optimiser.descend(loss, batch, label, self.z.detach(), self.keep(len(batch), "dropout"))
        if self.shapes:
            with torch.no_grad():
                embedded = self.encoder(pairs, self.keep(len(pairs), "dropout/z")[0])
            metrics |= self.z_optimiser.descend(self.z_loss, embedded, label)
            self.counters.labels += self.batch_size if fresh else 0
        self.counters.updates += 1
        return metrics

    @property
    def shapes(self) -> bool:
        """Whether embeddings and z* still learn."""
        return self.joint or self.remaining > 0.5

    def stage(self) -> tuple[Adam | Jointly, Objective]:
        """Who learns, and from which loss."""
        if self.joint:
            return self.encoder_optimiser if self.human else self.jointly, self.loss
        return (self.encoder_optimiser, self.shape_loss) if self.shapes else (self.actor_optimiser, self.policy_loss)

    # Losses. Of a batch of windows, the first 2 B are the labelled pairs and the last 2 B are imitated; where every pair that is
    # drawn is labelled, these are the same.

    def loss(self, batch: Experience, label: Tensor, z: Tensor, keep: Keep) -> tuple[Tensor, Outputs]:
        """Reproduction of the windows from their embeddings, and what shapes these."""
        embedded = self.encoder(batch, keep[0])
        imitation = self.reproduction(batch, embedded, keep[1])
        shape, outputs = self.shape(embedded, label, z)
        return imitation + shape, {"loss/actor": imitation, **outputs}

    def shape_loss(self, batch: Experience, label: Tensor, z: Tensor, keep: Keep) -> tuple[Tensor, Outputs]:
        """What shapes the embeddings, alone."""
        return self.shape(self.encoder(batch, keep[0]), label, z)

    def policy_loss(self, batch: Experience, label: Tensor, z: Tensor, keep: Keep) -> tuple[Tensor, Outputs]:
        """Reproduction of the windows from embeddings that no longer learn."""
        with torch.no_grad():
            embedded = self.encoder(batch, keep[0])
        imitation = self.reproduction(batch, embedded, keep[1])
        return imitation, {"loss/actor": imitation}

    def z_loss(self, embedded: Tensor, label: Tensor) -> tuple[Tensor, Outputs]:
        """The preferences as a loss of z* alone, among embeddings `(2 B, embedding)`."""
        first, second = embedded.chunk(2)
        outputs = {
            "preference/agreement": agreement(self.z, first, second, label),
            "preference/norm_of_z": self.z.norm(),
        }
        return triplet(self.z, first, second, label, ties=self.human), outputs

    def shape(self, embedded: Tensor, label: Tensor, z: Tensor) -> tuple[Tensor, Outputs]:
        """The preferences as a loss of the embeddings, and their distance from the unit sphere, or ball."""
        first, second = embedded[: 2 * self.batch_size].chunk(2)
        preference = triplet(z, first, second, label, ties=self.human)
        length = excess_length if self.human else unit_length
        norm = length(first) + length(second)
        loss = self.preference_weight * preference + self.norm_weight * norm
        return loss, {"loss/preference": preference, "loss/norm": norm}

    def reproduction(self, batch: Experience, embedded: Tensor, keep: Tensor | None) -> Tensor:
        """The mean squared distance from recorded actions under each window's embedding, first and second windows added up."""
        last = slice(-2 * self.batch_size, None)
        imitated, condition = batch[last], embedded[last].unsqueeze(1).expand(-1, self.window, -1)
        error = self.imitation(imitated, condition, keep)
        first, second = (e.sum() / m.sum() for e, m in zip(error.chunk(2), imitated.mask.chunk(2), strict=True))
        return first + second

    # Human labels.

    def imitate_unlabelled(self) -> Metrics:
        """Encoder and policy learn from windows of all the data, whose observations the policy sees with noise."""
        generator = self.streams.generator("noise", self.counters.updates)
        batch = self.unlabelled(self.batch_size)
        noise = STATE_NOISE * torch.randn(batch.obs.shape, generator=generator)
        return self.jointly.descend(self.noisy_loss, batch, noise, self.keep(self.batch_size, "dropout/unlabelled"))

    def noisy_loss(self, batch: Experience, noise: Tensor, keep: Keep) -> tuple[Tensor, Outputs]:
        """Reproduction of windows from their embeddings and noisy observations, of which `noise` is standardised."""
        deviation = self.actor.encoder.deviation.view(batch.obs.shape[2:])
        noisy = batch.replace(obs=batch.obs + noise * deviation)
        condition = self.encoder(batch, keep[0]).unsqueeze(1).expand(-1, self.window, -1)
        loss = self.imitation(noisy, condition, keep[1]).sum() / batch.mask.sum()
        return loss, {"loss/unlabelled": loss}

    # Windows.

    def unlabelled(self, count: int) -> Experience:
        """The next windows of all the data."""
        return windows(self.data.dataset, self.data.rows(count), self.window)

    def best_embedding(self) -> Tensor:
        """The mean embedding of the windows that the episode with the highest return is cut into."""
        dataset = self.data.dataset
        best = int(dataset.returns.argmax())
        first = torch.arange(int(dataset.starts[best]), int(dataset.stops[best]), self.window)
        return self.encoder(windows(dataset, first, self.window)).mean(0)

    def keep(self, count: int, stream: str) -> Keep:
        """Dropout for the encoder's pass over `count` windows, and for the policy's over those that it imitates."""
        noise = self.streams.generator(stream, self.counters.updates)
        imitated = min(count, 2 * self.batch_size)
        return (
            self.encoder.transformer.draw(count, 2 * self.window, self.dropout, noise),
            self.actor.transformer.draw(imitated, 3 * self.window, self.dropout, noise),
        )
