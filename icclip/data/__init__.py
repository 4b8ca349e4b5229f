"""From a dataset on disk or the hub to images and captions in memory."""
