"""The call that users of the seed project know."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from icclip.config import RelevanceProtocol


def compute_retrieval_metrics(  # noqa: PLR0917  the seed project's signature
    model: Any,
    processor: Any,
    split_ds: Dataset,
    device: torch.device | str | None = None,
    eval_image_bs: int = 128,
    eval_text_bs: int = 256,
    is_siglip: bool | None = None,  # noqa: FBT001  as above
    *,
    relevance: RelevanceProtocol = "text",
    **_ignored: Any,
) -> dict[str, Any]:
    """Retrieval metrics of a transformers dual encoder on one split.

    Args:
        model: with `get_image_features` and `get_text_features`; its `config.model_type` says how it is used.
        processor: with `image_processor` and `tokenizer`.
        split_ds: with the columns `image` (decoded or not) and `captions` (a list of str).
        device: where to run; None: the GPU where there is one.
        eval_image_bs: images at once.
        eval_text_bs: texts at once.
        is_siglip: not needed, and ignored.
        relevance: what counts as a right answer: `text`, the same caption for every image that has it; `pair`, as the
            papers on Flickr8k, Flickr30k and COCO count, a caption for its own image alone.
        **_ignored: the seed project's `stream_if_products_over`, `chunk_size_text` and `chunk_size_image`:
            similarities are always computed in blocks.

    Returns:
        The metrics of `icclip.retrieval.metrics.retrieval_metrics`, and `confidence_95`.

    Raises:
        UsageError: a model type without a backend, an image that cannot be read, an empty split.
        TypeError: an argument that neither project knows.
    """
    if is_siglip is not None:
        # Two frames up: users call this through `icclip.compute_retrieval_metrics`.
        warnings.warn(
            "is_siglip is ignored: the model's own config.model_type decides", DeprecationWarning, stacklevel=3
        )
    unknown = _ignored.keys() - {"stream_if_products_over", "chunk_size_text", "chunk_size_image"}
    if unknown:
        raise TypeError(f"compute_retrieval_metrics() got unexpected arguments: {', '.join(sorted(unknown))}")

    from datasets import Image

    from icclip.data.gallery import Gallery
    from icclip.evaluating.run import evaluate_split
    from icclip.models.encoder import TorchEncoder
    from icclip.models.loaded import LoadedModel
    from icclip.plugins.registry import Registry

    registry = Registry.from_environment()
    source = model.config.name_or_path or type(model).__name__
    loaded = LoadedModel.of(model, processor, registry.backend_for(model.config.model_type, source), source)
    gallery = Gallery.of(split_ds.cast_column("image", Image(decode=False)), protocol=relevance)
    return evaluate_split(
        TorchEncoder(loaded, device=None if device is None else str(device)),
        gallery.images,
        *gallery.relevances(),
        image_batch=eval_image_bs,
        text_batch=eval_text_bs,
        metrics=registry.default_metrics(),
    )
