"""What a model is shown besides text: clips as patches, and where their tokens stand in space and time.

For models of transformers with a video tower of Qwen2-VL's form. A prompt holds one place for a clip, which becomes as many
tokens as the tower gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palaestra.core.errors import BadSetting, require
from palaestra.language.packing import unwrapped

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours that such models were trained on (CLIP's)."""
VIDEO = 2
"""Which kind of token a clip's are, where 0 is text."""


@dataclass(frozen=True)
class Clip:
    """A clip as the tower reads it."""

    patches: Tensor  # (P, channels * frames of a patch * size * size)
    grid: Tensor  # (3,) patches in time, height and width
    tokens: int  # what it becomes among those of the text


def sees(model: Any) -> bool:
    """Whether a model takes clips."""
    config = model.config
    return getattr(config, "vision_config", None) is not None and getattr(config, "video_token_id", None) is not None


def clip_of(video: Tensor, config: Any) -> Clip:
    """Frames `(T, 3, H, W)`, bytes or numbers from 0 to 1, as patches in the order of `Qwen2VLVideoProcessor`; sizes must fit.

    A clip whose length is no multiple of the patches' in time has its last frame repeated.
    """
    vision = config.vision_config
    size, time, merge = vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size
    require(video.dim() == 4 and video.shape[1] == 3, f"a clip is (frames, 3, height, width), got {tuple(video.shape)}")
    if any(side % (size * merge) for side in video.shape[2:]):
        raise BadSetting(
            f"frames of {video.shape[2]}x{video.shape[3]} cannot be cut into patches: sides must be multiples of {size * merge}"
        )
    frames = video.float() / 255 if video.dtype == torch.uint8 else video.float()
    frames = (frames - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    frames = torch.cat([frames, frames[-1:].expand(-len(frames) % time, -1, -1, -1)])
    t, h, w = len(frames) // time, frames.shape[2] // size, frames.shape[3] // size
    cut = frames.view(t, time, 3, h // merge, merge, size, w // merge, merge, size)
    patches = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
    return Clip(patches, torch.tensor([t, h, w]), t * h * w // merge**2)


def expanded(ids: Tensor, clip: Clip, token: int) -> Tensor:
    """A prompt `(L,)` with its one place for a clip, `token`, made as long as the clip."""
    place = (ids == token).nonzero().squeeze(-1)
    require(len(place) == 1, f"a prompt with a clip must hold one place for it, got {len(place)}")
    at = int(place)
    return torch.cat([ids[:at], ids.new_full((clip.tokens,), token), ids[at + 1 :]])


def seen(model: Any, ids: Tensor, mask: Tensor, clips: Sequence[Clip]) -> dict[str, Tensor]:
    """What a model that sees is given in place of padded ids `(B, L)`, each with a clip, of which `mask` marks the real ones.

    Embeddings and positions are made here. A model of transformers takes every video token for a place, also one that was
    sampled; and when it goes on from its own memory it counts from the largest position rather than the last, so that what it
    samples would stand elsewhere when it is scored.
    """
    require(len(clips) == len(ids), f"of {len(ids)} sequences {len(clips)} show a clip; all of them must, or none")
    token, inner, device = model.config.video_token_id, base(model), model.device
    tokens = torch.tensor([clip.tokens for clip in clips], device=device).unsqueeze(1)
    place = ids == token
    place &= place.cumsum(-1) <= tokens
    grid = torch.stack([clip.grid for clip in clips]).to(device)
    features = torch.cat(_features(inner, clips))
    embedded = model.get_input_embeddings()(ids).masked_scatter(place.unsqueeze(-1), features)
    seconds = torch.ones(len(clips), device=device)  # of each patch in time, which they all share
    position, _ = inner.get_rope_index(
        ids, VIDEO * place.int(), video_grid_thw=grid, second_per_grid_ts=seconds, attention_mask=mask
    )
    return {"inputs_embeds": embedded, "position_ids": position}


def _features(inner: Any, clips: Sequence[Clip]) -> list[Tensor]:
    """What the tower makes of each clip, `(tokens, d)`; one that several sequences share is looked at once."""
    apart = {id(clip): clip for clip in clips}
    patches = torch.cat([clip.patches for clip in apart.values()]).to(inner.device)
    grid = torch.stack([clip.grid for clip in apart.values()]).to(inner.device)
    found = inner.get_video_features(patches, grid).pooler_output
    features = dict(zip(apart, found, strict=True))
    return [features[id(clip)] for clip in clips]


def base(model: Any) -> Any:
    """The model without its head."""
    return unwrapped(model).model


class ClipTable:
    """The clips of the answers that are learnt from, by number: a step's `row` says which it belongs to.

    Copies of a policy look at the same ones.
    """

    def __init__(self) -> None:
        self.clips: list[Clip | None] = []

    def of(self, rows: Tensor) -> list[Clip]:
        """The clips of numbers `(n,)`, those that are none left out."""
        return [clip for i in rows.tolist() if (clip := self.clips[i]) is not None]

    def __deepcopy__(self, _: Any) -> ClipTable:
        return self
