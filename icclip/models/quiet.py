"""Keep transformers' own messages off the user's terminal."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator

from icclip.hub import quiet_hub


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings, log lines and progress bars of transformers and the hub; errors still raise.

    The warnings are about things that the user of a checkpoint cannot change (slow image processors, deprecated
    settings of old checkpoints); icclip itself checks checkpoints and raises errors.
    """
    from transformers.utils import logging

    # Without it the tokenizers library writes to stderr whenever a data loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), quiet_hub():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
