"""Byte streams and file transfers that share one managed channel."""
