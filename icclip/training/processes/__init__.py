"""Several processes: who we are, what is exchanged, what is divided."""
