"""The room page where something is missing or hostile: recipients, cameras, servers, permissions, floods, names."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from metered_realtime import MeteredPeer
from metered_realtime.server import App, PublishableKey, SignallingServer
from metered_realtime.server.keys import new_publishable_key
from tests.interop.test_page_alone import PEER, decoding, pair, say
from tests.support.browsers import LOST_SERVER, Browser, until
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.asyncio(loop_scope="package")

BOTH = pytest.mark.browsers("chromium", thorough=["firefox"])


async def room_of(browser: Browser, server: SignallingServer, *names: str) -> list[Page]:
    """Open pages that only watch, and wait until everybody sees everybody."""
    pages = await asyncio.gather(
        *(browser.room(server.http_url, channel="room", name=name, media="none") for name in names)
    )
    for page in pages:
        await until(page, "(count) => room.peers.size === count", len(names) - 1)
    return pages


async def name_all(pages: list[Page]) -> None:
    """Let the pages tell each other their names, which they do over a connection."""
    for page in pages:
        await page.evaluate("for (const id of room.peers.keys()) room.openChannel(id, 'x')")
    for page in pages:
        await until(page, "[...room.peers.values()].every((peer) => peer.name)")


# --- whom a message is for


async def test_a_message_for_one_goes_to_nobody_else_when_they_have_left(
    browser: Browser, server: SignallingServer
) -> None:
    ann, bob, carol = pages = await room_of(browser, server, "Ann", "Bob", "Carol")
    await name_all(pages)
    await carol.evaluate("window.got = []; room.addEventListener('data', ({ detail }) => got.push(detail.data))")
    await ann.get_by_label("To", exact=True).select_option(label="Bob only")
    await bob.get_by_role("button", name="Leave").click()
    await until(ann, "room.peers.size === 1")
    await expect(ann.locator("#chat-to option:checked")).to_have_text("Bob (has left)")
    await ann.get_by_label("Message", exact=True).fill("only for you")
    await ann.get_by_label("Message", exact=True).press("Enter")
    await expect(ann.locator(".toast")).to_contain_text("Bob has left. Your message was not sent")
    await expect(ann.get_by_label("Message", exact=True)).to_have_value("only for you")
    await ann.get_by_label("To", exact=True).select_option(label="Everyone")
    await ann.get_by_label("Message", exact=True).fill("for all")
    await ann.get_by_label("Message", exact=True).press("Enter")
    await until(carol, "got.length")
    assert [it["text"] for it in await carol.evaluate("got")] == ["for all"]
    await expect(ann.locator("#chat-to option")).to_have_text(["Everyone", "Carol only"])


async def test_a_message_that_failed_is_not_offered_to_the_next_recipient(
    browser: Browser, server: SignallingServer
) -> None:
    ann, _bob = pages = await room_of(browser, server, "Ann", "Bob")
    await name_all(pages)
    await ann.evaluate("""() => {
      const original = room.openChannel.bind(room);
      room.openChannel = (...args) => {
        const channel = original(...args);
        channel.opened = () => new Promise((_, reject) => { window.fail = () => reject(new Error("It broke.")); });
        return channel;
      };
    }""")
    await say(ann, "only for you", to="Bob")
    await until(ann, "window.fail")
    await ann.get_by_label("To", exact=True).select_option(label="Everyone")
    await ann.evaluate("fail()")
    await expect(ann.locator(".message.unsent .text")).to_have_text("only for you")
    await expect(ann.get_by_label("Message", exact=True)).to_have_value("")


async def test_a_message_begun_for_one_is_gone_after_leaving(browser: Browser, server: SignallingServer) -> None:
    ann, _ = pages = await room_of(browser, server, "Ann", "Bob")
    await name_all(pages)
    await ann.get_by_label("To", exact=True).select_option(label="Bob only")
    await ann.get_by_label("Message", exact=True).fill("only for you")
    await ann.get_by_role("button", name="Leave").click()
    await ann.get_by_role("button", name="Join").click()
    await until(ann, "room.state === 'joined'")
    await expect(ann.locator("#chat-to option:checked")).to_have_text("Everyone")
    await expect(ann.get_by_label("Message", exact=True)).to_have_value("")


# --- what is missing

WITHOUT = """(missing) => {
  const devices = navigator.mediaDevices;
  const original = devices.getUserMedia.bind(devices);
  devices.getUserMedia = async (wish) => {
    for (const [kind, name] of Object.entries(missing)) if (wish[kind]) throw new DOMException("", name);
    return original(wish);
  };
}"""


@pytest.mark.parametrize(
    ("missing", "kinds", "words"),
    [
        ({"video": "NotFoundError"}, ["audio"], "There is no camera. Others hear you and do not see you."),
        ({"video": "NotAllowedError"}, ["audio"], "The camera is not allowed."),
        ({"audio": "NotReadableError"}, ["video"], "The microphone is in use elsewhere"),
        ({"audio": "NotFoundError", "video": "NotAllowedError"}, [], "There is no microphone. You can watch"),
    ],
)
async def test_what_is_missing_costs_nothing_else_and_nothing_is_sent_instead(
    browser: Browser, server: SignallingServer, missing: dict[str, str], kinds: list[str], words: str
) -> None:
    bob = await browser.room(server.http_url, channel="room", name="Bob", media="none")
    context = await browser.context()
    await context.add_init_script(f"({WITHOUT})({missing})")
    ann = await context.new_page()
    await ann.goto(f"{server.http_url}/?channel=room&name=Ann&media=camera&autojoin=1")
    await until(ann, "window.room?.state === 'joined'")
    await expect(ann.locator(".toast")).to_contain_text(words)
    assert await ann.evaluate("room.media.stream.getTracks().map((track) => track.kind)") == kinds
    assert await ann.evaluate("room.media.source") == "camera"
    assert await ann.locator("#mic").is_disabled() == ("audio" in missing)
    assert await ann.locator("#cam").is_disabled() == ("video" in missing)
    await until(bob, "room.peers.size === 1")
    if kinds:
        await until(bob, f"(kinds) => String({PEER}.tracks.map((t) => t.kind)) === String(kinds)", kinds)
        await until(bob, f"{PEER}.tracks.every((t) => t.metadata?.source === 'camera')")
        await expect(bob.locator(".tile:not(.own).muted")).to_have_count(int("audio" in missing))


# --- why there is no connection


async def joining(browser: Browser, server: SignallingServer) -> Page:
    page = await browser.page(f"{server.http_url}/?channel=room&name=Ann&media=none")
    await until(page, "document.documentElement.dataset.ready")
    return page


@BOTH
async def test_a_server_that_is_gone_is_named_with_what_may_be_the_cause(
    browser: Browser, server: SignallingServer
) -> None:
    browser.allow(LOST_SERVER)
    page = await joining(browser, server)
    await server.stop()
    await page.get_by_role("button", name="Join").click()
    problem = page.locator("#join-error")
    await expect(problem).to_contain_text(f"127.0.0.1:{server.port} cannot be reached: it refuses connections")


@BOTH
async def test_a_server_that_lets_no_websocket_through_is_told_from_one_that_is_gone(
    browser: Browser, server: SignallingServer
) -> None:
    browser.allow("400")
    page = await joining(browser, server)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/page/" not in request.url else None)
    await page.evaluate("""() => {
      window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); } };
    }""")
    await page.get_by_role("button", name="Join").click()
    await expect(page.locator("#join-error")).to_contain_text("no WebSocket comes through (HTTP 400)")
    assert asked == [f"{server.http_url}/v1"]  # without the key


@BOTH
async def test_a_key_that_is_refused_is_said_with_host_and_code(browser: Browser, server: SignallingServer) -> None:
    page = await browser.page(f"{server.http_url}/?channel=room&media=none&key=pk_live_wrong&autojoin=1")
    problem = page.locator("#join-error")
    await expect(problem).to_contain_text(f"not accepted. (127.0.0.1:{server.port}, code 4001)")


async def test_a_server_without_a_welcome_is_said_so(browser: Browser, server: SignallingServer) -> None:
    page = await joining(browser, server)
    await page.route_web_socket(re.compile("/v1"), lambda socket: None)
    await page.clock.install()
    await page.get_by_role("button", name="Join").click()
    await until(page, "probe.sockets.length || room.state === 'joining'")
    async with asyncio.timeout(PATIENCE):
        while not await page.locator("#join-error").is_visible():
            await page.clock.fast_forward(11_000)
            await asyncio.sleep(0.05)
    await expect(page.locator("#join-error")).to_contain_text("no welcome within 10 s")


async def test_a_key_that_cannot_call_is_said_once_for_all(browser: Browser) -> None:
    key = new_publishable_key()
    limited = App("limited", (PublishableKey(key=key, actions=frozenset({"publish", "subscribe", "presence"})),))
    async with SignallingServer(port=0, apps=[limited]) as server:
        pages = await asyncio.gather(
            *(
                browser.room(server.http_url, channel="room", name=name, key=key, media="canvas")
                for name in ("Ann", "Bob", "Carol")
            )
        )
        for page in pages:
            await until(page, "room.peers.size === 2 && !room.mayCall")
            await expect(page.locator("#lasting")).to_contain_text("This key cannot call")
            await expect(page.locator(".toast")).to_have_count(0)
            await expect(page.locator(".tile[data-state=failed]")).to_have_count(2)
        sent = await pages[0].evaluate("room.peers.size")
        await pages[0].get_by_role("button", name="Leave").click()
        await expect(pages[0].locator("#lasting")).to_be_hidden()
        assert sent == 2
        await browser.clean()  # before the server ends, so that no page looks for it


# --- presence alone ends no call


@BOTH
@pytest.mark.alone
@pytest.mark.xdist_group("busy")
async def test_a_call_outlives_the_word_of_a_server_that_its_other_end_has_left(
    browser: Browser, server: SignallingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = await pair(browser, server)
    await bob.clock.install()
    await ann.evaluate("() => { window.WebSocket = class { close() {} }; }")  # there is no way back for a while
    await ann.evaluate("probe.sockets.at(-1).close()")
    await until(ann, "room.state === 'reconnecting'")
    await presence_of(bob, left=await bob.evaluate("[...room.peers.keys()]"))
    await until(bob, f"{PEER}.away")
    for _ in range(5):
        await bob.clock.fast_forward(60_000)
    assert await bob.evaluate("room.peers.size") == 1
    await decoding(bob, beyond=await decoding(bob))
    await ann.get_by_role("button", name="Leave").click()
    await expect(bob.locator(".tile:not(.own)")).to_have_count(0)


async def test_nobody_is_removed_while_the_own_connection_to_the_server_is_down(
    browser: Browser, server: SignallingServer
) -> None:
    _ann, bob = await pair(browser, server)
    await presence_of(bob, left=await bob.evaluate("[...room.peers.keys()]"))
    await until(bob, f"{PEER}.away")
    await bob.evaluate("() => { window.Kept = WebSocket; window.WebSocket = class { close() {} }; }")
    await bob.evaluate("probe.sockets.at(-1).close()")
    await until(bob, "room.state === 'reconnecting'")
    await bob.clock.install()
    await bob.evaluate("probe.connections.at(-1).close()")
    for _ in range(5):
        await bob.clock.fast_forward(60_000)
    assert await bob.evaluate("room.peers.size") == 1


async def presence_of(page: Page, *, left: list[str]) -> None:
    """Let the server's connection of a page say that somebody has left."""
    await page.evaluate(
        """(left) => probe.sockets.at(-1).onmessage({ data: JSON.stringify(
          { type: "presence", channel: "room", joined: [], left: left.map((peerId) => ({ peerId })) }) })""",
        left,
    )


