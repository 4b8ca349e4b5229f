"""Contrastive training on top of transformers.Trainer."""
