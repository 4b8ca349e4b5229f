"""The function that users of the seed project call to evaluate a model."""

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
    """Compute the retrieval metrics of a transformers dual encoder on one split.

    Args:
        model: a model with `get_image_features` and `get_text_features`; its `config.model_type` decides how it is used.
        processor: a processor with `image_processor` and `tokenizer`.
        split_ds: a split with the columns `image` (decoded or not) and `captions` (a list of str).
        device: the device to run on; None uses a GPU if there is one.
        eval_image_bs: number of images per batch.
        eval_text_bs: number of texts per batch.
        is_siglip: ignored, because the model itself tells.
        relevance: what counts as a right answer. With `text`, a caption is right for every image that has it. With
            `pair`, as in the papers on Flickr8k, Flickr30k and COCO, it is right only for its own image.
        **_ignored: the seed project's `stream_if_products_over`, `chunk_size_text` and `chunk_size_image`. They are
            not needed, because similarities are always computed in blocks.

    Returns:
        The metrics of `icclip.retrieval.metrics.retrieval_metrics`, and `confidence_95`.

    Raises:
        UsageError: no backend serves the model type, an image cannot be read, or the split is empty.
        TypeError: an argument is known to neither project.
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
