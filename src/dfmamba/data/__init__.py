"""Data sets, all read as `dfmamba.data.sample.HandSample`."""
