"""Several processes: how they were started, what they exchange, how a model is sharded across them."""
