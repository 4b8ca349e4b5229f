"""Turn captioned images into batches."""
