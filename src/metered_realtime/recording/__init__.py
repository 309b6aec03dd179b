"""Recordings of peers, channels and participants."""
