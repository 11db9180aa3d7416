"""Random models of a few thousand parameters, of several families, for tests of what works with any."""

from __future__ import annotations

from typing import Any

import torch

from palaestra.language.tokenisers import word_tokeniser

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "lfm2", "mamba")
FAST = ("llama", "mistral", "qwen2", "qwen3")
"""Families that `LlamaDecoder` knows."""


def tiny_model(family: str) -> Any:
    """A random model with logits that differ enough for sampling to tell tokens apart."""
    import transformers as t

    torch.manual_seed(0)
    made = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SHAPE)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**SHAPE, sliding_window=None)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**SHAPE, tie_word_embeddings=True)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**SHAPE, head_dim=16)),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=96, bos_token_id=0, eos_token_id=1)
        ),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**SHAPE, head_dim=16, sliding_window=8)),
        "gemma3": lambda: t.Gemma3ForCausalLM(
            t.Gemma3TextConfig(
                **SHAPE, head_dim=16, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
            )
        ),
        "lfm2": lambda: t.Lfm2ForCausalLM(t.Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"])),
        "mamba": lambda: t.MambaForCausalLM(
            t.MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=2, state_size=8)
        ),
    }[family]()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(3.0) if p.dim() > 1 else p.add_(0.1 * torch.randn_like(p))
    return made.eval()


def joining_tokeniser() -> Any:
    """A tokeniser that begins a text with <bos>, and reads ab as one token."""
    from tokenizers.processors import TemplateProcessing

    tokeniser = word_tokeniser(["ab", *"abc\n:"])
    before = tokeniser.bos_token, tokeniser.bos_token_id
    tokeniser.backend_tokenizer.post_processor = TemplateProcessing(single=f"{before[0]} $A", special_tokens=[before])
    return tokeniser
