"""From captioned images to batches."""
