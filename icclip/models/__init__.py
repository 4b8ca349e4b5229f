"""Models and processors in torch: loading, presets, encoding."""
