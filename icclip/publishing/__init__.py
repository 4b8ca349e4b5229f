"""Publish a run or a bundle on the Hugging Face hub."""
