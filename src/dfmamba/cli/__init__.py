"""The `dfmamba` command."""
