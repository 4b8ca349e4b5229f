"""Runs of several processes: how they are started, what they exchange, and how a model is sharded across them."""
