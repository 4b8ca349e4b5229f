"""Checking a bundle anywhere."""
