"""Ranks, metrics and what they are worth: numpy alone."""
