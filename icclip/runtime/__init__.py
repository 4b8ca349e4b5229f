"""Exported bundles without torch: manifest, preprocessing, tokens, onnxruntime sessions."""

from icclip.runtime.encoder import Encoder
from icclip.runtime.limits import Limits
from icclip.runtime.results import Encoded, Failure

__all__ = ["Encoded", "Encoder", "Failure", "Limits"]
