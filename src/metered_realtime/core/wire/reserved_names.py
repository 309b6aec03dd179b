"""Names that Windows keeps for devices, whatever extension they have."""

from __future__ import annotations

_DIGITS = "123456789¹²³"
"""Windows also reads the superscript digits of Latin-1 as digits of a port."""

_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(port + it for port in ("COM", "LPT") for it in _DIGITS)}


def is_reserved(name: str) -> bool:
    """Return whether a file of this name would be a device."""
    return name.partition(".")[0].rstrip().upper() in _RESERVED
