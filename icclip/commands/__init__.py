"""One file per command, which turns options into a config and makes one call, without loops and without torch."""
