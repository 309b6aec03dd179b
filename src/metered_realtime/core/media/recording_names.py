"""File names of a recording, made safe: foreign peers choose their ids."""

from __future__ import annotations

import re
from datetime import datetime

from ..wire.reserved_names import is_reserved

FIELDS = ("peer", "start")
"""The fields of a template: a participant's id, and the local time at which its recording began."""

MAX_LENGTH = 100
"""Characters of an id in a name at most: file systems allow 255 bytes for the whole name."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile(r"^-|[^A-Za-z0-9_-]+")


def check_template(template: str) -> None:
    """Raise ValueError if a template has an unknown field."""
    unknown = [name for name in _FIELD.findall(template) if name not in FIELDS]
    if unknown:
        raise ValueError(f"a recording's name may have {{peer}} and {{start}}, not {{{unknown[0]}}}")


def is_per_participant(template: str) -> bool:
    """Return whether each participant gets a file of its own."""
    return "{peer}" in template


def file_name(template: str, peer: str, start: datetime) -> str:
    """Return the file name for a participant.

    It stays in its directory, needs no quoting, and is neither hidden, an option of a command nor a Windows device.
    """
    values = {"peer": _UNSAFE.sub("_", peer)[:MAX_LENGTH] or "_", "start": start.strftime("%Y%m%dT%H%M%S")}
    name = _FIELD.sub(lambda match: values[match[1]], template)
    return f"_{name}" if is_reserved(name) else name


def numbered(name: str, number: int) -> str:
    """Return the name of file `number` of several, counted from 1. The first keeps the name as it is."""
    if number == 1:
        return name
    stem, dot, extension = name.rpartition(".")
    return f"{stem}.{number}{dot}{extension}"
