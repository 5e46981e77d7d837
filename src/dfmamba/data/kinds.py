"""Kinds of pictures."""

SYNTHETIC_KINDS = ("single", "two", "object", "ego", "depth", "sign")
"""Scenes that `dfmamba.synth` renders. Shards hold places in this: add new ones at the end."""

KINDS = (*SYNTHETIC_KINDS, "real")

VALIDATION_SEED = 990_001
"""Seed of the rendered images that models are measured on; training has others."""
