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

SECRETS = ("redis", "secret", "shared_secret", "credential", "key", "page_key")
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
    """Address to listen on. `0.0.0.0` or `::` listens everywhere."""

    port: Port = DEFAULT_PORT
    """Port to listen on; 0 picks a free one."""

    tls_cert: str | None = None
    """Certificate chain in PEM format, for https and wss. Relative to the file."""

    tls_key: str | None = None
    """Private key of the certificate in PEM format, without a password. Relative to the file."""

    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For is trusted."""

    page_key: str | None = None
    """The publishable key for the room page, on loopback only. Without a file it is the key of the run."""

    public_page: bool = False
    """Give the publishable key to all visitors of the room page."""


class ClusterTable(_Table, frozen=True, kw_only=True):
    redis: tuple[str, ...]
    """URLs of the Redis servers that the nodes share, the same ones at every node. Channels are spread over them."""

    node_id: str | None = None
    """Name of this node in logs and metrics; a random one by default."""


class MetricsTable(_Table, frozen=True, kw_only=True):
    port: int | None = None
    """Port for `/metrics`, without credentials."""

    host: str = "127.0.0.1"
    """Address of that port. Who reaches it reads the metrics."""

    token: str | None = None
    """Serve `/metrics` at the port of the server too, to those with this token. At least 16 characters."""


class TelemetryTable(_Table, frozen=True, kw_only=True):
    traces: bool = False
    """Export traces with OpenTelemetry. Its own environment variables say where to: `OTEL_EXPORTER_OTLP_ENDPOINT`, …"""

    frame_ratio: float = 0.0
    """Share of publishes and sends that are traced, 0 to 1."""


class WebhooksTable(_Table, frozen=True, kw_only=True):
    url: str
    """URL of the backend that is told of peers and channels that come and go."""

    secret: str
    """Signs the requests: `whsec_` and base64, from `metered-realtime keys webhook-secret`."""


class IceServerTable(_Table, frozen=True, kw_only=True):
    urls: str | tuple[str, ...]
    """STUN or TURN URLs, one or a list, that every welcome contains."""

    username: str | None = None
    """Fixed user name, for TURN servers without a shared secret."""

    credential: str | None = None
    """Its password."""


class TurnTable(_Table, frozen=True, kw_only=True):
    urls: tuple[str, ...]
    """URLs of TURN servers that share a secret with the server."""

    shared_secret: str
    """That secret: `static-auth-secret` of coturn."""

    lifetime: int = DEFAULT_LIFETIME
    """Lifetime of credentials in seconds, which bounds a relayed call."""


class AppTable(_Table, frozen=True, kw_only=True):
    name: str | None = None
    """Name of the plan, for `GET /v1/usage`."""

    max_concurrent_connections: int | None = None
    """Maximum number of open connections; no limit by default."""

    max_messages_per_period: int | None = None
    """Maximum number of publishes and sends in a period; no limit by default."""

    period: Period = "month"
    """`month`, `day` or `hour`, of the calendar, in UTC."""

    overages: bool = False
    """Count use beyond the limits, but refuse nothing."""

    suspended: bool = False
    """Close all connections with 4012."""


class _KeyTable(_Table, frozen=True, kw_only=True):
    app: AppName = "default"
    """The app that the key belongs to."""

    channel_patterns: tuple[str, ...] = EVERYWHERE
    """Channels in scope, as names or patterns."""

    inject_ice_servers: bool = True
    """Send the ICE servers in the welcome."""

    revoked: bool = False
    """Refuse the key."""


class PublishableTable(_KeyTable, frozen=True, kw_only=True):
    key: str
    """The key, which is public."""

    actions: frozenset[Action] = DEFAULT_PUBLISHABLE_ACTIONS
    """What the key may do: of `publish`, `subscribe`, `presence` and `send`."""

    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may use the key; empty allows all."""

    origin_required: bool = True
    """With allowed origins: refuse clients that send none, such as programs."""


class SecretTable(_KeyTable, frozen=True, kw_only=True):
    id: str
    """The id of the key, which tokens name."""

    secret: str
    """The secret that signs tokens and authenticates REST requests. At least 32 characters."""

    actions: frozenset[Action] = ACTIONS
    """What the key may do: of `publish`, `subscribe`, `presence` and `send`."""


TABLE_TYPES: dict[str, type[_Table]] = {
    "server": ServerTable,
    "cluster": ClusterTable,
    "metrics": MetricsTable,
    "telemetry": TelemetryTable,
    "ice_servers": IceServerTable,
    "turn": TurnTable,
    "webhooks": WebhooksTable,
    "apps": AppTable,
    "publishable_keys": PublishableTable,
    "secret_keys": SecretTable,
}
"""The tables of the file, except `limits`, whose fields are those of `Limits`."""

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
