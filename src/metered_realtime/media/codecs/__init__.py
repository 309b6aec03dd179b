"""Encoders, encoded frames, and conversion of pictures and sound."""
