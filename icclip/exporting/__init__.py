"""Export of a checkpoint through an export target."""
