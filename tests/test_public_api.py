"""The public names, as programs use them: parameters, defaults, fields, literals, the exception tree."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import inspect
import math
import pickle
import subprocess
import sys
import textwrap
from enum import IntEnum
from typing import Any, Literal, get_args, get_origin

import pytest

import metered_realtime as api
from metered_realtime.options import ClientKeywords
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE

REQUIRED = inspect.Parameter.empty

CLIENT_OPTIONS = {
    "api_key": None,
    "token_provider": None,
    "url": None,
    "token_provider_timeout": 10.0,
    "logger": None,
    "reconnect": True,
    "inactivity_timeout": 60.0,
    "auto_resubscribe": True,
}
EMITTER = {
    "on": "event_type, handler=None",
    "off": "event_type, handler",
    "once": "event_type, handler=None",
    "events": "event_type, *, maxsize=4096",
    "listener_count": "event_type",
    "emit": "event",
}
CONSTRUCTOR = "options=None, *, " + ", ".join(f"{name}={value!r}" for name, value in CLIENT_OPTIONS.items())

METHODS: dict[str, dict[str, str]] = {
    "MeteredPeer": {
        **EMITTER,
        "__init__": CONSTRUCTOR,
        "async join": "channel, *, include_sender_metadata=False",
        "joined": "channel, *, include_sender_metadata=False",
        "async close": "reason=None",
        "async send": "data",
        "async send_to": "peer_id, data",
        "add_stream": "stream, metadata=None",
        "remove_stream": "stream",
        "add_track": "track, stream=None, metadata=None",
        "remove_track": "track",
        "get_track_metadata": "track",
        "get_stream_metadata": "stream",
        "async replace_track": "old_track, new_track",
        "async __aenter__": "",
        "async __aexit__": "*exc",
    },
    "RemotePeer": {
        **EMITTER,
        "__init__": "*, id, connection, send, metadata=None, logger=None",
        "async send": "data",
        "create_data_channel": "label, **kwargs",
    },
    "SignallingClient": {
        **EMITTER,
        "__init__": CONSTRUCTOR,
        "async connect": "",
        "async close": "code=1000, reason='client requested close'",
        "async subscribe": "channel, opts=None",
        "async unsubscribe": "channel",
        "async publish": "channel, data",
        "async send": "to_peer_id, data",
        "async __aenter__": "",
        "async __aexit__": "*exc",
    },
    "DataChannel": {
        **EMITTER,
        "__init__": "channel, *, max_buffered_amount=1048576, buffered_amount_low_threshold=None, "
        "max_queued_sends=256, buffer_poll_interval=0.1, logger=None",
        "async send": "data",
        "close": "",
    },
    "MediaStream": {
        "__init__": "tracks=(), *, id=None",
        "get_tracks": "",
        "get_audio_tracks": "",
        "get_video_tracks": "",
        "add_track": "track",
        "remove_track": "track",
    },
    "AudioSource": {
        "__init__": "*, input_rate=16000, input_layout='mono', max_buffered_seconds=5.0, logger=None",
        "async push": "data",
        "end": "",
        "async recv": "",
    },
    "SignallingConnectError": {"__init__": "close_code, close_reason, message=None"},
    "ServerRequestError": {"__init__": "code, message=None, request_id=None"},
    "AckTimeoutError": {"__init__": "request_id, timeout"},
    "ReconcileTimeoutError": {"__init__": "message=None"},
    "MeteredPeerSendError": {"__init__": "code, message"},
    "MeteredPeerOversizedError": {"__init__": "size, cap"},
    "MeteredPeerStateError": {"__init__": "code, method, message, current_state=None"},
    "MeteredPeerReplaceTrackError": {"__init__": "succeeded, failed"},
    "DataChannelOverflowError": {"__init__": "queued, cap"},
    **{
        name: dict.fromkeys(("debug", "info", "warning", "error"), "msg, ctx=None")
        for name in ("Logger", "NoopLogger", "StdlibLogger")
    },
}
METHODS["NoopLogger"]["__init__"] = ""
METHODS["StdlibLogger"]["__init__"] = "logger=None"

PROPERTIES = {
    "MeteredPeer": ["state", "peer_id", "channel", "remote_peers"],
    "RemotePeer": ["metadata", "state", "polite", "pc"],
    "SignallingClient": ["state"],
    "DataChannel": ["ready_state", "buffered_amount"],
    "AudioSource": ["buffered_seconds"],
}

FUNCTIONS = {
    "from_file": "file, *, loop=False",
    "from_rtsp": "url, *, transport='tcp'",
    "from_camera": "device=None, *, width=640, height=480, fps=30",
    "from_microphone": "device=None",
    "screen_share": "device=None, *, width=0, height=0, fps=30",
    "iter_frames": "track",
    "iter_pcm": "track, rate=16000, channels=1, *, chunk=0.02",
    "track_to_numpy": "track, format=None",
}

EVENTS: dict[str, dict[str, Any]] = {
    "Event": {},
    "StateChange": {"from_": REQUIRED, "to": REQUIRED},
    "Connected": {
        "peer_id": REQUIRED,
        "server_time": REQUIRED,
        "expires_at": REQUIRED,
        "is_reconnect": REQUIRED,
        "max_message_size": REQUIRED,
        "ice_servers": None,
    },
    "Disconnected": {"code": REQUIRED, "reason": REQUIRED, "will_reconnect": REQUIRED},
    "Message": {"channel": REQUIRED, "sender_peer_id": REQUIRED, "data": REQUIRED, "sender_metadata": None},
    "Direct": {"sender_peer_id": REQUIRED, "data": REQUIRED, "sender_metadata": None},
    "MessagesLost": {"channel": REQUIRED, "count": REQUIRED},
    "Presence": {"channel": REQUIRED, "joined": REQUIRED, "left": REQUIRED},
    "ServerError": {"code": REQUIRED, "message": None, "request_id": None},
    "GoingAway": {"retry_after_ms": REQUIRED},
    "TokenProviderError": {"consecutive_failures": REQUIRED, "err": REQUIRED},
    "Joined": {"peer_id": REQUIRED, "channel": REQUIRED},
    "Left": {"peer_id": REQUIRED, "channel": REQUIRED, "reason": None},
    "PeerJoined": {"peer": REQUIRED},
    "PeerLeft": {"peer": REQUIRED},
    "Data": {"sender_peer_id": REQUIRED, "data": REQUIRED, "kind": REQUIRED, "sender_metadata": None},
    "FatalError": {"err": REQUIRED},
    "Track": {"track": REQUIRED, "streams": (), "metadata": None},
    "StreamAdded": {"stream": REQUIRED, "metadata": None},
    "StreamRemoved": {"stream": REQUIRED},
    "PictureRefused": {"track": REQUIRED, "width": REQUIRED, "height": REQUIRED, "limit": REQUIRED},
    "DataChannelOpened": {"channel": REQUIRED},
    "NegotiationError": {"err": REQUIRED},
    "IceCandidateError": {"err": REQUIRED},
    "DCOpen": {},
    "DCClose": {},
    "DCError": {"err": REQUIRED},
    "DCMessage": {"data": REQUIRED},
}
FROZEN: dict[str, dict[str, Any]] = {
    **EVENTS,
    "IceServerConfig": {"urls": REQUIRED, "username": None, "credential": None},
    "PresencePeer": {"peer_id": REQUIRED, "metadata": None},
    "ReplaceTrackFailure": {"peer_id": REQUIRED, "err": REQUIRED},
    "Tuning": {
        "fast_data": True,
        "fast_checks": True,
        "prompt_video": True,
        "prompt_audio": True,
        "shared_payloads": True,
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "SignallingClientOptions": CLIENT_OPTIONS,
    "ReconnectOptions": {
        "initial_delay": 0.5,
        "multiplier": 2.0,
        "max_delay": 30.0,
        "jitter_ratio": 0.2,
        "max_attempts": 100,
    },
    "SubscribeOptions": {"include_sender_metadata": False},
}

LITERALS = {
    "SignallingClientState": ["idle", "connecting", "connected", "reconnecting", "closed"],
    "MeteredPeerState": ["idle", "joining", "joined", "reconnecting", "leaving", "closed"],
    "PeerConnectionState": ["idle", "connecting", "connected", "reconnecting", "closed"],
    "ErrorCode": [
        "malformed_message",
        "unknown_type",
        "invalid_channel",
        "invalid_peer_id",
        "channel_not_authorized",
        "channel_reserved",
        "channel_limit_exceeded",
        "peer_not_found",
        "missing_data",
        "action_not_permitted",
        "over_message_quota",
        "backend_error",
        "internal_error",
    ],
}

CLOSE_CODES = {
    "GOING_AWAY": 1001,
    "POLICY_VIOLATION": 1008,
    "MESSAGE_TOO_BIG": 1009,
    "CLIENT_INACTIVITY": 4000,
    "INVALID_TOKEN": 4001,
    "TOKEN_EXPIRED": 4002,
    "CHANNEL_NOT_AUTHORIZED": 4003,
    "OVER_CONCURRENT_LIMIT": 4010,
    "OVER_MESSAGE_RATE": 4011,
    "ACCOUNT_SUSPENDED": 4012,
    "ADMIN_DISCONNECT": 4020,
}

BASES = {
    "MeteredRealtimeError": "Exception",
    "SignallingError": "MeteredRealtimeError",
    "SignallingConnectError": "SignallingError",
    "NotConnectedError": "SignallingError",
    "ServerRequestError": "SignallingError",
    "AckTimeoutError": "SignallingError",
    "DisconnectedError": "SignallingError",
    "ReconcileTimeoutError": "MeteredRealtimeError",
    "MeteredPeerSendError": "MeteredRealtimeError",
    "MeteredPeerOversizedError": "MeteredRealtimeError",
    "MeteredPeerStateError": "MeteredRealtimeError",
    "MeteredPeerReplaceTrackError": "MeteredRealtimeError",
    "DataChannelOverflowError": "MeteredRealtimeError",
}

NAMES = {
    *METHODS, *FUNCTIONS, *FROZEN, *OPTIONS, *LITERALS, *BASES,
    "StreamMetadata", "TokenProviderFn", "WsCloseCode", "__version__",
}  # fmt: skip


def expected_parameters(text: str) -> dict[str, tuple[Any, Any]]:
    """Read `a, *, b=1` as parameters with their kinds and defaults."""
    function = eval(f"lambda {text}: None", {})  # the texts stand above
    return {it.name: (it.kind, it.default) for it in inspect.signature(function).parameters.values()}


def check_signature(function: Any, text: str, *, bound: bool) -> None:
    found = {it.name: (it.kind, it.default) for it in inspect.signature(function).parameters.values()}
    if bound:
        found.pop(next(iter(found)))
    expected = expected_parameters(text)
    kinds = inspect.Parameter
    if "exc" in expected:
        assert all(kind in (kinds.VAR_POSITIONAL, kinds.POSITIONAL_OR_KEYWORD) for kind, _ in found.values())
        return
    for name, parameter in expected.items():
        assert found.pop(name, None) == parameter, name
    for name, (kind, default) in found.items():
        assert kind is kinds.KEYWORD_ONLY, f"{name} is new and can be given by position"
        assert default is not REQUIRED, f"{name} is new and required"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_name_is_there_and_listed(name: str) -> None:
    assert hasattr(api, name)
    assert name in api.__all__


def test_dir_lists_exactly_all() -> None:
    assert dir(api) == sorted(api.__all__)
    assert len(set(api.__all__)) == len(api.__all__)
    assert all(hasattr(api, name) for name in api.__all__)
    assert isinstance(api.__version__, str)


def test_unknown_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = api.no_such_name


@pytest.mark.parametrize(("owner", "method"), [(owner, method) for owner in METHODS for method in METHODS[owner]])
def test_methods_take_the_known_parameters(owner: str, method: str) -> None:
    is_async, name = method.startswith("async "), method.removeprefix("async ")
    function = inspect.getattr_static(getattr(api, owner), name)
    assert inspect.iscoroutinefunction(function) is is_async
    if (owner, name) == ("NoopLogger", "__init__"):
        return
    check_signature(function, METHODS[owner][method], bound=True)


@pytest.mark.parametrize("owner", [api.SignallingClient, api.MeteredPeer])
def test_constructors_take_each_of_the_options_as_a_keyword(owner: type) -> None:
    shown = inspect.signature(owner).parameters
    for field in dataclasses.fields(api.SignallingClientOptions):
        assert (shown[field.name].kind, shown[field.name].default) == (inspect.Parameter.KEYWORD_ONLY, field.default)
    assert set(ClientKeywords.__annotations__) == {it.name for it in dataclasses.fields(api.SignallingClientOptions)}


@pytest.mark.parametrize("owner", [api.SignallingClient, api.MeteredPeer])
@pytest.mark.parametrize("options", [None, api.SignallingClientOptions(api_key="k", url="ws://localhost")])
def test_constructors_refuse_a_keyword_that_does_not_exist(
    owner: Any, options: api.SignallingClientOptions | None
) -> None:
    with pytest.raises(TypeError, match="api_kee"):
        owner(options, api_kee="k")


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner in PROPERTIES for name in PROPERTIES[owner]])
def test_properties_are_properties(owner: str, name: str) -> None:
    assert isinstance(inspect.getattr_static(getattr(api, owner), name), property)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_the_known_parameters(name: str) -> None:
    check_signature(getattr(api, name), FUNCTIONS[name], bound=False)


def test_frames_are_iterated_by_an_async_generator() -> None:
    assert inspect.isasyncgenfunction(api.iter_frames)


@pytest.mark.parametrize("name", FROZEN)
def test_events_and_records_are_frozen_and_have_the_known_fields(name: str) -> None:
    cls = getattr(api, name)
    found = {field.name: field.default for field in dataclasses.fields(cls)}
    expected = {
        field: dataclasses.MISSING if default is REQUIRED else default for field, default in FROZEN[name].items()
    }
    assert list(found)[: len(expected)] == list(expected)
    assert {field: found[field] for field in expected} == expected
    assert all(found[field] is not dataclasses.MISSING for field in set(found) - set(expected))
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)
    if name in EVENTS:
        assert issubclass(cls, api.Event)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_given_by_keyword_and_have_the_known_defaults(name: str) -> None:
    cls = getattr(api, name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    assert {field: fields[field].default for field in OPTIONS[name]} == OPTIONS[name]
    assert all(field.kw_only for field in fields.values())
    assert "__slots__" in vars(cls)
    assert not cls.__dataclass_params__.frozen


@pytest.mark.parametrize(
    ("option", "bad", "good"),
    [
        ("initial_delay", [0, -1, math.nan, math.inf], [0.001, 30]),
        ("multiplier", [0.99, math.nan, math.inf], [1, 10]),
        ("max_delay", [0.4, math.nan], [0.5, math.inf]),
        ("jitter_ratio", [-0.1, 1.1, math.nan], [0, 1]),
        ("max_attempts", [-1, math.nan], [0, math.inf]),
    ],
)
def test_reconnect_options_have_their_ranges(option: str, bad: list[float], good: list[float]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=option):
            api.ReconnectOptions(**{option: value})
    assert [getattr(api.ReconnectOptions(**{option: value}), option) for value in good] == good


@pytest.mark.parametrize("name", LITERALS)
def test_literals_have_the_known_values(name: str) -> None:
    assert get_origin(getattr(api, name)) is Literal
    assert list(get_args(getattr(api, name))) == LITERALS[name]


def test_the_kinds_of_data_are_two() -> None:
    assert list(get_args(inspect.get_annotations(api.Data, eval_str=True)["kind"])) == ["broadcast", "direct"]


def test_close_codes_are_ints_with_names() -> None:
    assert issubclass(api.WsCloseCode, IntEnum)
    assert {code.name: code.value for code in api.WsCloseCode} == CLOSE_CODES


@pytest.mark.parametrize("name", BASES)
def test_exceptions_form_the_known_tree(name: str) -> None:
    base = getattr(api, BASES[name]) if BASES[name] != "Exception" else Exception
    assert getattr(api, name).__bases__ == (base,)


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (api.SignallingConnectError(4001, "no"), {"close_code": 4001, "close_reason": "no"}),
        (api.ServerRequestError("peer_not_found", "m", "r"), {"code": "peer_not_found", "request_id": "r"}),
        (api.ServerRequestError("peer_not_found"), {"code": "peer_not_found", "request_id": None}),
        (api.AckTimeoutError("r", 15.0), {"request_id": "r", "timeout": 15.0}),
        (api.MeteredPeerSendError("self_send", "m"), {"code": "self_send"}),
        (api.MeteredPeerOversizedError(2, 1), {"size": 2, "cap": 1}),
        (
            api.MeteredPeerStateError("invalid_state", "join", "m", "closed"),
            {"code": "invalid_state", "method": "join", "current_state": "closed"},
        ),
        (api.MeteredPeerReplaceTrackError(("a",), ()), {"succeeded": ("a",), "failed": ()}),
        (api.DataChannelOverflowError(3, 2), {"queued": 3, "cap": 2}),
    ],
)
def test_exceptions_carry_their_attributes_in_copies_and_pickles_too(
    error: Exception, attributes: dict[str, Any]
) -> None:
    for it in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(it) is type(error)
        assert {name: getattr(it, name) for name in attributes} == attributes
        assert str(it) == str(error) != ""


def test_stream_and_token_aliases() -> None:
    assert api.StreamMetadata == dict[str, Any]
    assert callable(get_origin(api.TokenProviderFn)) or api.TokenProviderFn is not None


def test_a_remote_has_its_id_and_a_channel_its_label() -> None:
    remote = api.RemotePeer(id="x", connection=None, send=None)  # type: ignore[arg-type]
    assert (remote.id, remote.metadata, remote.state) == ("x", None, "idle")
    assert api.MediaStream(id="s").id == "s"


def test_a_remote_shows_programs_only_what_is_for_them() -> None:
    shown = {name for name in dir(api.RemotePeer) if not name.startswith("_")}
    assert shown == {
        *EMITTER, "metadata", "name", "state", "polite", "pc", "streams", "incoming_tracks", "stats",
        "send", "create_data_channel", "open_channel", "open_stream", "send_file", "rpc", "perform_rpc",
        "add_stream", "add_track", "remove_stream", "remove_track", "replace_track",
        "get_track_metadata", "get_stream_metadata",
    }  # fmt: skip


MEDIA_METHODS = [name for name in METHODS["MeteredPeer"] if "track" in name or "stream" in name]


@pytest.mark.parametrize("name", MEDIA_METHODS)
def test_media_to_one_remote_has_the_parameters_of_media_to_everybody(name: str) -> None:
    name = name.removeprefix("async ")
    both = [inspect.signature(getattr(cls, name)) for cls in (api.MeteredPeer, api.RemotePeer)]
    assert both[0] == both[1]


TYPED = {
    "iter_frames": ["track"],
    "iter_pcm": ["track", "rate", "channels", "chunk"],
    "track_to_numpy": ["track", "format"],
    "MeteredPeer.add_track": ["track", "stream"],
    "MeteredPeer.replace_track": ["old_track", "new_track"],
    "MediaStream.__init__": ["tracks"],
    "MediaStream.get_tracks": ["return"],
    "Recorder.add_track": ["track"],
    "Track": ["track"],
    "TrackEnded": ["track"],
    "LocalTrackEnded": ["track"],
    "PictureRefused": ["track"],
    "DataChannelOpened": ["channel"],
}
"""What says precisely what it is, for type checkers: the parameters, fields and results."""


@pytest.mark.parametrize("name", TYPED)
def test_media_is_typed(name: str) -> None:
    owner: Any = api
    for part in name.split("."):
        owner = getattr(owner, part)
    for each in TYPED[name]:
        assert "Any" not in str(owner.__annotations__[each])


async def test_streams_of_events_iterate_close_and_are_context_managers() -> None:
    peer = api.MeteredPeer(api_key="pk_live_x", url="ws://localhost")
    stream = peer.events(api.StateChange, maxsize=1)
    async with stream as entered:
        assert entered is stream
        peer.emit(api.StateChange("a", "b"))
        assert await anext(aiter(stream)) == api.StateChange("a", "b")
    stream.close()
    assert [event async for event in stream] == []
    await peer.close()


def test_loggers_are_told_by_their_methods() -> None:
    assert isinstance(api.NoopLogger(), api.Logger)
    assert isinstance(api.StdlibLogger(), api.Logger)
    assert not isinstance(object(), api.Logger)


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("aiortc", "av", "aioice"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without_aiortc(program: str, *arguments: str) -> str:
    """Run a program where aiortc, aioice and av cannot be imported, and return what it prints."""
    script = BLOCKED + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_needs_no_aiortc() -> None:
    run_without_aiortc(
        """
        import metered_realtime
        from metered_realtime import *
        import metered_realtime as api
        assert set(api.__all__) <= set(globals()), set(api.__all__) - set(globals())
        assert dir(api) == sorted(api.__all__)
        MeteredPeer(api_key="pk_live_x")
        SignallingClient(api_key="pk_live_x")
        MediaStream()
        """
    )


def test_importing_does_not_load_aiortc_where_it_is() -> None:
    program = "import sys, metered_realtime; assert not {'aiortc', 'av', 'aioice'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    "call", ["AudioSource()", "iter_frames(None)", "iter_pcm(None)", "track_to_numpy(None)",
             "from_file('x')", "from_rtsp('x')", "from_camera()",
             "from_microphone()", "screen_share()", "OneShotConnection()"]
)  # fmt: skip
def test_media_without_aiortc_says_what_to_install(call: str) -> None:
    text = run_without_aiortc(
        f"""
        import metered_realtime as api
        try:
            api.{call}
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install" in text
    assert "[webrtc]" in text


