"""Byte streams over data channels."""
