"""Adds and revokes keys in a configuration file, as text edits that leave the rest of the file unchanged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..keys import new_publishable_key, new_secret_pair
from .file import DEFAULT_APP, Config, ConfigError, parse_config, read_config_text
from .schema import KeyKind

NEW_FILE_MODE = 0o600
"""Owner only: the file contains secrets."""

_BARE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REVOKED_LINE = re.compile(r"^\s*revoked\s*=")
_TABLES: dict[KeyKind, str] = {"publishable": "publishable_keys", "secret": "secret_keys"}


def create_key(
    path: Path,
    kind: KeyKind,
    *,
    app: str = DEFAULT_APP,
    patterns: Iterable[str] = (),
    actions: Iterable[str] = (),
    origins: Iterable[str] = (),
) -> dict[str, str]:
    """Append a new key to a configuration file, creating it if needed. Return the fields with its credentials.

    Empty patterns and actions mean the defaults. An unknown app is added to the file.

    Raises:
        ConfigError: the file is invalid, or would be with the new key. It is not changed.
    """
    text = read_config_text(path) if path.exists() else ""
    before = parse_config(text, path)
    credentials = _new_credentials(kind)
    fields: dict[str, Any] = {**credentials, "app": app}
    for name, values in (("channel_patterns", patterns), ("actions", actions), ("allowed_origins", origins)):
        if listed := list(values):
            fields[name] = listed
    head = _app_table(app) if app not in {known.id for known in before.apps} else ""
    separator = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    changed = f"{text}{separator}{head}[[{_TABLES[kind]}]]\n{_lines(fields)}"
    parse_config(changed, path)
    _write(path, changed)
    return credentials


def revoke_key(path: Path, key: str) -> None:
    """Mark a key as revoked, given the publishable key or the id of the secret key.

    Raises:
        ConfigError: the file is invalid, has no such key, or is written in a way that cannot be edited as text.
    """
    text = read_config_text(path)
    config = parse_config(text, path)
    table, index = _find(tomllib.loads(text), key, config)
    changed = _with_revoked(text.splitlines(keepends=True), table, index)
    expected = tomllib.loads(text)
    expected[table][index]["revoked"] = True
    if changed is None or _parsed(changed) != expected:
        raise ConfigError(f"{path}: {table}[{index}]: write `revoked = true` there by hand")
    _write(path, changed)


def _new_credentials(kind: KeyKind) -> dict[str, str]:
    if kind == "publishable":
        return {"key": new_publishable_key()}
    key_id, secret = new_secret_pair()
    return {"id": key_id, "secret": secret}


def _app_table(app: str) -> str:
    if not _BARE_NAME.fullmatch(app):
        raise ConfigError(f"an app is named by 1 to 64 letters, digits, - or _, not {app!r}")
    return f"[apps.{app}]\n\n"


def _lines(fields: dict[str, Any]) -> str:
    # JSON strings without escaped letters, and arrays of them, are valid TOML.
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())


def _find(raw: dict[str, Any], key: str, config: Config) -> tuple[str, int]:
    for table, name in (("publishable_keys", "key"), ("secret_keys", "id")):
        for index, entry in enumerate(raw.get(table, [])):
            if entry[name] == key:
                return table, index
    raise ConfigError(f"{config.path}: there is no key {key if not key.startswith('sk_secret_') else 'of that id'!r}")


def _with_revoked(lines: list[str], table: str, index: int) -> str | None:
    header = re.compile(rf"^\s*\[\[\s*{table}\s*\]\]\s*(#.*)?$")
    starts = [number for number, line in enumerate(lines) if header.match(line)]
    if index >= len(starts):
        return None
    start = starts[index] + 1
    end = next((number for number in range(start, len(lines)) if lines[number].lstrip().startswith("[")), len(lines))
    kept = [line for line in lines[start:end] if not _REVOKED_LINE.match(line)]
    head = lines[start - 1] if lines[start - 1].endswith("\n") else lines[start - 1] + "\n"
    return "".join([*lines[: start - 1], head, "revoked = true\n", *kept, *lines[end:]])


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _write(path: Path, text: str) -> None:
    """Replace the file atomically: a reader sees either the old text or the new one."""
    target = path.resolve()
    before = target.stat() if target.exists() else None
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        if before is not None and hasattr(os, "chown"):
            # Root keeps the file's owner, the account of the server. Other users can only own what they write.
            with contextlib.suppress(PermissionError):
                os.chown(temporary, before.st_uid, before.st_gid)
        os.chmod(temporary, NEW_FILE_MODE if before is None else before.st_mode & 0o777)
        os.replace(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
