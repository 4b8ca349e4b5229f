"""One file a command: options -> config -> one call. No loops, no torch."""
