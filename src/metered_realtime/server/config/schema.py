"""The tables of the configuration file, and their validation."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..keys import DEFAULT_PUBLISHABLE_ACTIONS, EVERYWHERE
from ..plan import Period
from ..rights import ACTIONS, Action
from ..turn import DEFAULT_LIFETIME

DEFAULT_PORT = 7880

SECRETS = ("secret", "shared_secret", "credential", "key", "page_key")
"""Fields whose values are not shown in messages."""

Port = Annotated[int, Meta(ge=0, le=65_535)]
AppName = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]

_FAULT = re.compile(r"^(?P<text>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"field `(?P<name>[^`]*)`")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of tables, which refuse unknown fields."""


class ServerTable(_Table, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: Port = DEFAULT_PORT
    tls_cert: str | None = None
    tls_key: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    page_key: str | None = None
    public_page: bool = False


class MetricsTable(_Table, frozen=True, kw_only=True):
    port: int | None = None
    host: str = "127.0.0.1"
    token: str | None = None


class WebhooksTable(_Table, frozen=True, kw_only=True):
    url: str
    secret: str


class TurnTable(_Table, frozen=True, kw_only=True):
    urls: tuple[str, ...]
    shared_secret: str
    lifetime: int = DEFAULT_LIFETIME


class AppTable(_Table, frozen=True, kw_only=True):
    name: str | None = None
    max_concurrent_connections: int | None = None
    max_messages_per_period: int | None = None
    period: Period = "month"
    overages: bool = False
    suspended: bool = False


class _KeyTable(_Table, frozen=True, kw_only=True):
    app: AppName = "default"
    channel_patterns: tuple[str, ...] = EVERYWHERE
    inject_ice_servers: bool = True
    revoked: bool = False


class PublishableTable(_KeyTable, frozen=True, kw_only=True):
    key: str
    actions: frozenset[Action] = DEFAULT_PUBLISHABLE_ACTIONS
    allowed_origins: tuple[str, ...] = ()
    origin_required: bool = True


class SecretTable(_KeyTable, frozen=True, kw_only=True):
    id: str
    secret: str
    actions: frozenset[Action] = ACTIONS


KeyKind = Literal["publishable", "secret"]

T = TypeVar("T", bound=_Table)


def read_table(raw: Any, kind: type[T], place: str) -> T:
    """Return a validated table.

    Raises:
        ValueError: the message begins with the key path, and ends with the invalid value unless it is secret.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_describe(str(error), raw, place)) from None


def _describe(fault: str, raw: Any, place: str) -> str:
    match = _FAULT.match(fault)
    text, path = (match["text"], match["path"] or "") if match else (fault, "")
    named = _FIELD.search(text)
    if named is not None and isinstance(raw, dict):
        path += f".{named['name']}"
    found, value = _look_up(raw, path)
    shown = f", not {_shown(path, value)}" if found and repr(value) not in text else ""
    return f"{place}{path}: {text}{shown}"


def _look_up(raw: Any, path: str) -> tuple[bool, Any]:
    value = raw
    for name, index in _STEP.findall(path):
        try:
            value = value[int(index)] if index else value[name]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, value


def _shown(path: str, value: Any) -> str:
    # A value in the place of a whole table may contain secrets anywhere.
    if path.rpartition(".")[2] in SECRETS or (not path and not isinstance(value, int | float)):
        return "what stands there"
    return repr(value)
