"""The calls that one remote makes: which handler runs, and how its answer goes out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ..core.rpc import callee as core
from ..core.rpc.chunks import CHUNK_SIZE, MAX_MESSAGE_SIZE
from ..core.rpc.messages import Failure, Success
from ..log import Logger
from .built_in import RpcResponseTooLargeError
from .codec import Codec, codec_of
from .errors import error_object
from .handlers import Handlers
from .methods import RpcMethods
from .rpc_channel import RpcChannel


@dataclass(frozen=True, slots=True)
class _Ended:
    """Note that a handler has ended."""

    ticket: int


class Serving:
    """Carries out the decisions of `core.rpc.callee.Callee`. `channel` returns a channel by its number, or None."""

    def __init__(
        self,
        methods: RpcMethods,
        caller: str,
        channel: Callable[[int], RpcChannel | None],
        logger: Logger,
        *,
        debug: bool,
    ) -> None:
        self.callee = core.Callee()
        self.handlers = Handlers(methods, caller, logger, self._answered, debug=debug)
        self._channel = channel
        self._effects: deque[core.Effect | _Ended] = deque()
        self._is_performing = False
        self._unwritten: set[int] = set()
        self._ended_early: set[int] = set()

    def perform(self, effects: Iterable[core.Effect | _Ended]) -> None:
        """Carry out decisions, and those that follow from them."""
        self._effects.extend(effects)
        if self._is_performing or not self._effects:
            return
        self._is_performing = True
        try:
            while self._effects:
                self._perform_one(self._effects.popleft())
        finally:
            self._is_performing = False

    def _perform_one(self, effect: core.Effect | _Ended) -> None:
        match effect:
            case core.Run():
                self._run(effect)
            case core.Answer():
                self._send_answer(effect)
            case _Ended(ticket):
                self._free_place(ticket)
            case core.Stop(ticket):
                self.handlers.stop(ticket)
            case core.Refuse():
                self.handlers.refuse(effect, codec_of(effect.format))

    def _run(self, run: core.Run) -> None:
        channel = None if run.channel is None else self._channel(run.channel)
        max_size = MAX_MESSAGE_SIZE if channel is None else channel.max_size
        self.handlers.start(run, codec_of(run.format), max_size, self._ended)

    def _answered(self, ticket: int, answer: bytes) -> None:
        self.perform(self.callee.answered(ticket, answer))

    def _ended(self, ticket: int) -> None:
        self.perform([_Ended(ticket)])  # behind its answer, which may be waiting to be carried out

    def _free_place(self, ticket: int) -> None:
        """Give the place of a handler to the next one, unless its answer is large and still here."""
        if ticket in self._unwritten:
            self._ended_early.add(ticket)
        else:
            self.perform(self.callee.ended(ticket))

    def _send_answer(self, answer: core.Answer) -> None:
        channel = self._channel(answer.channel)
        if channel is None:
            return
        if answer.is_batch:
            channel.answer(_join(answer.answers, channel.codec, channel.max_size))
        elif answer.ticket is None or len(answer.answers[0]) <= CHUNK_SIZE:
            channel.answer(answer.answers[0])
        else:
            self._unwritten.add(ticket := answer.ticket)
            channel.answer(answer.answers[0], lambda error: self._written(ticket))

    def _written(self, ticket: int) -> None:
        self._unwritten.discard(ticket)
        if ticket in self._ended_early:
            self._ended_early.discard(ticket)
            self.perform(self.callee.ended(ticket))


def _join(answers: Sequence[bytes], codec: Codec, max_size: int) -> bytes:
    """Make a batch of answers, the largest of which give way to errors until it fits."""
    parts = list(answers)
    size = sum(len(part) + 1 for part in parts) + 1
    for index in sorted(range(len(parts)), key=lambda it: -len(parts[it])):
        if size <= max_size:
            break
        size -= len(parts[index])
        parts[index] = _too_large(parts[index], codec)
        size += len(parts[index])
    return codec.join(parts)


def _too_large(answer: bytes, codec: Codec) -> bytes:
    """Return the error that takes the place of an answer."""
    (item,) = codec.decode(answer).items
    assert isinstance(item, Success | Failure)
    return codec.encode_error(item.id, error_object(RpcResponseTooLargeError()))