async def test_waits_grow_with_an_outage_and_never_far_beyond_it(browser: Browser, server: SignallingServer) -> None:
    """After an outage of 14 s the next attempt is at most 5 s away; after one of hours it is half a minute."""
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    await page.clock.install()
    await page.evaluate("""() => {
      window.attempts = [];
      window.WebSocket = class {
        constructor() { attempts.push(performance.now()); setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
        close() {}
      };
      window.lost = performance.now();
      probe.sockets.at(-1).close();
    }""")
    await until(page, "room.state === 'reconnecting'")
    for _ in range(70):
        await page.clock.run_for(1_000)
    times = await page.evaluate("attempts.map((at) => (at - lost) / 1000)")
    early = [it for it in times if it < 20]
    waits = [later - earlier for earlier, later in zip([0, *early], early, strict=False)]
    assert waits[0] < 1
    assert max(waits) < 5
    assert len(times) < 30


KEEPING_SERVER = """() => {
  window.asked = [];
  const rounds = [
    [{ type: "message", offset: 6, data: { text: "six" } }],
    [
      { type: "lost", epoch: "e", offset: 9, count: 3 },
      { type: "message", offset: 6, data: { text: "six again" } },
      { type: "message", offset: 10, data: { text: "ten" } },
    ],
    [{ type: "lost", epoch: "f", offset: 0 }, { type: "message", offset: 1, data: { text: "one" } }],
  ];
  window.WebSocket = class {
    static OPEN = 1;
    readyState = 1;
    constructor(url) {
      asked.push(new URL(url).searchParams.get("recover"));
      this.say = (frame) => this.onmessage?.({ data: JSON.stringify(frame) });
      const epoch = asked.length > 4 ? "f" : "e";
      setTimeout(() => {
        this.onopen?.();
        this.say({ type: "welcome", peerId: "ann", resumeToken: "t", metadata: {}, epoch, offset: 2 });
      });
      window.socket = this;
    }
    send(text) {
      const { type, channel, requestId, epoch = null, offset = null } = JSON.parse(text);
      if (type !== "subscribe") return;
      asked.push([epoch, offset]);
      this.say({ type: "ack", requestId, epoch: asked.length > 4 ? "f" : "e", offset: epoch === null ? 5 : 20 });
      this.say({ type: "presence", channel, joined: [], left: [] });
      for (const frame of rounds.shift() ?? []) this.say({ channel, from: "bob", ...frame });
    }
    close() {}
  };
  window.drop = () => socket.onclose({ code: 1006, reason: "" });
  return room.leave().then(() => room.join({ channel: "room", media: "none" }));
}"""


