"""The calls of two peers of a test, with methods and options of their own."""

from __future__ import annotations

from typing import Any

from metered_realtime import MeteredPeer, RemotePeer
from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.methods import RpcMethods
from metered_realtime.rpc.remote import RemoteRpc
from tests.support.peers import Pair


class RpcPair:
    """The calls of a `Pair`: a calls b with `to_b`, and offers `methods_a`."""

    def __init__(self, pair: Pair, **options: Any) -> None:
        self.pair = pair
        self.methods_a, self.methods_b = RpcMethods(), RpcMethods()
        self.a = tie(pair.a, pair.to_b, self.methods_a, **options)
        self.b = tie(pair.b, pair.to_a, self.methods_b, **options)

    @property
    def to_b(self) -> RpcClient:
        return self.a.client

    @property
    def to_a(self) -> RpcClient:
        return self.b.client

    async def close(self) -> None:
        await self.a.wait_closed()
        await self.b.wait_closed()


def tie(peer: MeteredPeer, remote: RemotePeer, methods: RpcMethods, **options: Any) -> RemoteRpc:
    """Put these methods and options in the place of what the remote's calls have."""
    rpc = remote._rpc = RemoteRpc(remote, methods, **options)
    return rpc
