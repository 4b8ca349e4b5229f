"""What the model finds, as a picture for its page on the hub."""

from __future__ import annotations

from icclip.config import PushConfig
from icclip.console import Reporter
from icclip.plugins.registry import Registry
from icclip.publishing.files import Item

RETRIEVAL = "retrieval.png"
SECTION = f"""

## What it finds

![Captions of the test data, and the five images that the model finds first]({RETRIEVAL})
"""


def picture_item(config: PushConfig, registry: Registry, reporter: Reporter) -> Item:
    """Draw what a run or a bundle finds in the data that it is measured on.

    Raises:
        UsageError: the data is not known, or no longer there.
    """
    # Publishing without a picture needs none of this.
    from icclip.evaluating.picture import retrieval_picture
    from icclip.evaluating.request import eval_config

    measured = eval_config(registry, {"encoder": {"checkpoint": str(config.source)}})
    # The name of the data may hold a path of this machine.
    title = f"{measured.split} split: captions and the five images that are found first"
    return Item(RETRIEVAL, retrieval_picture(measured, registry, reporter, title))
