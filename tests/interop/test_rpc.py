"""A browser calls Python and Python calls the browser, with the page's client for room channels and bare ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page

from metered_realtime import MeteredPeer, PeerJoined, RemotePeer
from metered_realtime.rpc.built_in import (
    RpcApplicationError,
    RpcBusyError,
    RpcResponseTimeoutError,
    RpcUnsupportedMethodError,
)
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.errors import RpcError
from metered_realtime.rpc.methods import RpcInvocationData, RpcMethods
from metered_realtime.server import SignallingServer
from tests.support.browsers import Browser, until
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

pytestmark = pytest.mark.asyncio(loop_scope="package")

BOTH = pytest.mark.browsers("chromium", thorough=["firefox"])

SET_UP = """async (id) => {
  const { Rpc, RpcError } = await import("/page/rpc.js");
  window.RpcError = RpcError;
  window.begun = window.stopped = 0;
  window.methods = {
    join: (...words) => words.join("-"),
    named: ({ a, b }) => a - b,
    nothing: () => undefined,
    broken: () => { throw new Error("the secret of the page"); },
    broke: () => { throw new RpcError(2300, "Insufficient funds", { missing: 7 }); },
    echo: (value) => value,
    odd: () => 1n,
    oddError: () => { throw new RpcError(2300, "Insufficient funds", 1n); },
    wordless: () => () => 1,
    hang() {
      window.begun += 1;
      this.signal.addEventListener("abort", () => (window.stopped += 1));
      return new Promise((resolve) => this.signal.addEventListener("abort", resolve));
    },
  };
  room.addEventListener("channel", ({ detail: { channel } }) => {
    if (channel.options.protocol === "jsonrpc-2.0") window.inbound = new Rpc(channel, window.methods);
  });
  window.open_rpc = async () => {
    const channel = room.openChannel(id, "rpc", { protocol: "jsonrpc-2.0", ordered: true });
    window.rpc = new Rpc(await channel.opened(), window.methods);
  };
  window.open_bare = async () => {
    const raw = probe.connections.at(-1).createDataChannel("mine", { protocol: "jsonrpc-2.0" });
    await new Promise((resolve) => (raw.onopen = resolve));
    return raw;
  };
}"""


class Broke(RpcError, code=2_300, message="Insufficient funds"):
    pass


class Meeting:
    """A bot and a page, and the calls between them."""

    def __init__(self, page: Page, bot: MeteredPeer, remote: RemotePeer) -> None:
        self.page, self.bot = page, bot
        self.methods: RpcMethods = bot.rpc
        self.client: RpcClient = remote.rpc

    async def call(self, method: str, params: Any, options: Any = None) -> Any:
        """Let the page call Python. What goes wrong comes back as its code, message and data."""
        return await self.page.evaluate(
            """async ([method, params, options]) => {
              try { return await window.rpc.call(method, params, options ?? {}); }
              catch (error) { return [error instanceof RpcError, error.code, error.message, error.data ?? null]; }
            }""",
            [method, params, options],
        )


@pytest_asyncio.fixture(loop_scope="package", params=["!python", "~python"])
async def meeting(request: pytest.FixtureRequest, launched: Browser) -> AsyncIterator[Meeting]:
    async with SignallingServer(port=0) as server:
        bot = MeteredPeer(token_provider=lambda: server.mint_token(request.param), url=server.url)
        met: asyncio.Future[RemotePeer] = asyncio.get_running_loop().create_future()
        bot.on(PeerJoined, lambda event: met.set_result(event.peer))
        await bot.join("room")
        page = await launched.room(server.http_url, channel="room", name="Ann", media="none")
        async with asyncio.timeout(PATIENCE):
            remote = await met
        await until(page, "(id) => room.peers.has(id)", bot.peer_id)
        await page.evaluate(SET_UP, bot.peer_id)
        yield Meeting(page, bot, remote)
        await bot.close()
        await launched.clean()


@BOTH
async def test_the_page_calls_python(meeting: Meeting) -> None:
    def pay(amount: int) -> None:
        raise Broke(data={"missing": amount})

    heard: list[Any] = []
    meeting.methods.add("sum", lambda a, b: a + b)
    meeting.methods.add("nothing", lambda: None)
    meeting.methods.add("pay", pay)
    meeting.methods.add("fail", lambda: 1 / 0)
    meeting.methods.add("log", heard.append)
    meeting.methods.add_text("greet", lambda data: f"Hello {data.payload}")
    await meeting.page.evaluate("open_rpc()")
    assert await meeting.call("sum", [1, 2]) == await meeting.call("sum", {"a": 1, "b": 2}) == 3
    assert await meeting.call("nothing", []) is None
    assert await meeting.call("greet", ["größe 🎈"]) == "Hello größe 🎈"
    assert await meeting.call("pay", [7]) == [True, 2_300, "Insufficient funds", {"missing": 7}]
    assert await meeting.call("unknown", []) == [True, -32601, "Method not supported at destination", None]
    assert await meeting.call("fail", []) == [True, -32000, "Application error in method handler", None]
    await meeting.page.evaluate("rpc.notify('log', ['x'])")
    await eventually(lambda: heard == ["x"])


@BOTH
async def test_python_calls_the_page(meeting: Meeting) -> None:
    client = meeting.client
    assert await client.call("join", "a", "b") == "a-b"
    assert await client.call("named", a=5, b=2) == 3
    assert await client.call("nothing") is None
    assert await client.perform("echo", "größe 🎈") == "größe 🎈"
    with pytest.raises(RpcUnsupportedMethodError):
        await client.call("toString")
    with pytest.raises(Broke) as caught:
        await client.call("broke")
    assert caught.value.data == {"missing": 7}
    with pytest.raises(RpcApplicationError) as failed:
        await client.call("broken")
    assert "secret" not in failed.value.message
    with pytest.raises(RpcApplicationError):
        await client.call("odd")
    with pytest.raises(Broke) as without:
        await client.call("oddError")
    assert (without.value.data, await client.call("wordless")) == (None, None)
    async with client.batch() as batch:
        one, unknown = batch.call("join", "x"), batch.call("unknown")
        batch.notify("join", "y")
    assert await one == "x"
    with pytest.raises(RpcUnsupportedMethodError):
        await unknown


async def test_both_call_each_other_over_the_channel_of_the_page(meeting: Meeting) -> None:
    async def ask_back(who: RpcInvocationData) -> Any:
        return await meeting.client.call("join", "for", who.caller_identity)

    meeting.methods.add("ask_back", ask_back)
    await meeting.page.evaluate("open_rpc()")
    assert str(await meeting.call("ask_back", [])).startswith("for-")
    assert await meeting.page.evaluate("window.inbound === undefined"), "nobody opened another one"


@pytest.mark.alone
@pytest.mark.xdist_group("busy")
async def test_deadlines_and_cancellation_both_ways(meeting: Meeting) -> None:
    cancelled: list[str] = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("x")
            raise

    meeting.methods.add("hang", hang)
    await meeting.page.evaluate("open_rpc()")
    assert (await meeting.call("hang", [], {"timeout": 200}))[:2] == [True, 1502]
    await eventually(lambda: len(cancelled) == 1)
    aborted = """async () => {
      const control = new AbortController();
      setTimeout(() => control.abort("enough"), 100);
      return rpc.call("hang", [], { signal: control.signal }).catch((reason) => reason);
    }"""
    assert await meeting.page.evaluate(aborted) == "enough"
    await eventually(lambda: len(cancelled) == 2)

    with pytest.raises(RpcResponseTimeoutError):
        await meeting.client.using(timeout=0.2).call("hang")
    await until(meeting.page, "stopped === 1")
    call = asyncio.ensure_future(meeting.client.call("hang"))
    await until(meeting.page, "begun === 2")
    call.cancel()
    await until(meeting.page, "stopped === 2")


@BOTH
async def test_five_megabytes_both_ways(meeting: Meeting) -> None:
    meeting.methods.add("echo", lambda value: value)
    payload = "0123456789" * 500_000
    assert await meeting.client.using(timeout=PATIENCE).call("echo", payload) == payload
    await meeting.page.evaluate("open_rpc()")
    same = """async (timeout) => {
      const text = "0123456789".repeat(500000);
      return (await rpc.call("echo", [text], { timeout })) === text;
    }"""
    assert await meeting.page.evaluate(same, PATIENCE * 1000)


async def test_what_the_page_cannot_take_at_once_is_refused(meeting: Meeting) -> None:
    calls = [asyncio.ensure_future(meeting.client.call("hang")) for _ in range(70)]
    await eventually(lambda: sum(call.done() for call in calls) == 6)
    assert all(isinstance(call.exception(), RpcBusyError) for call in calls if call.done())
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@BOTH
async def test_messages_keep_their_order_while_the_buffer_of_the_browser_is_full(meeting: Meeting) -> None:
    heard: list[int] = []
    meeting.methods.add("note", lambda number, ballast: heard.append(number))
    await meeting.page.evaluate("open_rpc()")
    await meeting.page.evaluate(
        """async () => {
          const raw = await open_bare(), rpc = new (await import("/page/rpc.js")).Rpc(raw);
          for (let n = 0; n < 100; n++) {
            rpc.notify("note", [n, "x".repeat(20_000)]);
            if (n < 75) continue; // they wait; as soon as there is room the next one comes
            while (raw.bufferedAmount > 1_048_576) await new Promise((resolve) => setTimeout(resolve));
          }
        }"""
    )
    await eventually(lambda: len(heard) == 100)
    assert heard == list(range(100))


@BOTH
async def test_a_bare_channel_of_the_browser_carries_calls(meeting: Meeting) -> None:
    meeting.methods.add("sum", lambda a, b: a + b)
    await meeting.page.evaluate("open_rpc()")
    bare = """async () => {
      const { Rpc } = await import("/page/rpc.js");
      window.bare = new Rpc(await open_bare());
      return window.bare.call("sum", [20, 3]);
    }"""
    assert await meeting.page.evaluate(bare) == 23


FAKE_CHANNEL = """async (said) => {
  const { Rpc } = await import("/page/rpc.js");
  const fake = Object.assign(new EventTarget(), { bufferedAmount: 0, sent: [], send: (data) => fake.sent.push(data) });
  const call = new Rpc(fake).call("m").catch((error) => [error.name, error.code]);
  for (const data of said) fake.dispatchEvent(new MessageEvent("message", { data }));
  const outcome = await call;
  await new Promise((resolve) => setTimeout(resolve));
  return [outcome, fake.sent.slice(2).map((text) => JSON.parse(text).error.code)];
}"""


async def test_the_page_takes_answers_and_nonsense_of_every_kind(meeting: Meeting) -> None:
    nonsense = ["{", "5", "[]", '{"jsonrpc":"2.0","id":99,"result":1}', '{"jsonrpc":"2.0","id":null,"method":"m"}']
    for members, outcome in (
        ('"error":"x"', ["RpcError", 1510]),
        ('"error":null,"result":5', ["RpcError", 1510]),
        ('"error":{"code":-32601,"message":"m"}', ["RpcError", -32601]),
        ('"result":null', None),
    ):
        said = [*nonsense, f'{{"jsonrpc":"2.0","id":1,{members}}}']
        assert await meeting.page.evaluate(FAKE_CHANNEL, said) == [outcome, [-32700, -32600, -32600, -32600]]


@BOTH
async def test_every_pending_call_of_the_page_fails_when_python_leaves(meeting: Meeting) -> None:
    meeting.methods.add("hang", asyncio.Event().wait)
    await meeting.page.evaluate("open_rpc()")
    calling = asyncio.ensure_future(meeting.call("hang", []))
    await eventually(lambda: meeting.client.stats().running == 1)
    await meeting.bot.close()
    assert (await calling)[:2] == [True, 1503]
