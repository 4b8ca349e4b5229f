"""Tables, model cards and other things people read."""
