"""Evaluation: a checkpoint and a split become metrics."""
