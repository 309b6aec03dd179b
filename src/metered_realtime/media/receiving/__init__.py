"""Tracks of a remote: packets, decoding on demand, and bounded readers."""
