"""MAGVIT-v2's image tokeniser (Yu et al., arXiv 2310.05737) in the sizes that Show-o and MMaDA use, with their names of weights.

An encoder and a decoder of convolutions; between them a code is the signs of 13 numbers, so that no code is looked up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from palaestra.core.errors import BadCheckpoint, PalaestraError, require
from palaestra.language.models import brief

WIDTH = 128
DOWN, DOWN_BLOCKS = (1, 2, 2, 4, 4), (4, 3, 4, 3, 4)
"""Of the encoder's levels: how many times as wide, and of how many blocks."""
UP, UP_BLOCKS = (1, 1, 2, 2, 4), (4, 4, 3, 4, 3)
"""Of the decoder's."""
BITS = 13
WEIGHTS = ("pytorch_model.safetensors", "model.safetensors")
NAME = "showlab/magvitv2"


class MagvitV2(nn.Module):
    """8192 codes, one for 16 by 16 pixels: an image of 512 by 512 has 1024. Images have values in [0, 1]."""

    codes = 2**BITS

    def __init__(self, width: int = WIDTH, bits: int = BITS):
        super().__init__()
        self.encoder, self.decoder = Encoder(width, bits), Decoder(width, bits)
        self.codes, self.bits = 2**bits, bits

    @staticmethod
    def from_pretrained(name: str = NAME) -> MagvitV2:
        """The tokeniser in a folder, or on the hub; no code that comes with it is executed.

        Raises:
            PalaestraError: there is none, or the hub cannot be reached.
            BadCheckpoint: its weights are not those of this tokeniser.
        """
        from safetensors.torch import load_file

        with torch.device("meta"):
            model = MagvitV2()
        found = {k: v for k, v in load_file(_weights(name)).items() if not k.startswith("quantize.")}
        wanted = model.state_dict()
        wrong = [
            k
            for k in sorted({*wanted, *found})
            if k not in found or k not in wanted or found[k].shape != wanted[k].shape
        ]
        if wrong:
            raise BadCheckpoint(
                f"{name} is no MAGVIT-v2 tokeniser: {wrong[0]} and {len(wrong) - 1} other weights do not fit"
            )
        model.load_state_dict({k: v.float() for k, v in found.items()}, assign=True)
        return model.eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """The codes `(B, tokens)` of images `(B, 3, H, W)`, whose sides are multiples of 16."""
        require(images.shape[-1] % 16 == 0 and images.shape[-2] % 16 == 0, "sides must be multiples of 16 pixels")
        bits = (self.encoder(2 * images - 1) > 0).flatten(2)
        return (bits * self._powers(images.device).unsqueeze(-1)).sum(1)

    def decode(self, codes: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """The images of codes `(B, tokens)`, square unless a `shape` in codes is given."""
        side = round(codes.shape[-1] ** 0.5)
        rows, columns = shape or (side, side)
        require(rows * columns == codes.shape[-1], f"{codes.shape[-1]} codes do not make {rows} rows of {columns}")
        signs = ((codes.unsqueeze(1) & self._powers(codes.device).unsqueeze(-1)) > 0).float() * 2 - 1
        return ((self.decoder(signs.unflatten(-1, (rows, columns))) + 1) / 2).clamp(0, 1)

    def _powers(self, device: torch.device) -> Tensor:
        return 2 ** torch.arange(self.bits - 1, -1, -1, device=device)


def _weights(name: str) -> str:
    """The safetensors file of a tokeniser."""
    from transformers.utils import cached_file

    if Path(name).exists():
        for file in WEIGHTS:
            if (Path(name) / file).is_file():
                return str(Path(name) / file)
        pickled = (
            " (pytorch_model.bin is a pickle, which is not read)" if (Path(name) / "pytorch_model.bin").exists() else ""
        )
        raise PalaestraError(f"{name} has no weights as safetensors: looked for {' and '.join(WEIGHTS)}{pickled}")
    try:
        first = cached_file(name, WEIGHTS[0], _raise_exceptions_for_missing_entries=False)
        return str(first or cached_file(name, WEIGHTS[1]))
    except (OSError, ValueError) as error:
        raise PalaestraError(f"{name} cannot be loaded as an image tokeniser: {brief(name, error)}") from None


class Encoder(nn.Module):
    """Images to 13 numbers for each 16 by 16 pixels."""

    def __init__(self, width: int, bits: int):
        super().__init__()
        self.conv_in = _conv(3, width)
        self.down = nn.ModuleList()
        before = width
        for level, (times, blocks) in enumerate(zip(DOWN, DOWN_BLOCKS, strict=True)):
            part: Any = nn.Module()
            part.block = _blocks(before, width * times, blocks)
            before = width * times
            if level + 1 < len(DOWN):
                part.downsample = Resample(before, 2)
            self.down.append(part)
        self.mid = _middle(before)
        self.norm_out = _norm(before)
        self.conv_out = _conv(before, bits)
        self.quant_conv = nn.Conv2d(bits, bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in self.down:
            for block in part.block:  # type: ignore[union-attr]
                x = block(x)
            if hasattr(part, "downsample"):
                x = part.downsample(pad(x, (0, 1, 0, 1)))  # type: ignore[operator]
        return self.quant_conv(self.conv_out(silu(self.norm_out(_through(self.mid, x)))))


class Decoder(nn.Module):
    """Codes as signs to images."""

    def __init__(self, width: int, bits: int):
        super().__init__()
        before = width * UP[-1]
        self.post_quant_conv = nn.Conv2d(bits, bits, 1)
        self.conv_in = _conv(bits, before)
        self.mid = _middle(before)
        self.up = nn.ModuleList()
        for level in reversed(range(len(UP))):
            part: Any = nn.Module()
            part.block = _blocks(before, width * UP[level], UP_BLOCKS[level])
            before = width * UP[level]
            if level:
                part.upsample = Resample(before, 1)
            self.up.insert(0, part)
        self.norm_out = _norm(before)
        self.conv_out = _conv(before, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = _through(self.mid, self.conv_in(self.post_quant_conv(x)))
        for part in reversed(list(self.up)):
            for block in part.block:  # type: ignore[union-attr]
                x = block(x)
            if hasattr(part, "upsample"):
                x = part.upsample(interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[operator]
        return self.conv_out(silu(self.norm_out(x)))


class Residual(nn.Module):
    """Two convolutions behind norms, added to what came in."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(width), _conv(width, out)
        self.norm2, self.conv2 = _norm(out), _conv(out, out)
        if width != out:
            self.nin_shortcut = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(silu(self.norm1(x)))
        inner = self.conv2(silu(self.norm2(inner)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + inner


class Attention(nn.Module):
    """Every place looks at every other, with one head."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (part(normed).flatten(2).mT for part in (self.q, self.k, self.v))
        return x + self.proj_out(scaled_dot_product_attention(q, k, v).mT.view_as(x))


class Resample(nn.Module):
    """A convolution that halves an image's sides, or follows their doubling."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=2 - stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _conv(width: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, padding=1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


def _blocks(width: int, out: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(Residual(width if i == 0 else out, out) for i in range(count))


def _middle(width: int) -> nn.Module:
    part: Any = nn.Module()
    part.block_1, part.attn_1, part.block_2 = Residual(width, width), Attention(width), Residual(width, width)
    return part  # type: ignore[no-any-return]


def _through(part: Any, x: Tensor) -> Tensor:
    x = part.block_2(part.attn_1(part.block_1(x)))
    return x
