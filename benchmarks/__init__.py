"""Measurements, each beside a baseline in the same run. See README.md for what they printed last."""
