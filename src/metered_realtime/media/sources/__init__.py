"""Tracks from files, devices, programs and patterns."""
