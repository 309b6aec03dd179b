"""Connections whose program carries the descriptions: for media servers, SFUs and whatever has no channel."""
