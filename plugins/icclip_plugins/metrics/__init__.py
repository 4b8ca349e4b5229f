"""The metrics that come with icclip."""
