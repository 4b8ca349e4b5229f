"""Gentle fine-tuning: which parts of a pretrained model change, and how fast."""
