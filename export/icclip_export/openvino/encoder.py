"""A bundle as an encoder whose graphs OpenVINO runs; everything else is the runtime's own."""

from __future__ import annotations

from typing import ClassVar

from icclip.bundles.manifest import Tower
from icclip.errors import UsageError
from icclip.runtime import Encoder
from icclip.runtime.providers import Choice, Provider
from icclip_export.openvino.cpu import check_provider, lacks
from icclip_export.openvino.session import OpenVinoSession, open_session


class OpenVinoEncoder(Encoder):
    """An open bundle of the target `openvino`."""

    library: ClassVar[str] = "openvino"
    engine: ClassVar[str] = "openvino"

    @classmethod
    def choose(cls, provider: Provider | None, precision: str) -> Choice:
        """The CPU, if it computes the precision.

        Raises:
            UsageError: it does not, or another provider was asked for. MissingExtraError: OpenVINO is not installed.
        """
        check_provider(provider)
        if problem := lacks(precision):
            raise UsageError(problem)
        return Choice("cpu", {})

    def load(self, tower: Tower, graph: str, threads: int) -> OpenVinoSession:
        """Open a tower's graph. Raises CheckpointError."""
        io = self.manifest.vision_io if tower == "vision" else self.manifest.text_io
        return open_session(self.bundle / graph, io, self.precision, threads=threads)

    def lost_by_fork(self) -> str | None:
        """OpenVINO: its threads do not exist in the child, which aborts when it ends."""
        return "OpenVINO"
