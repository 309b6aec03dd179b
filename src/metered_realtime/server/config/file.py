"""Reads the configuration file, in TOML, into the objects that the server uses.

Error messages name the file, the key path and the fault, and do not contain secrets.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ...core.wire.names import channel_fault
from ..engine.choice import Cluster
from ..ice import MAX_ICE_SERVERS, ice_server_list
from ..keys import App, Keyring, PublishableKey, SecretKey
from ..limits import Limits
from ..listening.proxies import Network, networks
from ..metrics.endpoint import MetricsOptions
from ..plan import Plan
from ..telemetry.options import TelemetryOptions
from ..turn import TurnServer
from ..webhooks.sender import Webhooks
from .schema import (
    TABLE_TYPES,
    AppTable,
    ClusterTable,
    IceServerTable,
    MetricsTable,
    PublishableTable,
    SecretTable,
    ServerTable,
    TelemetryTable,
    TurnTable,
    WebhooksTable,
    read_table,
)

DEFAULT_APP = "default"
"""The app of keys without an `app`."""

TABLES = (*TABLE_TYPES, "limits")

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration is invalid. The message names the file, the key path and the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A valid configuration."""

    path: Path
    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    trusted_proxies: tuple[Network, ...]
    page_key: str | None = field(repr=False)
    public_page: bool
    limits: Limits
    ice_servers: list[dict[str, Any]] = field(repr=False)
    turn: TurnServer | None
    apps: tuple[App, ...]
    metrics: MetricsOptions | None
    webhooks: Webhooks | None
    telemetry: TelemetryOptions | None
    cluster: Cluster | None = None


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file cannot be read, or is invalid.
    """
    return parse_config(read_config_text(path), path)


def read_config_text(path: Path) -> str:
    """Return the text of a configuration file, with its original line ends.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def parse_config(text: str, path: Path) -> Config:
    """Check the text of a configuration file.

    Raises:
        ConfigError: the configuration is invalid.
    """
    try:
        return _read(tomllib.loads(text), path)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # TOMLDecodeError names line and column
        raise ConfigError(f"{path}: {error}") from None


def _read(raw: dict[str, Any], path: Path) -> Config:
    for name in raw:
        if name not in TABLES:
            raise ValueError(f"{name}: unknown; there are {', '.join(TABLES)}")
    server = read_table(raw.get("server", {}), ServerTable, "server")
    if (server.tls_cert is None) != (server.tls_key is None):
        raise ValueError("server.tls_cert and server.tls_key go together: give both or neither")
    config = Config(
        path=path,
        host=server.host,
        port=server.port,
        tls_cert=_file(server.tls_cert, path),
        tls_key=_file(server.tls_key, path),
        trusted_proxies=_at("server.trusted_proxies", lambda: networks(server.trusted_proxies)),
        page_key=server.page_key,
        public_page=server.public_page,
        limits=_limits(raw.get("limits", {})),
        ice_servers=[_ice_server(table, place) for table, place in _entries(raw, "ice_servers")],
        turn=_turn(raw["turn"]) if "turn" in raw else None,
        apps=_apps(raw),
        metrics=_metrics(raw["metrics"]) if "metrics" in raw else None,
        webhooks=_webhooks(raw["webhooks"]) if "webhooks" in raw else None,
        telemetry=_telemetry(raw.get("telemetry", {})),
        cluster=_cluster(raw["cluster"]) if "cluster" in raw else None,
    )
    _check_whole(config)
    return config


def _check_whole(config: Config) -> None:
    keyring = Keyring(config.apps)
    count = len(config.ice_servers) + (config.turn is not None)
    if count > MAX_ICE_SERVERS:
        raise ValueError(f"ice_servers: at most {MAX_ICE_SERVERS}, turn included, not {count}")
    if config.page_key is not None and keyring.publishable(config.page_key) is None:
        raise ValueError("server.page_key: not one of publishable_keys, or revoked")


def _file(name: str | None, path: Path) -> Path | None:
    return None if name is None else path.parent / name


def _cluster(table: Any) -> Cluster:
    given = read_table(table, ClusterTable, "cluster")
    return _at("cluster", lambda: Cluster(redis=given.redis, node_id=given.node_id))


def _metrics(table: Any) -> MetricsOptions:
    given = read_table(table, MetricsTable, "metrics")
    return _at("metrics", lambda: MetricsOptions(port=given.port, host=given.host, token=given.token))


def _telemetry(table: Any) -> TelemetryOptions | None:
    given = read_table(table, TelemetryTable, "telemetry")
    return _at("telemetry", lambda: TelemetryOptions(frame_ratio=given.frame_ratio)) if given.traces else None


def _webhooks(table: Any) -> Webhooks:
    given = read_table(table, WebhooksTable, "webhooks")
    return _at("webhooks", lambda: Webhooks(given.url, given.secret))


