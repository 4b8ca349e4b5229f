"""Fine-tune CLIP and SigLIP for retrieval, measure it honestly, ship encoders that are proven to match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icclip.plugins.hooks import hookimpl

if TYPE_CHECKING:
    from datasets import DatasetDict

__version__ = "0.1.0"
__all__ = ["__version__", "compute_retrieval_metrics", "hookimpl", "load_image_text_dataset"]


def load_image_text_dataset(name: str, **options: Any) -> DatasetDict:
    """Load a dataset as `icclip train` does; see `icclip.data.loading.load_image_text_dataset`."""
    # Imported when called, so that `import icclip` stays free of the heavy libraries.
    from icclip.data.loading import load_image_text_dataset as load

    return load(name, **options)


def compute_retrieval_metrics(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Retrieval metrics of a model on a split; see `icclip.evaluating.api.compute_retrieval_metrics`."""
    from icclip.evaluating.api import compute_retrieval_metrics as compute

    return compute(*arguments, **options)
