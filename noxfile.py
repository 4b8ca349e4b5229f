"""Development tasks; see CONTRIBUTING.md."""
