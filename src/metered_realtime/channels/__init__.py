"""Data channels, plain and managed."""
