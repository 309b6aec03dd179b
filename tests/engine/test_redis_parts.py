"""The small parts of a `RedisEngine`: URLs, names, what scripts make and reply, and the scripts' texts."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from metered_realtime.server.engine.contract import Envelope, Member
from metered_realtime.server.engine.redis.engine import RedisEngine
from metered_realtime.server.engine.redis.items import pack, pack_envelope, parse_item, unpack, unpack_envelope
from metered_realtime.server.engine.redis.keys import Keys, ScopeId, run_of
from metered_realtime.server.engine.redis.replies import digest_key, read_missed
from metered_realtime.server.engine.redis.scripts import script
from metered_realtime.server.engine.redis.stats import ROUND_TRIP_BOUNDS, EngineStats
from metered_realtime.server.engine.redis.timings import RedisTimings
from metered_realtime.server.engine.redis.urls import choose, parse_redis_url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://cache.example", "cache.example:6379/0"),
        ("redis://:pa%40ss@cache.example:7000/3", "cache.example:7000/3"),
        ("rediss://user:secret@cache.example?db=2", "cache.example:6379/2"),
        ("unix:///run/redis.sock?db=1", "unix:/run/redis.sock/1"),
        ("redis+sentinel://user:secret@a,b:27000/main?db=4&sentinel_password=hidden", "sentinel:main/4"),
    ],
)
def test_a_url_has_a_name_without_credentials(url: str, name: str) -> None:
    parsed = parse_redis_url(url)
    assert parsed.name == name
    for secret in ("secret", "hidden", "pa%40ss", "pa@ss", "user"):
        assert secret not in repr(parsed)
        assert secret not in repr(RedisEngine([url]))


def test_sentinels_have_ports_and_options_of_their_own() -> None:
    parsed = parse_redis_url("rediss+sentinel://u:p%2F1@a,b:27000/main?sentinel_password=hidden")
    assert parsed.sentinels == (("a", 26379), ("b", 27000))
    assert parsed.options == {"db": 0, "username": "u", "password": "p/1", "ssl": True}
    assert parsed.sentinel_options == {"password": "hidden", "ssl": True}


@pytest.mark.parametrize(
    "url",
    [
        "http://secret@host",
        "secret",
        "redis://",
        "redis://host:secret",
        "redis://host/secret",
        "redis+sentinel://host",
        "redis+sentinel://host/main?secret=1",
        "redis+sentinel://host/main?db=secret",
    ],
)
def test_what_cannot_be_read_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        parse_redis_url(url)
    assert "secret" not in str(caught.value)


def test_an_engine_needs_different_databases_and_a_plain_namespace() -> None:
    for urls in ([], ["redis://a", "redis://user:x@a:6379/0"]):
        with pytest.raises(ValueError, match="another database"):
            RedisEngine(urls)
    with pytest.raises(ValueError, match="namespace"):
        RedisEngine(["redis://a"], namespace="{x}")


@pytest.mark.parametrize("change", [{"beat": 0}, {"node": 4.0}, {"expiry": 50.0}])
def test_times_that_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        RedisTimings(**change)


def test_keys_spread_over_shards_and_stay_when_one_is_added() -> None:
    names, more = ["a:1/0", "b:1/0", "c:1/0"], ["d:1/0", "c:1/0", "b:1/0", "a:1/0"]
    keys = [f"c:app/{number}" for number in range(3_000)]
    before = [names[choose(names, key)] for key in keys]
    after = [more[choose(more, key)] for key in keys]
    assert min(Counter(before).values()) > 800
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"d:1/0"}
    assert 600 < len(moved) < 900


def test_apps_and_names_make_keys_that_differ() -> None:
    keys = Keys("ns")
    scopes = [ScopeId("c", app, name) for app, name in (("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "c"))]
    assert len({keys.of_scope(scope) for scope in scopes}) == len({scope.label for scope in scopes}) == len(scopes)
    assert all(key.startswith("ns:{c:a/x}:") for key in keys.of_scope(ScopeId("c", "a", "x")))
    assert len(keys.of_scope(ScopeId("p", "a", "x"))) == 4


def test_globs_match_their_prefix_literally() -> None:
    assert Keys("ns").glob("a", "x*[?]\\^-") == r"ns:c:a/x\*\[\?\]\\\^\-*"


def test_the_name_of_a_run_is_in_all_its_names() -> None:
    assert run_of("host~1~abc~def") == "host~1~abc"


@given(st.lists(st.binary(max_size=50)))
def test_lists_of_strings_survive(parts: list[bytes]) -> None:
    assert unpack(pack(parts)) == parts


@given(st.binary(max_size=60))
def test_what_others_send_is_read_or_refused(raw: bytes) -> None:
    head = b"a\0room\0e\0" + b"1\0001\0n\0009\0"
    for text in (raw, b"m\0" + head + raw, b"p\0" + head + raw, b"r\0" + head + raw):
        with suppress(ValueError):
            parse_item(text)


def test_an_envelope_survives() -> None:
    for metadata in (None, Raw(b"null")):
        found = unpack_envelope(pack_envelope(Envelope("ä\x01", Raw(b'"\xc3\xa4"'), metadata)))
        assert (found.sender, bytes(found.data)) == ("ä\x01", b'"\xc3\xa4"')
        assert found.metadata is metadata or (found.metadata is not None and bytes(found.metadata) == b"null")


def test_presence_is_read_from_an_item() -> None:
    tail = pack((b"1", b"ann", b'{"a":1}', b"bob", b"1", b"eve", b""))
    content = parse_item(b"p\0app\0room\0e\0" + b"7\0003\0n\0009\0" + tail).content
    assert isinstance(content, tuple)
    joined, left = content
    assert [member.peer_id for member in joined if isinstance(member, Member)] == ["ann"]
    assert left == (Member("bob", expelled=True), Member("eve"))


def test_missed_messages_have_their_offsets() -> None:
    element = b"1700000000000\0" + pack_envelope(Envelope("a", Raw(b"1")))
    found = read_missed([-1, 7, [element, element]])
    assert found is not None
    assert (found.lost, [stored.offset for stored in found.messages]) == (None, [7, 8])
    assert read_missed(None) is None


def test_keys_of_credentials_are_not_kept() -> None:
    assert digest_key("") == ""
    assert "pk_live" not in digest_key("pk_live_1")
    assert digest_key("pk_live_1") != digest_key("pk_live_2")


def test_scripts_use_no_command_that_is_newer_than_redis_6() -> None:
    names = {"join", "leave", "publish", "connect", "send", "sync_channel", "sync_peer", "refresh_channel", "admit"}
    names |= {"refresh_peer", "sweep_channel", "sweep_peer", "sweep_app", "lease", "read_usage", "beat", "claim"}
    used: set[str] = set()
    for name in names:
        used |= set(re.findall(r"redis\.call\('(\w+)'", script(name).text))
    assert used <= {
        "DEL",
        "EXISTS",
        "HDEL",
        "HEXISTS",
        "HGET",
        "HGETALL",
        "HINCRBY",
        "HKEYS",
        "HLEN",
        "HMGET",
        "HSET",
        "HVALS",
        "LINDEX",
        "LLEN",
        "LPOP",
        "LRANGE",
        "PEXPIRE",
        "PUBLISH",
        "RPUSH",
        "TIME",
        "ZADD",
        "ZLEXCOUNT",
        "ZRANGEBYSCORE",
        "ZREM",
        "ZREVRANGEBYLEX",
        "ZSCORE",
    }


def test_a_script_is_named_by_what_it_does() -> None:
    assert re.fullmatch("[0-9a-f]{40}", script("join").digest)
    assert script("join").digest != script("leave").digest
    assert "-- uses: base log members" in script("join").text


def test_round_trips_are_counted_by_their_bounds() -> None:
    stats = EngineStats()
    for seconds in (0.0001, ROUND_TRIP_BOUNDS[0], 0.0006, 99.0):
        stats.note_round_trip(seconds)
    assert stats.round_trips[:2] == [2, 1]
    assert stats.round_trips[-1] == 1
    assert sum(stats.round_trips) == 4
