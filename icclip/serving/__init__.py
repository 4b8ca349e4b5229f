"""A bundle, and an index, over HTTP: without torch, within limits, and only after its golden inputs match."""
