"""Exported bundles without torch: manifest, preprocessing, tokens, onnxruntime sessions."""
