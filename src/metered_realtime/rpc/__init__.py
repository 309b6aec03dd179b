"""Calls between peers: errors that arrive as what they were raised as, the wire formats, the methods of a program."""
