"""What is served, to whom, and how much one caller may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.declare import BATCH, MODEL_AND_DATA, RUN, nested, option
from icclip.config.encoder import EncoderConfig
from icclip.config.indexing import bytes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig(Config):
    """One service."""

    encoder: EncoderConfig = nested(
        leave_out=("revision", "device", "workers", "trust_remote_code"),
        help={"checkpoint": "Bundle that `icclip export` wrote."},
    )
    index: Path | None = option(
        "Index of the same bundle, for POST /search and the search page.", None, panel=MODEL_AND_DATA, metavar="INDEX",
        complete="file",
    )  # fmt: skip
    host: str = option("Address to listen on; 0.0.0.0 lets other machines in.", "127.0.0.1", panel=RUN, metavar="HOST")
    port: int = option("Port to listen on.", 8080, panel=RUN, at_least=0, at_most=65_535)
    api_key: str | None = option(
        "API key that every request must carry (Authorization: Bearer KEY, or X-API-Key).", None, panel=RUN,
        metavar="KEY", unset="the environment variable ICCLIP_API_KEY; without either, no key is needed",
    )  # fmt: skip
    max_batch: int = option(
        "Largest number of inputs, from several requests, that are encoded together; 1 encodes each request alone.",
        32,
        panel=BATCH,
        at_least=1,
    )
    batch_wait: float = option(
        "Milliseconds that the first input of a batch waits for others to join it.", 0.0, panel=BATCH, at_least=0, at_most=1000,
        metavar="MS",
    )  # fmt: skip
    max_queue: int = option(
        "Largest number of inputs that may wait; further requests are answered with 429 and the time after which to try again.", 512,
        panel=BATCH, at_least=1,
    )  # fmt: skip
    timeout: float = option(
        "Seconds after which the service gives up on a request.", 30.0, panel=RUN, above=0, metavar="SECONDS"
    )
    grace: int = option(
        "Seconds that open requests get to finish when the service is stopped.", 30, panel=RUN, at_least=1
    )
    max_body: str = option("Largest size of a request's body.", "16MB", metavar="SIZE")
    max_pixels: int = option("Largest number of pixels in an image.", 40_000_000, at_least=1)
    max_inputs: int = option("Largest number of texts or images in one request.", 256, at_least=1)
    max_characters: int = option("Largest number of characters in a text.", 10_000, at_least=1)

    def problems(self) -> list[str]:
        """A size that cannot be read."""
        return [] if bytes_of(self.max_body) else [f"{{max_body}} is {self.max_body!r}: write it as 16MB"]
