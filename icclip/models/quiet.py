"""Keep transformers' own messages off the user's terminal."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence warnings, log lines and progress bars of transformers and the hub; errors still raise.

    The warnings are about things that the user of a checkpoint cannot change (slow image processors, deprecated
    settings of old checkpoints); icclip itself checks checkpoints and raises errors.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    # Without it the tokenizers library writes to stderr whenever a data loader forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
