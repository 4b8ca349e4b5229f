"""Give a model another image size: its preprocessing, position embeddings and config."""

from __future__ import annotations

import copy
from typing import Any

import torch

from icclip.errors import UsageError


def check_side(side: int, patch: int) -> None:
    """Check that patches fill the image.

    Raises:
        UsageError: they do not; the message names the nearest sides that work.
    """
    if side % patch:
        below = side // patch * patch
        near = [str(value) for value in (below, below + patch) if value]
        raise UsageError(
            f"an image side of {side} pixels is not a multiple of the model's patch size {patch}: "
            f"choose {' or '.join(near)}"
        )


def resize_patches(model: Any, processor: Any, side: int, *, config_name: str, positions: str) -> Any:
    """Make a patch transformer like `model` for square images of `side` pixels; `processor` is changed to match.

    The grid of learned position embeddings is interpolated bicubically, as transformers'
    `interpolate_pos_encoding` does it, but once and saved: the checkpoint stays self-consistent.

    Args:
        model: a dual encoder whose vision tower cuts images into patches.
        processor: the model's processor.
        side: the side of the images in pixels.
        config_name: the part of the model's configuration that has `image_size` and `patch_size`.
        positions: name of the weight [extra + patches, dim] that holds a position's embedding in each row.

    Raises:
        UsageError: the patches do not fill the image, or the model has no fixed image size.
    """
    vision = getattr(model.config, config_name)
    old = getattr(vision, "image_size", None)
    if old is None:
        raise UsageError(
            f"a model of type {model.config.model_type} takes images in their own shape: leave out image_resize"
        )
    check_side(side, vision.patch_size)
    _set_processor_side(processor.image_processor, side)
    if side == old:
        return model
    config = copy.deepcopy(model.config)
    getattr(config, config_name).image_size = side
    weights = model.state_dict()
    weights[positions] = _interpolate(weights[positions], old // vision.patch_size, side // vision.patch_size)
    resized = type(model)(config)
    resized.load_state_dict(weights)
    return resized


def _set_processor_side(image_processor: Any, side: int) -> None:
    """Set the size that images are scaled to and, if there is one, the crop."""
    for name in ("size", "crop_size"):
        current = getattr(image_processor, name, None)
        if current:
            # transformers 4 has a dict here, transformers 5 an object with many None.
            kept = {key: side for key, value in dict(current).items() if value is not None}
            setattr(image_processor, name, type(current)(**kept))


def _interpolate(weights: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """[extra + old * old, dim] -> [extra + new * new, dim]; extra rows, such as a class token, stay as they are."""
    extra = len(weights) - old * old
    grid = weights[extra:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(new * new, -1)
    return torch.cat([weights[:extra], grid])
