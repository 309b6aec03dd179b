"""Session descriptions that cost more than they weigh: each is one message that a server passes on by default."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from benchmarks.attacks.stage import CHANNEL, Attack, Stage
from metered_realtime import Direct, SignallingClient

LARGEST = 60_000
"""Bytes of a description: what a server passes on by default is 65,536 with all around it."""

PATIENCE = 3.0
"""Seconds after which a description is taken to be refused."""

_SESSION = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\na=group:BUNDLE 0\n"
_TRANSPORT = f"a=ice-ufrag:abcd\na=ice-pwd:{'p' * 22}\na=fingerprint:sha-256 {'AA:' * 31}AA\na=setup:actpass\n"
_CAMERA = "a=sendrecv\na=rtcp-mux\na=rtpmap:96 VP8/90000\n"
_VIDEO = f"m=video 9 UDP/TLS/RTP/SAVPF 96\na=mid:0\n{_TRANSPORT}{_CAMERA}"


def many(line: Callable[[int], str], head: str = _SESSION + _VIDEO, size: int = LARGEST) -> str:
    """Return a description with as many lines as fit."""
    text, length, number = [head], len(head), 0
    while length < size:
        text.append(line(number) + "\n")
        length += len(text[-1])
        number += 1
    return "".join(text)


def with_feedback_for_all() -> str:
    head = (_SESSION + _VIDEO).replace("SAVPF 96", f"SAVPF 96 {' '.join(map(str, range(97, 128)))}")
    codecs = many(lambda number: f"a=rtpmap:{97 + number % 31} X{number}/90000", head, LARGEST // 2)
    return many(lambda number: f"a=rtcp-fb:* n{number}", codecs)


def with_sources() -> str:
    return many(lambda number: f"a=ssrc:{number} cname:x")


def with_candidates() -> str:
    return many(lambda number: f"a=candidate:1 1 udp 1 198.51.{number // 250}.{number % 250 + 1} 9 typ host")


def with_names() -> str:
    return many(lambda number: f"a=candidate:1 1 udp 1 name-{number}.local 9 typ host")


def with_sections(count: int) -> str:
    mids = range(1, count)
    bundle = _SESSION.replace("BUNDLE 0", f"BUNDLE 0 {' '.join(map(str, mids))}")
    sections = (f"m=video 9 UDP/TLS/RTP/SAVPF 96\na=mid:{mid}\n{_CAMERA}" for mid in mids)
    return bundle + _VIDEO + "".join(sections)


def with_one_codec() -> str:
    mids, numbers = range(24), [*range(1, 64), *range(96, 128)]
    rows = [f"a=rtpmap:{number} VP8/90000" for number in numbers]
    rows += [f"a=rtcp-fb:* {kind}" for kind in ("nack", "nack pli", "goog-remb")]
    first = f"m=video 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, numbers))}"
    section = "\n".join((first, "a=mid:{}", "a=sendrecv", "a=rtcp-mux", *rows, ""))
    bundle = _SESSION.replace("BUNDLE 0", f"BUNDLE {' '.join(map(str, mids))}")
    return bundle + _TRANSPORT + "".join(section.format(mid) for mid in mids)


def offering(describe: Callable[[], str]) -> Attack:
    """Return an attack that sends an offer and waits until it is answered or refused."""

    async def attack(stage: Stage) -> None:
        client = SignallingClient(
            token_provider=lambda: stage.server.mint_token(peer_id="zz-attacker"), url=stage.server.url
        )
        answered = asyncio.Event()
        client.on(Direct, lambda _: answered.set())
        await client.connect()
        await client.subscribe(CHANNEL)
        offer = {"type": "rtc-description", "description": {"type": "offer", "sdp": describe()}}
        async with stage.watch():
            await client.send("victim", offer)
            with suppress(TimeoutError):  # it may be refused
                await asyncio.wait_for(answered.wait(), PATIENCE)
        await client.close()

    return attack


ATTACKS: dict[str, Attack] = {
    "sdp_feedback": offering(with_feedback_for_all),
    "sdp_one_codec": offering(with_one_codec),
    "sdp_sources": offering(with_sources),
    "sdp_candidates": offering(with_candidates),
    "sdp_candidate_names": offering(with_names),
    "sdp_sections": offering(partial(with_sections, 250)),
    "sdp_sections_half": offering(partial(with_sections, 125)),
}
