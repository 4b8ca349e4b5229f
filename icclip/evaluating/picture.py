"""What a model finds, as a picture."""

from __future__ import annotations

import io

from icclip.config import EvalConfig
from icclip.console import Reporter
from icclip.data.gallery import load_gallery
from icclip.encoders import open_encoder
from icclip.plugins.registry import Registry
from icclip.report.contact_sheet import contact_sheet, search


def retrieval_picture(config: EvalConfig, registry: Registry, reporter: Reporter, title: str) -> bytes:
    """Draw some captions of a split, each with the five images that the model finds first; returns a PNG.

    Args:
        config: names the model and the split.
        registry: knows the datasets and models.
        reporter: shows the progress.
        title: stands above the captions.

    Raises:
        UsageError: the model or the data cannot be opened.
    """
    gallery = load_gallery(registry, config.data, config.split, reporter)
    queries = search(open_encoder(registry, config.encoder, reporter), gallery.images, gallery.relevance())
    file = io.BytesIO()
    contact_sheet(queries, title).save(file, "PNG")
    return file.getvalue()
