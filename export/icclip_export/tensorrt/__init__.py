"""Bundles prepared for onnxruntime's TensorRT provider."""
