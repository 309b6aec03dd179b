"""A way to a remote that leads nowhere."""

from __future__ import annotations

from metered_realtime.core.negotiation.signals import Signal


class SentSignals(list[Signal]):
    """A `Signaller` that keeps what is sent."""

    async def send_signal(self, signal: Signal) -> None:
        self.append(signal)

    def check_signal(self, signal: Signal) -> None: ...
    def connection_lost(self) -> None: ...
