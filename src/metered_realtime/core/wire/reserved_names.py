"""File names that Windows reserves for devices, with any extension."""

from __future__ import annotations

_DIGITS = "123456789¹²³"
"""Windows also accepts the superscript digits of Latin-1 as port numbers."""

_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(port + it for port in ("COM", "LPT") for it in _DIGITS)}


def is_reserved(name: str) -> bool:
    """Return whether a file name is reserved for a device."""
    return name.partition(".")[0].rstrip().upper() in _RESERVED
