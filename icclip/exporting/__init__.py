"""What an export is asked for, and what it answers."""
