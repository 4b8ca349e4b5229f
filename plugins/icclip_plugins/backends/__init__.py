"""The backends that come with icclip."""
