"""Masked-diffusion language models: text and images as tokens of one vocabulary, filled in where they are masked."""
