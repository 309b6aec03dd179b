"""The room page among its own kind: browsers only, real WebRTC, the project's own server."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Page, expect

from metered_realtime.server import SignallingServer
from metered_realtime.server.resume import ResumeTokens
from tests.support.browsers import LOST_SERVER, Browser, until
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="package")

BOTH = pytest.mark.browsers("chromium", "firefox")
THOROUGH = pytest.mark.browsers("chromium", thorough=["firefox"])

PEER = "[...room.peers.values()][0]"


async def pair(browser: Browser, server: SignallingServer, **media: str) -> tuple[Page, Page]:
    """Open two pages in one channel, Ann and Bob, and wait until their media flows."""
    ann, bob = await asyncio.gather(
        browser.room(server.http_url, channel="room", name="Ann", media=media.get("ann", "canvas")),
        browser.room(server.http_url, channel="room", name="Bob", media=media.get("bob", "canvas")),
    )
    await asyncio.gather(decoding(ann), decoding(bob))
    return ann, bob


async def decoding(page: Page, *, beyond: int = 0, frames: int = 5) -> int:
    """Wait until the page has decoded more video of its only peer; returns how much."""
    least = """async (least) => {
      const [id] = room.peers.keys();
      const stats = id && (await room.stats(id).catch(() => null));
      return stats?.framesDecoded >= least && stats.framesDecoded;
    }"""
    return int(await until(page, least, beyond + frames))


async def say(page: Page, text: str, *, to: str | None = None) -> None:
    if to:
        await page.get_by_label("To", exact=True).select_option(label=f"{to} only")
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_label("Message", exact=True).press("Enter")


@BOTH
async def test_two_pages_see_each_other_with_name_and_metadata(browser: Browser, server: SignallingServer) -> None:
    ann, bob = await pair(browser, server, ann="camera")
    for page, other, source in ((ann, "Bob", "canvas"), (bob, "Ann", "camera")):
        await until(page, f"{PEER}.tracks.length === 2 && {PEER}.tracks.every((t) => t.metadata)")
        tracks = await page.evaluate(f"{PEER}.tracks")
        assert {t["kind"] for t in tracks} == {"audio", "video"}
        assert {(t["metadata"]["name"], t["metadata"]["source"]) for t in tracks} == {(other, source)}
        await expect(page.locator(".tile.has-video:not(.own) .name")).to_have_text(other)
        await expect(page.locator(".tile:not(.own) .stats")).to_contain_text("fps")
        await until(page, "[...document.querySelectorAll('.tile:not(.own) video')].every((v) => v.videoWidth)")


@THOROUGH
async def test_first_offer_keeps_the_data_section_first_and_mid_0(browser: Browser, server: SignallingServer) -> None:
    ann, _ = await pair(browser, server)
    sections = await ann.evaluate(
        "probe.connections.at(-1).remoteDescription.sdp.match(/^(m=\\w+|a=mid:\\w+)/gm)",
    )
    assert sections[:2] == ["m=application", "a=mid:0"]
    assert len(set(sections[1::2])) == len(sections) / 2


async def test_muting_is_shown_to_the_others(browser: Browser, server: SignallingServer) -> None:
    ann, bob = await pair(browser, server)
    await ann.get_by_role("button", name="Microphone").click()
    await expect(bob.locator(".tile:not(.own).muted .mic-off")).to_be_visible()
    await ann.get_by_role("button", name="Camera").click()
    await expect(bob.locator(".tile:not(.own).has-video")).to_have_count(0)
    await ann.get_by_role("button", name="Camera").click()
    await expect(bob.locator(".tile:not(.own).has-video")).to_have_count(1)


@THOROUGH
async def test_chat_goes_both_ways_to_everybody_and_to_one(browser: Browser, server: SignallingServer) -> None:
    ann, bob = await pair(browser, server)
    await say(ann, "hello <b>all</b>")
    await expect(bob.locator(".message.theirs .text")).to_have_text(["hello <b>all</b>"])
    await say(bob, "hello Ann")
    await expect(ann.locator(".message .text")).to_have_text(["hello <b>all</b>", "hello Ann"])
    await say(bob, "just you", to="Ann")
    await expect(ann.locator(".message.private .who b")).to_have_text(["Bob to you"])
    await say(ann, "and back", to="Bob")
    await expect(bob.locator(".message.private .text")).to_have_text(["just you", "and back"])
    assert await ann.evaluate(f"{PEER}.channels.map((c) => c.label)") == ["chat"]


@THOROUGH
async def test_data_channels_open_from_either_side_and_carry_text_and_bytes(
    browser: Browser, server: SignallingServer
) -> None:
    # Without media nobody has a connection yet: the channel brings it.
    ann, bob = await asyncio.gather(
        *(browser.room(server.http_url, channel="room", name=name, media="none") for name in ("Ann", "Bob"))
    )
    for page in (ann, bob):
        await until(page, "room.peers.size === 1")
        await page.evaluate("""() => {
          window.got = [];
          room.addEventListener("channelmessage", ({ detail: { label, data } }) =>
            got.push([label, typeof data === "string" ? data : [...new Uint8Array(data)]]));
        }""")
    for opener, other in ((ann, bob), (bob, ann)):
        label = "from-ann" if opener is ann else "from-bob"
        await opener.evaluate(
            """async (label) => {
              const channel = await room.openChannel([...room.peers.keys()][0], label, { ordered: true }).opened();
              await channel.send("text ✓");
              await channel.send(new Uint8Array([1, 2, 255]));
            }""",
            label,
        )
        await until(other, "got.length === 2")
        assert await other.evaluate("got.splice(0)") == [[label, "text ✓"], [label, [1, 2, 255]]]
        await other.evaluate(
            "(label) => room.channels([...room.peers.keys()][0]).find((c) => c.label === label).send('reply')", label
        )
        await until(opener, "got.length === 1")
        assert await opener.evaluate("got.splice(0)") == [[label, "reply"]]


@BOTH
async def test_streams_can_be_added_and_removed_in_the_middle_of_a_call(
    browser: Browser, server: SignallingServer
) -> None:
    ann, bob = await pair(browser, server)
    connections = await bob.evaluate("probe.connections.length")
    await asyncio.gather(  # both at the same moment: two offers meet
        *(
            page.evaluate(
                """() => {
                  const canvas = document.createElement("canvas");
                  const context = canvas.getContext("2d");
                  setInterval(() => context.fillRect(Math.random() * 300, 0, 5, 5), 40);
                  window.extra = canvas.captureStream(25);
                  room.addStream(extra, { label: "Second" });
                }"""
            )
            for page in (ann, bob)
        )
    )
    for page in (ann, bob):
        await until(page, f"{PEER}.streams.length === 2")
        await until(page, f"{PEER}.tracks.some((t) => t.metadata?.label === 'Second')")
        await expect(page.locator(".tile:not(.own)")).to_have_count(2)
        await until(
            page,
            f"""async () => {{
              const {{ streams }} = await room.stats({PEER}.id);
              return Object.values(streams).length === 2 && Object.values(streams).every((s) => s.framesDecoded > 3);
            }}""",
        )
    await ann.evaluate("room.removeStream(extra)")
    await expect(bob.locator(".tile:not(.own)")).to_have_count(1)
    assert await ann.evaluate(f"{PEER}.streams.length") == 2
    assert await bob.evaluate("probe.connections.length") == connections


async def test_leaving_removes_the_tile_and_joining_again_brings_it_back(
    browser: Browser, server: SignallingServer
) -> None:
    ann, bob = await pair(browser, server)
    await ann.get_by_role("button", name="Leave").click()
    await expect(bob.locator(".tile:not(.own)")).to_have_count(0)
    await expect(ann.get_by_role("heading", name="Join a room")).to_be_visible()
    await ann.get_by_role("button", name="Join").click()
    await asyncio.gather(decoding(ann), decoding(bob))
    await expect(bob.locator(".tile:not(.own) .name")).to_have_text("Ann")


@THOROUGH
@pytest.mark.parametrize("noticed", [True, False])
async def test_a_lost_server_connection_keeps_the_id_and_everything_else(
    browser: Browser, server: SignallingServer, noticed: bool
) -> None:
    ann, bob = await pair(browser, server)
    before = await decoding(bob)
    made = [await page.evaluate("probe.connections.length") for page in (ann, bob)]
    ids = [await page.evaluate("room.peerId") for page in (ann, bob)]
    for page in (ann, bob):
        await page.evaluate("""() => {
          window.told = [];
          const tell = ({ type }) => told.push(type);
          for (const name of ["peerjoined", "peerleft", "peerrenamed"]) room.addEventListener(name, tell);
        }""")
    if noticed:
        await ann.evaluate("probe.sockets.at(-1).close()")
    else:  # the old socket stays open until the server closes it
        await ann.evaluate("""() => {
          const socket = probe.sockets.at(-1);
          socket.close = () => {};
          socket.onclose(new CloseEvent("close", { code: 1006 }));
        }""")
    await until(ann, "probe.sockets.length === 2 && room.state === 'joined'")
    await until(ann, "probe.sockets[0].readyState === WebSocket.CLOSED")
    await until(bob, f"!{PEER}.away && {PEER}.state === 'connected'")
    assert [await page.evaluate("room.peerId") for page in (ann, bob)] == ids
    await decoding(bob, beyond=before)
    await say(ann, "still here")
    await expect(bob.locator(".message.theirs .text")).to_have_text(["still here"])
    assert [await page.evaluate("probe.connections.length") for page in (ann, bob)] == made
    assert [await page.evaluate("told") for page in (ann, bob)] == [[], []]
    assert not await ann.evaluate("document.documentElement.outerHTML.includes('resume=')")


async def test_a_lost_server_connection_keeps_the_media_and_the_tile_under_another_id(
    browser: Browser, server: SignallingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResumeTokens, "read", lambda *_: None)
    ann, bob = await pair(browser, server)
    before = await decoding(bob)
    made = [await page.evaluate("probe.connections.length") for page in (ann, bob)]
    old = await ann.evaluate("room.peerId")
    await bob.evaluate("document.querySelector('.tile:not(.own)').marked = true")
    await ann.evaluate("probe.sockets.at(-1).close()")
    await until(ann, "(old) => room.state === 'joined' && room.peerId !== old", old)
    new = await ann.evaluate("room.peerId")
    await until(bob, "(id) => room.peers.has(id) && room.peers.size === 1", new)
    await until(bob, f"!{PEER}.away && {PEER}.state === 'connected'")
    await decoding(bob, beyond=before)
    assert [await page.evaluate("probe.connections.length") for page in (ann, bob)] == made
    await say(ann, "still here")
    await expect(bob.locator(".message.theirs .text")).to_have_text(["still here"])
    await expect(bob.locator(".tile:not(.own)")).to_have_count(1)


@THOROUGH
@pytest.mark.parametrize("resumes", [True, False])
async def test_a_restarted_server_finds_both_ends_still_connected(
    browser: Browser, server: SignallingServer, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    if not resumes:
        monkeypatch.setattr(ResumeTokens, "read", lambda *_: None)
    browser.allow(LOST_SERVER)
    ann, bob = await pair(browser, server)
    made = [await page.evaluate("probe.connections.length") for page in (ann, bob)]
    old = await asyncio.gather(*(page.evaluate("room.peerId") for page in (ann, bob)))
    await server.stop()
    for page in (ann, bob):
        await until(page, "room.state === 'reconnecting'")
    before = await decoding(bob)
    await decoding(bob, beyond=before)
    await server.start()
    for page, id_ in zip((ann, bob), old, strict=True):
        same = "===" if resumes else "!=="
        await until(page, f"(old) => room.state === 'joined' && room.peerId {same} old", id_)
    for page, other in ((ann, bob), (bob, ann)):
        id_ = await other.evaluate("room.peerId")
        await until(page, "(id) => room.peers.size === 1 && room.peers.get(id)?.state === 'connected'", id_)
        await until(page, f"!{PEER}.away")
        await decoding(page, beyond=await decoding(page))
    assert [await page.evaluate("probe.connections.length") for page in (ann, bob)] == made


@THOROUGH
async def test_a_connection_that_dies_is_rebuilt(browser: Browser, server: SignallingServer) -> None:
    ann, bob = await pair(browser, server)
    await ann.evaluate("probe.connections.at(-1).close()")
    await until(bob, "probe.connections.length >= 2")
    await asyncio.gather(decoding(ann), decoding(bob))
    await expect(bob.locator(".tile:not(.own)")).to_have_count(1)


@BOTH
async def test_statistics_settle_when_the_connection_closes_meanwhile(
    browser: Browser, server: SignallingServer
) -> None:
    """Firefox's own getStats() does not."""
    ann, _ = await pair(browser, server)
    left = """async () => {
      const [id] = room.peers.keys();
      const [asked] = [room.stats(id), room.leave()];
      return typeof (await asked).framesDecoded;
    }"""
    async with asyncio.timeout(PATIENCE):
        assert await ann.evaluate(left) == "number"
