"""`icclip serve`."""

from __future__ import annotations

from typing import Any

from icclip.commands.declared import with_options
from icclip.config import overlaid
from icclip.config.serving import ServeConfig
from icclip.console import Reporter


@with_options(ServeConfig)
def serve(said: Any) -> None:
    """Serve a bundle over HTTP, and an index of it with a search page; without PyTorch.

    POST /invocations, /v1/embeddings and /search; GET /ping, /live, /metrics, /info, /openapi.json and / for the page.
    """
    from icclip.serving.run import serve as run

    run(ServeConfig.from_mapping(overlaid(said)), Reporter.for_this_process())
