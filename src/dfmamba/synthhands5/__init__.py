"""SynthHands-5: a benchmark of backbones that needs no licence (docs/synthhands5.md)."""
