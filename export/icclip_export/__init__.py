"""Export of trained encoders. Nothing is exported yet: this is the place where it will live."""
