"""Signals on their way to one remote, and what becomes of those that cannot be delivered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ..core.negotiation.signals import DescriptionSignal, Signal
from ..errors import DisconnectedError, MeteredRealtimeError, NotConnectedError
from ..log import Logger
from .interfaces import Signaller


class DeliveryObserver(Protocol):
    """Handles descriptions that were not delivered."""

    def not_delivered(self, signal: DescriptionSignal, error: Exception) -> None: ...


class SignalDelivery:
    """Sends signals in order, each in a task. `delivered_offer` is the offer that the server took last."""

    def __init__(
        self,
        signaller: Signaller,
        observer: DeliveryObserver,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        logger: Logger,
    ) -> None:
        self.delivered_offer = ""
        self._signaller = signaller
        self._observer = observer
        self._spawn = spawn
        self._logger = logger

    def send(self, signal: Signal) -> None:
        """Begin to send a signal."""
        self._spawn(self._deliver(signal))

    async def _deliver(self, signal: Signal) -> None:
        try:
            await self._signaller.send_signal(signal)
        except (NotConnectedError, DisconnectedError):
            # `set_reachable` repairs that: an offer is sent again, an answer when its offer comes again.
            self._logger.debug("signal not delivered: signalling is down")
        except (MeteredRealtimeError, ValueError) as error:
            if isinstance(signal, DescriptionSignal):
                self._observer.not_delivered(signal, error)
            else:
                self._logger.debug("candidate not delivered", {"error": str(error)})
        else:
            if isinstance(signal, DescriptionSignal) and signal.kind == "offer":
                self.delivered_offer = signal.sdp
