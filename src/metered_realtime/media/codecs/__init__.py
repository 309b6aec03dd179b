"""Encoders, coded frames, pictures and samples."""
