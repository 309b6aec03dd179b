"""Calls: messages and their pieces, the calling end and the serving end."""
