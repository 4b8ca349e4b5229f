"""The plugins that come with icclip: backends, datasets, metrics."""
