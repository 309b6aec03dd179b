"""Sending: one encoder for many receivers, and packets passed on without encoding."""
