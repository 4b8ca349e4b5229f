"""Zero-shot classification of a folder per class, and what fine-tuning has cost of it."""
