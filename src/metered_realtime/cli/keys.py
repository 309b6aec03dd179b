"""The commands for keys and tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from ..server import mint_token, new_webhook_secret
from ..server.config.file import DEFAULT_APP, ConfigError, load_config
from ..server.config.keyfile import create_key, revoke_key
from ..server.config.schema import KeyKind
from ..server.keys import (
    DEFAULT_PUBLISHABLE_ACTIONS,
    PublishableKey,
    SecretKey,
    new_publishable_key,
    new_secret_pair,
)
from ..server.rights import ACTIONS

ACTIONS_FOR = {"calls": ACTIONS, "messages": DEFAULT_PUBLISHABLE_ACTIONS}

CANNOT_CALL = """\
Note: this key is for publish/subscribe and presence alone. Peers that use it cannot call each other: audio, video and
data between them need the action "send", which lets the key address every peer of the app. To grant it, use
--for calls. To omit this note, use --for messages."""

T = TypeVar("T")

keys_app = typer.Typer(help="Create keys, and manage those in a configuration file.", rich_markup_mode=None)

ConfigFile = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration file.")]
SecretId = Annotated[str | None, typer.Option("--secret-id", envvar="METERED_SECRET_ID", help="Id of a secret key.")]
Secret = Annotated[
    str | None, typer.Option("--secret", envvar="METERED_SECRET", help="The secret itself; better in the environment.")
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(keys_app, name="keys")
    app.command()(mint)


def checked(make: Callable[[], Any]) -> Any:
    """Return the result of `make`. A ValueError ends the program with exit code 2."""
    try:
        return make()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@keys_app.callback(invoke_without_command=True)
def _keys(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        _print_new_keys()


@keys_app.command("webhook-secret")
def _new_webhook_secret() -> None:
    """Print a new secret that signs webhooks."""
    print(new_webhook_secret())


@keys_app.command("new")
def _new_keys() -> None:
    """Print a new publishable key and a new secret pair, as lines for an environment file."""
    _print_new_keys()


@keys_app.command("create")
def _create_key(
    config: ConfigFile,
    kind: Annotated[KeyKind, typer.Option(help="publishable for clients, secret for backends.")],
    app_id: Annotated[str, typer.Option("--app", help="The app that the key belongs to.")] = DEFAULT_APP,
    pattern: Annotated[list[str] | None, typer.Option(help="Channels in scope, all by default; repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="publish, subscribe, presence or send; repeatable.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Origin of web pages to admit; repeatable.")] = None,
    purpose: Annotated[
        Literal["calls", "messages"] | None,
        typer.Option(
            "--for",
            help="Instead of --action. calls: all actions, for audio, video and data between peers. "
            "messages: all actions except send, the default of publishable keys.",
        ),
    ] = None,
) -> None:
    """Append a new key to a configuration file, and print it. Its secret is not shown again.

    A publishable key is for calls only with --for calls: they need the action send, which a public key gets on request
    only.
    """
    if action and purpose:
        raise typer.BadParameter("--for and --action say the same: give one of them")
    actions = sorted(ACTIONS_FOR[purpose]) if purpose else action or ()
    credentials = _checked_file(
        lambda: create_key(config, kind, app=app_id, patterns=pattern or (), actions=actions, origins=origin or ())
    )
    for name, value in credentials.items():
        typer.echo(f"{name} = {value}")
    if kind == "publishable" and not actions:
        typer.echo(CANNOT_CALL, err=True)


@keys_app.command("list")
def _list_keys(config: ConfigFile) -> None:
    """List the keys of a configuration file, without secrets."""
    for known in _checked_file(lambda: load_config(config)).apps:
        for publishable in known.publishable_keys:
            _print_key(known.id, "publishable", publishable.key, publishable)
        for secret in known.secret_keys:
            _print_key(known.id, "secret", secret.id, secret)


@keys_app.command("revoke")
def _revoke_key(
    config: ConfigFile, key: Annotated[str, typer.Argument(help="A publishable key, or the id of a secret key.")]
) -> None:
    """Mark a key as revoked in a configuration file. A running server applies it on SIGHUP."""
    _checked_file(lambda: revoke_key(config, key))


def _print_key(app_id: str, kind: str, name: str, key: PublishableKey | SecretKey) -> None:
    row = (app_id, kind, name, ",".join(key.channel_patterns), ",".join(sorted(key.actions)))
    typer.echo("\t".join((*row, "revoked" if key.revoked else "active")))


def _print_new_keys() -> None:
    secret_id, secret = new_secret_pair()
    for name, value in (("API_KEY", new_publishable_key()), ("SECRET_ID", secret_id), ("SECRET", secret)):
        typer.echo(f"METERED_{name}={value}")


def mint(
    peer_id: Annotated[str, typer.Argument(help="The id of the peer.")],
    secret_id: SecretId = None,
    secret: Secret = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel or pattern that the token is limited to; repeatable.")
    ] = None,
    permission: Annotated[
        list[str] | None, typer.Option(help="publish, subscribe, presence or send; repeatable.")
    ] = None,
    expires_in: Annotated[int, typer.Option(help="Seconds until the token expires.")] = 3600,
    metadata: Annotated[str | None, typer.Option(help="JSON object for the peer only.")] = None,
    peer_metadata: Annotated[str | None, typer.Option(help="JSON object that other peers see.")] = None,
) -> None:
    """Print a token for a peer, signed with a secret key."""
    if secret_id is None or secret is None:
        raise typer.BadParameter("a secret key is needed: set METERED_SECRET_ID and METERED_SECRET")
    typer.echo(
        checked(
            lambda: mint_token(
                secret_id=secret_id,
                secret=secret,
                peer_id=peer_id,
                channels=channel,
                permissions=permission,
                expires_in=expires_in,
                metadata=_json_object("metadata", metadata),
                peer_metadata=_json_object("peer_metadata", peer_metadata),
            )
        )
    )


def _checked_file(make: Callable[[], T]) -> T:
    """Return the result of `make`. An unusable file ends the program with exit code 1."""
    try:
        return make()
    except (ConfigError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None


def _json_object(name: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {text!r} ({error})") from None
