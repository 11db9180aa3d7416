"""What generating text costs, in floating-point operations, by formula: the model's shape decides, not the machine."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """What a model's cost depends on."""

    parameters: int
    """Without embeddings, and without a head."""
    layers: int
    width: int

    @staticmethod
    def of(model: Any) -> Shape:
        """The shape of a causal model of transformers."""
        ends = [m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
        left = [p.numel() for p in model.parameters() if not any(p is end for end in ends)]
        config = model.config.get_text_config()
        return Shape(sum(left), config.num_hidden_layers, config.hidden_size)

    def generation_flops(self, prompt: int, tokens: int) -> int:
        """Operations of generating `tokens` l one after the other behind a `prompt` of p tokens (Qin et al. 2025):

        2 P l + 4 D d (p + (p + 1) + … + (p + l - 1)), for P parameters, D layers and width d; the second part, attention, is
        quadratic in l.
        """
        seen = tokens * prompt + tokens * (tokens - 1) // 2
        return 2 * self.parameters * tokens + 4 * self.layers * self.width * seen
