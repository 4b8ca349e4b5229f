"""Exported bundles without torch: manifest, preprocessing, tokens, onnxruntime sessions."""

from icclip.runtime.encoder import Encoder

__all__ = ["Encoder"]
