"""The datasets that come with icclip."""
