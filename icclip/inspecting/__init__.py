"""Inspection of a dataset as icclip reads it: counts, captions, images and their problems."""
