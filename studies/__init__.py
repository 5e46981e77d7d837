"""Studies with this package: not part of it, run from the repository."""
