"""A bidirectional transformer that predicts masked tokens, in transformers' form (as LLaDA's, Nie et al., arXiv 2502.09992).

Importing this file registers it: afterwards `AutoModel.from_pretrained(folder)` knows the folders that palaestra writes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class MaskedDiffusionConfig(PreTrainedConfig):
    """Sizes of the model, where images stand in its vocabulary, and how it answers unless told otherwise."""

    model_type = "palaestra-masked-diffusion"

    vocab_size: int = 32
    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    mask_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    image_offset: int | None = None  # the id of the first image code
    image_codes: int = 0  # how many there are
    image_tokens: int = 0  # of one image
    answer_tokens: int = 64  # of the place for an answer, which its end fills up
    unmasking: dict[str, Any] | None = None  # settings of `diffusion.sampling.Unmasking`


class MaskedDiffusionModel(PreTrainedModel):
    """Logits of the token at the *same* position, given the tokens on both sides: nothing is shifted."""

    config_class = MaskedDiffusionConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"head.weight": "embed.weight"}
    _no_split_modules = ["Block"]

    def __init__(self, config: MaskedDiffusionConfig):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, part: slice = slice(None), **_: Any
    ) -> MaskedLMOutput:
        """Logits `(B, L, V)` of `input_ids` `(B, L)`, or of a `part` of their positions; `attention_mask` `(B, L)` is 0 on
        padding, on whichever side."""
        return MaskedLMOutput(logits=self.head(self.hidden_states(input_ids, attention_mask)[:, part]))

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """What the head turns into logits, `(B, L, d)`."""
        x = self.embed(input_ids)
        rotation = self._rotation(input_ids.shape[1], x)
        visible = None
        if attention_mask is not None and not bool(attention_mask.all()):
            visible = attention_mask.bool()[:, None, None, :]
        for block in self.blocks:
            x = block(x, rotation, visible)
        return self.norm(x)

    def _rotation(self, length: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `(L, h)`; made anew in float32, so that no precision of the weights can touch them."""
        size = self.config.hidden_size // self.config.num_attention_heads
        exponent = torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size
        angle = torch.outer(torch.arange(length, device=x.device).float(), self.config.rope_theta**-exponent)
        angle = torch.cat([angle, angle], -1)
        return angle.cos(), angle.sin()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def set_input_embeddings(self, value: Any) -> None:
        self.embed = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.head = new_embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)


class Block(nn.Module):
    """Attention to both sides, then a gated perceptron, each behind a norm."""

    def __init__(self, config: MaskedDiffusionConfig):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.kv_heads = config.num_key_value_heads or self.heads
        kv_width = width // self.heads * self.kv_heads
        self.attention_norm, self.perceptron_norm = (RMSNorm(width, config.rms_norm_eps) for _ in range(2))
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, kv_width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, config.intermediate_size, bias=False) for _ in range(2))
        self.down = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor:
        normed = self.attention_norm(x)
        q, k, v = (
            part(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, heads in ((self.q, self.heads), (self.k, self.kv_heads), (self.v, self.kv_heads))
        )
        q, k = rotated(q, *rotation), rotated(k, *rotation)
        if self.kv_heads != self.heads:
            k, v = (y.repeat_interleave(self.heads // self.kv_heads, 1) for y in (k, v))
        attended = scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        normed = self.perceptron_norm(x)
        return x + self.down(silu(self.gate(normed)) * self.up(normed))


class RMSNorm(nn.Module):
    """x / rms(x), in float32, times a weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(x.dtype)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) of `(B, H, L, h)`: coordinate i turns with i + h/2."""
    first, second = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


AutoConfig.register(MaskedDiffusionConfig.model_type, MaskedDiffusionConfig)
AutoModel.register(MaskedDiffusionConfig, MaskedDiffusionModel)
AutoModelForMaskedLM.register(MaskedDiffusionConfig, MaskedDiffusionModel)
