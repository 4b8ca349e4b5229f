"""Tables, model cards and everything else that people read."""
