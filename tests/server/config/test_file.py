"""The configuration file, and the errors for mistakes in it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from metered_realtime.server.config.file import ConfigError, load_config, parse_config
from metered_realtime.server.limits import Limits

SECRET = "sk_secret_" + "s" * 40

FULL = f"""
[server]
host = "::"
port = 443
tls_cert = "cert.pem"
tls_key = "/etc/key.pem"
trusted_proxies = ["10.0.0.0/8", "::1"]
page_key = "pk_live_web"
public_page = true

[limits]
frames_per_second = 50
frame_burst = 100

[[ice_servers]]
urls = "stun:stun.example"

[turn]
urls = ["turn:turn.example"]
shared_secret = "hush"
lifetime = 60

[apps.shop]
name = "BIG"
max_concurrent_connections = 10
max_messages_per_period = 20
period = "day"
overages = true

[[publishable_keys]]
key = "pk_live_web"
app = "shop"
channel_patterns = ["room/*"]
actions = ["subscribe", "send"]
allowed_origins = ["https://app.example"]
origin_required = false
inject_ice_servers = false

[[publishable_keys]]
key = "pk_live_plain"

[[secret_keys]]
id = "sk_id_one"
secret = "{SECRET}"
app = "shop"
revoked = true
"""

PATH = Path("/etc/realtime/server.toml")


def test_is_read_into_what_the_server_is_made_of() -> None:
    config = parse_config(FULL, PATH)
    assert (config.host, config.port, config.public_page, config.page_key) == ("::", 443, True, "pk_live_web")
    assert (config.tls_cert, config.tls_key) == (Path("/etc/realtime/cert.pem"), Path("/etc/key.pem"))
    assert [str(network) for network in config.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert config.limits == Limits(frames_per_second=50, frame_burst=100)
    assert config.ice_servers == [{"urls": "stun:stun.example"}]
    assert config.turn is not None
    assert (config.turn.urls, config.turn.shared_secret, config.turn.lifetime) == (("turn:turn.example",), "hush", 60)


def test_puts_each_key_into_its_app() -> None:
    default, shop = parse_config(FULL, PATH).apps
    (plain,), (web,), (secret,) = default.publishable_keys, shop.publishable_keys, shop.secret_keys
    assert (default.id, shop.id, default.secret_keys) == ("default", "shop", ())
    assert plain.actions == {"publish", "subscribe", "presence"}
    assert (web.actions, web.channel_patterns) == ({"subscribe", "send"}, ("room/*",))
    assert (web.allowed_origins, web.origin_required, web.inject_ice_servers) == (
        ("https://app.example",),
        False,
        False,
    )
    assert (secret.id, secret.secret, secret.revoked) == ("sk_id_one", SECRET, True)
    assert (shop.plan.name, shop.plan.max_concurrent_connections, shop.plan.period) == ("BIG", 10, "day")
    assert (default.plan.max_concurrent_connections, default.plan.max_messages_per_period) == (None, None)


def test_names_the_redis_that_nodes_share_and_hides_its_password() -> None:
    config = parse_config('[cluster]\nredis = ["redis://:hush@a", "redis://b"]\nnode_id = "eu-1"', PATH)
    assert config.cluster is not None
    assert (config.cluster.redis, config.cluster.node_id) == (("redis://:hush@a", "redis://b"), "eu-1")
    assert "hush" not in repr(config)
    assert parse_config("", PATH).cluster is None


def test_may_be_empty() -> None:
    config = parse_config("", PATH)
    assert (config.host, config.port, config.limits, config.turn) == ("127.0.0.1", 7880, Limits(), None)
    assert [app.id for app in config.apps] == ["default"]


def test_shows_no_secret_in_its_repr() -> None:
    shown = repr(parse_config(FULL, PATH))
    for secret in (SECRET, "hush", "pk_live_web"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("colour = 1", "colour", "unknown"),
        ("[server]\nport = 70000", "server.port", "70000"),
        ('[server]\nport = "http"', "server.port", "'http'"),
        ("[server]\ncolour = 1", "server.colour", "1"),
        ('[server]\ntrusted_proxies = ["near"]', "server.trusted_proxies", "'near'"),
        ('[server]\ntrusted_proxies = ["::1", 7]', "server.trusted_proxies[1]", "7"),
        ('[server]\ntls_cert = "c.pem"', "server.tls_cert", "both or neither"),
        ('[server]\npage_key = "pk_live_gone"', "server.page_key", "publishable_keys"),
        ("server = 1", "server", "1"),
        ('[cluster]\nredis = "redis://:hush@a"', "cluster.redis", "what stands there"),
        ("[cluster]\nredis = []", "cluster", "at least one"),
        ('[cluster]\nnode_id = "a"', "cluster.redis", "missing"),
        ('[cluster]\nredis = ["redis://a"]\nnode_id = "a b"', "cluster", "'a b'"),
        ("limits = 1", "limits", "1"),
        ("[limits]\nframe_burst = 0", "limits.frame_burst", "0"),
        ("[limits]\nframe_bursts = 9", "limits.frame_bursts", "9"),
        ("[limits]\nframes_per_second = nan", "limits.frames_per_second", "nan"),
        ('[[ice_servers]]\nurls = "http://x"', "ice_servers[0]", "'http://x'"),
        ('[[ice_servers]]\nurl = "stun:x"', "ice_servers[0].url", "unknown"),
        ('[turn]\nurls = ["stun:x"]\nshared_secret = "s"', "turn", "'stun:x'"),
        ('[turn]\nurls = ["turn:x"]', "turn.shared_secret", "missing"),
        ('[turn]\nurls = ["turn:x"]\nshared_secret = "s"\nlifetime = 0', "turn", "0"),
        ('[apps.a]\nperiod = "year"', "apps.a.period", "'year'"),
        ("[apps.a]\nmax_messages_per_period = 0", "apps.a", "0"),
        ("apps = [1]", "apps", "[1]"),
        ("publishable_keys = 1", "publishable_keys", "int"),
        ('[[publishable_keys]]\nkey = "nonsense"', "publishable_keys[0]", "'nonsense'"),
        ('[[publishable_keys]]\nkey = "pk_live_a"\napp = "b"', "publishable_keys[0].app", "'b'"),
        ('[[publishable_keys]]\nkey = "pk_live_a"\nactions = ["fly"]', "publishable_keys[0].actions[0]", "'fly'"),
        ('[[publishable_keys]]\nkey = "pk_live_a"\nchannel_patterns = [""]', "publishable_keys[0]", "''"),
        (
            '[[publishable_keys]]\nkey = "pk_live_a"\nallowed_origins = ["app.example"]',
            "publishable_keys[0].allowed_origins[0]",
            "'app.example'",
        ),
        ('[[publishable_keys]]\nkey = "pk_live_a"\n' * 2, "", "twice"),
        ('[[secret_keys]]\nid = "sk_id_a"', "secret_keys[0].secret", "missing"),
        ('[[secret_keys]]\nid = "sk_id_a"\nsecret = "sk_secret_short"', "secret_keys[0]", "32"),
        ("[server", "", "(at end of document)"),
        ("[[ice_servers]]\nurls = 'stun:x'\n" * 17, "ice_servers", "17"),
    ],
)
def test_names_file_place_and_value_of_a_mistake(text: str, place: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, PATH)
    message = str(caught.value)
    assert message.startswith(f"{PATH}: {place}")
    assert value in message


@pytest.mark.parametrize(
    "text",
    [
        '[[secret_keys]]\nid = "sk_id_a"\nsecret = "hushhush"',
        '[[secret_keys]]\nid = "sk_id_a"\nsecret = ["hushhush"]',
        '[[secret_keys]]\nid = "sk_secret_hushhush"\nsecret = "sk_secret_hushhush"',
        '[[publishable_keys]]\nkey = "sk_secret_hushhush"',
        '[turn]\nurls = "turn:x"\nshared_secret = ["hushhush"]',
        '[[ice_servers]]\nurls = "turn:x"\ncredential = ["hushhush"]',
        '[[secret_keys]]\nid = 1\nsecret = "hushhush"',
        'secret_keys = ["hushhush"]',
        'turn = ["hushhush"]',
    ],
)
def test_never_shows_a_secret_in_a_message(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, PATH)
    assert "hushhush" not in str(caught.value)


def test_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load_config(tmp_path / "gone.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        load_config(tmp_path / "latin.toml")


class TestDocumentation:
    TEXT = (Path(__file__).parents[3] / "docs" / "server.md").read_text(encoding="utf-8")

    def test_the_documentation_shows_a_configuration_that_is_accepted(self) -> None:
        block = self.TEXT.split("```toml\n")[1].split("```")[0]
        for name in ("pk_live_", "sk_id_", "sk_secret_"):
            block = block.replace(f'"{name}…"', f'"{name}{"a" * 40}"')
        config = parse_config(block, PATH)
        assert config.limits == Limits()
        assert (config.apps[0].publishable_keys[0].actions, config.apps[1].id) == (
            {"publish", "subscribe", "presence"},
            "shop",
        )

    def test_the_documentation_names_every_limit_with_its_default(self) -> None:
        for field in fields(Limits):
            row = next(line for line in self.TEXT.splitlines() if line.startswith("| `") and f"`{field.name}`" in line)
            assert f"{getattr(Limits(), field.name):.0f}" in row.split("|")[2]