async def test_the_chat_is_not_lost_over_a_reconnect_or_says_how_much_of_it_is(
    browser: Browser, server: SignallingServer
) -> None:
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    await page.evaluate(KEEPING_SERVER)
    texts = page.locator(".messages li")
    for _ in range(2):
        await until(page, "room.state === 'joined' && asked.length % 2 === 0 && asked.length > 0")
        await page.evaluate("drop()")
        await until(page, "room.state === 'reconnecting'")
    await until(page, "room.state === 'joined'")
    await expect(texts).to_have_text(
        [
            re.compile("six$"),
            "3 messages were lost while you were away.",
            re.compile("ten$"),
            "While the server was away, messages may have been lost.",
            re.compile("one$"),
        ]
    )
    assert await page.evaluate("asked") == ["1", [None, None], "e:2", ["e", 6], "e:2", ["e", 10]]


# --- floods and names


async def test_ten_thousand_messages_are_drawn_together(browser: Browser, server: SignallingServer) -> None:
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    await page.evaluate("""() => {
      window.looks = 0;
      const list = document.getElementById("messages");
      Object.defineProperty(list, "scrollHeight", { get() { looks += 1; return 0; } });
      const text = "x".repeat(100_000);
      for (let n = 0; n < 10_000; n++) room.emit("data", { from: "eve", data: { text: n + text }, kind: "broadcast" });
    }""")
    await expect(page.locator(".message")).to_have_count(200)
    assert await page.evaluate("looks") <= 2
    lengths = "[...document.querySelectorAll('.text')].map((element) => element.textContent.length)"
    assert set(await page.evaluate(lengths)) == {4000}
    await expect(page.locator(".message .text").last).to_contain_text("9999x")