def _limits(table: Any) -> Limits:
    known = {limit.name for limit in fields(Limits)}
    if not isinstance(table, dict):
        raise ValueError(f"limits: must be a table, not {table!r}")
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"limits.{name}: unknown, with the value {value!r}")
    try:
        return Limits(**table)
    except ValueError as error:
        name = str(error).partition(" ")[0]
        raise ValueError(f"limits.{name}: {error}" if name in table else f"limits: {error}") from None


def _ice_server(table: Any, place: str) -> dict[str, Any]:
    if isinstance(table, dict):
        for name in table:
            if name not in IceServerTable.__struct_fields__:
                raise ValueError(f"{place}.{name}: unknown; there are {', '.join(IceServerTable.__struct_fields__)}")
    return _at(place, lambda: ice_server_list([table])[0])


def _turn(raw: Any) -> TurnServer:
    table = read_table(raw, TurnTable, "turn")
    return _at(
        "turn",
        lambda: TurnServer(urls=table.urls, shared_secret=table.shared_secret, lifetime=table.lifetime),
    )


def _apps(raw: dict[str, Any]) -> tuple[App, ...]:
    declared = raw.get("apps", {})
    if not isinstance(declared, dict):
        raise ValueError(f"apps: must be a table of tables, [apps.NAME], not {declared!r}")
    tables = {DEFAULT_APP: AppTable()}
    tables |= {name: read_table(table, AppTable, f"apps.{name}") for name, table in declared.items()}
    publishable: dict[str, list[PublishableKey]] = {name: [] for name in tables}
    secret: dict[str, list[SecretKey]] = {name: [] for name in tables}
    for table, place in _entries(raw, "publishable_keys"):
        owner, publishable_key = _publishable(table, place)
        _of(owner, publishable, place).append(publishable_key)
    for table, place in _entries(raw, "secret_keys"):
        owner, secret_key = _secret(table, place)
        _of(owner, secret, place).append(secret_key)
    return tuple(_app(name, table, publishable[name], secret[name]) for name, table in tables.items())


def _app(name: str, table: AppTable, publishable: list[PublishableKey], secret: list[SecretKey]) -> App:
    plan = _at(f"apps.{name}", lambda: Plan(**{field.name: getattr(table, field.name) for field in fields(Plan)}))
    return _at(f"apps.{name}", lambda: App(name, tuple(publishable), tuple(secret), plan, table.suspended))


def _of(owner: str, keys: dict[str, list[T]], place: str) -> list[T]:
    if owner not in keys:
        raise ValueError(f"{place}.app: there is no [apps.{owner}] for {owner!r}")
    return keys[owner]


def _publishable(raw: Any, place: str) -> tuple[str, PublishableKey]:
    table = read_table(raw, PublishableTable, place)
    for index, origin in enumerate(table.allowed_origins):
        _check_origin(origin, f"{place}.allowed_origins[{index}]")
    key = _at(
        place,
        lambda: PublishableKey(
            key=_shown(table.key),
            channel_patterns=_patterns(table.channel_patterns),
            actions=table.actions,
            allowed_origins=table.allowed_origins,
            origin_required=table.origin_required,
            inject_ice_servers=table.inject_ice_servers,
            revoked=table.revoked,
        ),
    )
    return table.app, key


def _secret(raw: Any, place: str) -> tuple[str, SecretKey]:
    table = read_table(raw, SecretTable, place)
    key = _at(
        place,
        lambda: SecretKey(
            id=_shown(table.id),
            secret=table.secret,
            channel_patterns=_patterns(table.channel_patterns),
            actions=table.actions,
            inject_ice_servers=table.inject_ice_servers,
            revoked=table.revoked,
        ),
    )
    return table.app, key


def _shown(identifier: str) -> str:
    # Messages about ids and publishable keys show them, but not a secret that was put there by mistake.
    if "sk_secret_" in identifier:
        raise ValueError("a secret stands where an id or a publishable key belongs")
    return identifier


def _patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        fault = channel_fault(pattern)
        if fault is not None:
            raise ValueError(f"channel_patterns has {pattern!r}, which is no channel name or pattern ({fault})")
    return patterns


def _check_origin(origin: str, place: str) -> None:
    try:
        parts = urlsplit(origin)
        bare = bool(parts.scheme and parts.hostname) and (parts.path, parts.query, parts.fragment) == ("", "", "")
    except ValueError:
        bare = False
    if not bare:
        raise ValueError(f"{place}: must be an origin such as 'https://app.example', not {origin!r}")


def _entries(raw: dict[str, Any], name: str) -> list[tuple[Any, str]]:
    entries = raw.get(name, [])
    if not isinstance(entries, list):
        raise ValueError(f"{name}: must be an array, not {type(entries).__name__}")
    return [(entry, f"{name}[{index}]") for index, entry in enumerate(entries)]


def _at(place: str, make: Callable[[], T]) -> T:
    """Return the result of `make`, with the key path added to its ValueError."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
