"""Ranks, metrics and their confidence intervals, with numpy alone."""
