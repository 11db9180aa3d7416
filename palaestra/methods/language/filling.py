"""Settings that methods of masked-diffusion language models share."""

from __future__ import annotations

from dataclasses import dataclass

from palaestra.core.task import Task
from palaestra.language.diffusion.policy import DiffusionLanguagePolicy


@dataclass
class Filling:
    """Which masked-diffusion model is trained, and how it generates answers: by filling in masked tokens, pass by pass."""

    model: str = "mdm-64x3"
    """A hub name, a folder (of a run, too), or mdm-WIDTHxLAYERS, which starts from scratch."""
    steps: int | None = None
    """Denoising steps that generate a text; by default the model's own, or one for every two tokens."""
    block: int | None = None
    """Tokens of a block of text, filled from left to right; by default the model's own, or the whole answer."""
    guidance: float | None = None
    """Scale of classifier-free guidance of texts, against a masked prompt; by default the model's own, or 0."""
    image_steps: int | None = None
    """Denoising steps that generate an image; by default the model's own, or 18."""
    image_guidance: float | None = None
    """Scale of classifier-free guidance of images; by default the model's own, or 0."""

    def filling_policy(self, task: Task, adapter: int, alpha: int, max_tokens: int) -> DiffusionLanguagePolicy:
        """The policy that training begins with; it keeps these settings, unless they do not fit its answers."""
        policy = DiffusionLanguagePolicy.make(self.model, task, adapter, alpha)  # type: ignore[arg-type]
        policy.answers_by(
            max_tokens,
            steps=self.steps,
            block=self.block,
            guidance=self.guidance,
            image_steps=self.image_steps,
            image_guidance=self.image_guidance,
        )
        policy.unmasking.plan(max_tokens)
        return policy
