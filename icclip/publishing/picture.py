"""What the model finds, as a picture for its page on the hub."""

from __future__ import annotations

import io

from icclip.config import PushConfig
from icclip.console import Reporter
from icclip.plugins.registry import Registry
from icclip.publishing.files import Item

RETRIEVAL = "retrieval.png"
SECTION = f"""

## What it finds

![Captions of the test data, and the five images that the model finds first]({RETRIEVAL})
"""


def retrieval_picture(config: PushConfig, registry: Registry, reporter: Reporter) -> Item:
    """Draw some captions of the held-out data, each with the five images that the model finds first.

    Args:
        config: names the run or the bundle, which is measured on its own data.
        registry: knows the datasets and models.
        reporter: shows the progress.

    Raises:
        UsageError: the data is not known, or no longer there.
    """
    # Publishing without a picture needs none of this.
    from icclip.data.gallery import load_gallery
    from icclip.encoders import open_encoder
    from icclip.evaluating.request import eval_config
    from icclip.report.contact_sheet import contact_sheet, search

    measured = eval_config(registry, {"encoder": {"checkpoint": str(config.source)}})
    gallery = load_gallery(registry, measured.data, measured.split, reporter)
    encoder = open_encoder(registry, measured.encoder, reporter)
    file = io.BytesIO()
    queries = search(encoder, gallery.images, gallery.relevance())
    # The name of the data may hold a path of this machine.
    title = f"{measured.split} split: captions and the five images that are found first"
    contact_sheet(queries, title).save(file, "PNG")
    return Item(RETRIEVAL, file.getvalue())
