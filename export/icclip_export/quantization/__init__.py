"""What int8 is made of: how each kind of weight becomes small, and what is done before, so that less is lost."""
