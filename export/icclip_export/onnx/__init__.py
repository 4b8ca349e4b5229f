"""The two towers as ONNX graphs in float32, checked against torch."""
