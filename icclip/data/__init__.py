"""Load a dataset from the disk or the hub as images and captions."""
