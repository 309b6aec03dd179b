"""Names of the files of a recording, made safe from the ids that foreign peers choose."""

from __future__ import annotations

import re
from datetime import datetime

from ..wire.reserved_names import is_reserved

FIELDS = ("peer", "start")
"""What a template may name: a participant's id, and when it began to be recorded."""

MAX_LENGTH = 100
"""Characters of a name that come from outside: file systems end at 255 bytes, and there is more in the name."""

_FIELD = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile(r"^-|[^A-Za-z0-9_-]+")


def check_template(template: str) -> None:
    """Raise ValueError if a template names what does not exist."""
    unknown = [name for name in _FIELD.findall(template) if name not in FIELDS]
    if unknown:
        raise ValueError(f"a recording's name may have {{peer}} and {{start}}, not {{{unknown[0]}}}")


def is_per_participant(template: str) -> bool:
    """Tell whether each participant gets a file."""
    return "{peer}" in template


def file_name(template: str, peer: str, start: datetime) -> str:
    """Return the name for a participant: nothing in it leads to another directory, is hidden, needs quoting,
    looks like an option of a command or is a device of Windows."""
    values = {"peer": _UNSAFE.sub("_", peer)[:MAX_LENGTH] or "_", "start": start.strftime("%Y%m%dT%H%M%S")}
    name = _FIELD.sub(lambda match: values[match[1]], template)
    return f"_{name}" if is_reserved(name) else name


def numbered(name: str, number: int) -> str:
    """Return the name of the file number `number` of several, the first of which keeps the name."""
    if number == 1:
        return name
    stem, dot, extension = name.rpartition(".")
    return f"{stem}.{number}{dot}{extension}"
