"""Decisions without I/O: no asyncio, no sockets, no clock (time is an argument), no chance."""
