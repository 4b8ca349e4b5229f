"""`icclip serve`: open, check, listen, and stop without dropping what was accepted."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import uvicorn

from icclip.config.serving import ServeConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.runtime import Encoder
from icclip.runtime.limits import Limits
from icclip.searching.opening import OpenIndex, check_same
from icclip.searching.record import stamp_of
from icclip.serving.app import application
from icclip.serving.service import Service

KEY_VARIABLE = "ICCLIP_API_KEY"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_service(config: ServeConfig, reporter: Reporter) -> Service:
    """The bundle and the index, open and known to belong together.

    Raises:
        CheckpointError: one of them is not there, or damaged. UsageError: the index is another encoder's.
    """
    encoder = Encoder.open(
        Path(config.encoder.checkpoint),
        config.encoder.precision,
        config.encoder.provider,
        threads=config.encoder.threads,
        limits=_limits(config),
        reporter=reporter,
    )
    index = None if config.index is None else OpenIndex.open(config.index)
    if index is not None:
        check_same(index, stamp_of(encoder, config.encoder.checkpoint, encoder.dim))
    # Its progress bars are for commands.
    quiet = Encoder(encoder.bundle, encoder.manifest, encoder.choice, encoder.options, None, encoder.asked)
    return Service(config, quiet, index)


def _limits(config: ServeConfig) -> Limits:
    # The service's own are checked where a request comes in; the bundle's golden inputs may be larger than they.
    usual = Limits()
    return Limits(
        pixels_per_image=max(usual.pixels_per_image, config.max_pixels),
        characters_per_text=max(usual.characters_per_text, config.max_characters),
    )


def serve(config: ServeConfig, reporter: Reporter) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were accepted are answered first.

    Raises:
        UsageError: the address cannot be listened on, or anything that `open_service` says.
    """
    service = open_service(config, reporter)
    key = config.api_key or os.environ.get(KEY_VARIABLE) or None
    if config.host not in LOOPBACK and key is None:
        reporter.warn(f"everyone who can reach {config.host} can use this service: set --api-key or {KEY_VARIABLE}")
    _log_to_stderr()
    server = uvicorn.Server(
        uvicorn.Config(
            application(service, key),
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=config.grace,
            server_header=False,
            h11_max_incomplete_event_size=65_536,
        )
    )
    reporter.note(f"{service.encoder.description}: http://{config.host}:{config.port} (Ctrl-C stops it)")
    try:
        server.run()
    except SystemExit as error:
        raise UsageError(f"cannot listen on {config.host}:{config.port}: choose another --port") from error


def _log_to_stderr() -> None:
    """A line of JSON for each request, and plain lines for the rest."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("icclip.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "icclip.serving" else logging.WARNING)
