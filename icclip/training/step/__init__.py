"""One optimizer step, and everything around it."""