async def test_names_of_others_are_text_in_one_direction_and_nobody_speaks_for_another(
    browser: Browser, server: SignallingServer
) -> None:
    page = await browser.room(server.http_url, channel="room", name="Ann", media="none")
    name = "\u202eEve\u2066 <b>\n\u0007" + "x" * 500
    token = server.mint_token(peer_id="eve", peer_metadata={"name": name})
    async with MeteredPeer(token_provider=lambda: token, url=server.url) as peer:
        await peer.join("room")
        await until(page, "room.peers.size === 1")
        shown = await page.locator(".tile:not(.own) .name").text_content()
        assert shown is not None
        assert shown.startswith("Eve <b>x")
        assert len(shown) == 80
        await peer.send({"type": "chat", "name": "Bob", "text": "I am Bob"})
        await expect(page.locator(".message.theirs .who b")).to_have_text(shown)


async def test_names_that_show_nothing_are_none(browser: Browser, server: SignallingServer) -> None:
    page = await joining(browser, server)
    assert await page.evaluate("""async () => {
      const { shown } = await import("/page/names.js");
      return ["\\u200d\\u202e", "  ", "", null, 7, "\\ud800", "a\\u0301\\u0301"].map((name) => shown(name));
    }""") == [None, None, None, None, None, None, "a\u0301\u0301"]


async def test_one_id_for_many_calls_runs_no_more_of_them(browser: Browser, server: SignallingServer) -> None:
    page = await joining(browser, server)
    answers = await page.evaluate("""async () => {
      const { Methods } = await import("/page/rpc_methods.js");
      const methods = new Methods();
      const told = [];
      let running = 0;
      const wait = {
        wait() {
          running += 1;
          return new Promise((resolve) => this.signal.addEventListener("abort", resolve));
        },
      };
      for (let n = 0; n < 100; n++) methods.run(wait, 1, "wait", []).then(({ text }) => told.push(text));
      const before = running;
      methods.cancel(1);
      await new Promise((resolve) => setTimeout(resolve));
      return [before, told.filter((text) => text.includes("1429")).length, told.length];
    }""")
    assert answers == [64, 36, 100]
