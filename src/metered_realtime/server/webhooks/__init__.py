"""Webhooks: the presence in channels, told to a backend."""