@pytest.mark.parametrize("missing", ["aiortc", "aiohttp"])
@pytest.mark.parametrize("call", ["whip_publish('https://x', [])", "whep_play('https://x')"])
def test_clients_of_media_servers_say_what_to_install(call: str, missing: str) -> None:
    program = f"""
        import metered_realtime as api
        try:
            api.{call}
        except ImportError as error:
            print(error)
        """
    script = BLOCKED.replace('("aiortc", "av", "aioice")', f'("{missing}",)') + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert f"needs {missing}: pip install 'metered-realtime-mesh[whip]'" in done.stdout


async def test_peers_without_aiortc_meet_and_talk_and_say_what_media_needs() -> None:
    program = """
        import asyncio
        from metered_realtime import (
            Data, MediaStream, MeteredPeer, NegotiationError, PeerJoined, PeerLeft, SignallingClient, Message
        )

        class FakeTrack:
            kind = "video"
            id = "x"
            async def recv(self): ...

        async def said(call):
            try:
                result = call()
                if asyncio.iscoroutine(result):
                    await result
            except ImportError as error:
                assert "[webrtc]" in str(error), error
            else:
                raise AssertionError("no ImportError")

        async def main(url, key):
            peers = [MeteredPeer(api_key=key, url=url) for _ in range(2)]
            heard = [peer.events(Data) for peer in peers]
            met = [peer.events(PeerJoined) for peer in peers]
            for peer in peers:
                await peer.join("room")
            remotes = [(await anext(stream)).peer for stream in met]
            await peers[0].send("all")
            await peers[0].send_to(peers[1].peer_id, "you")
            assert [(await anext(heard[1])).data for _ in range(2)] == ["all", "you"]
            await said(lambda: remotes[0].create_data_channel("x"))
            await said(lambda: remotes[0].pc)
            await said(lambda: peers[0].add_track(FakeTrack()))
            refused = remotes[0].events(NegotiationError)
            signal = {"type": "rtc-description", "description": {"type": "offer", "sdp": "x"}}
            await peers[1].send_to(peers[0].peer_id, signal)
            assert isinstance((await anext(refused)).err, ImportError)
            left = peers[0].events(PeerLeft)
            await peers[1].close()
            assert (await anext(left)).peer is remotes[0]
            await peers[0].close()
            ears, mouth = SignallingClient(api_key=key, url=url), SignallingClient(api_key=key, url=url)
            async with ears, mouth:
                messages = ears.events(Message)
                await ears.subscribe("news")
                await mouth.publish("news", {"n": 1})
                assert (await anext(messages)).data == {"n": 1}
            print("done")

        asyncio.run(main(*sys.argv[1:]))
    """
    async with SignallingServer(port=0) as server:
        text = await asyncio.to_thread(run_without_aiortc, program, server.url, server.api_key)
    assert text == "done\n"
