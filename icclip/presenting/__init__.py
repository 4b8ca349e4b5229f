"""What was measured, gathered for a page or a picture."""
