"""Managed data channels: frames, replay after a lost connection, and messages put together again."""
