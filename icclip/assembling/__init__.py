"""One retrieval model from two towers that were pretrained apart."""
