"""SynthHands-5: a benchmark of backbones that needs no licence (studies/synthhands5/README.md)."""
