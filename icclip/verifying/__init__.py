"""Verification of an exported bundle on any machine, without PyTorch."""
