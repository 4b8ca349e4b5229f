"""What of a pretrained model changes, and how fast."""
