"""The calls between the two peers of a test."""

from __future__ import annotations

from metered_realtime.rpc.client import RpcClient
from metered_realtime.rpc.methods import RpcMethods
from tests.support.peers import Pair


class RpcPair:
    """The calls of a `Pair`: a calls b with `to_b`, and offers `methods_a`."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.methods_a: RpcMethods = pair.a.rpc
        self.methods_b: RpcMethods = pair.b.rpc

    @property
    def to_b(self) -> RpcClient:
        return self.pair.to_b.rpc

    @property
    def to_a(self) -> RpcClient:
        return self.pair.to_a.rpc
