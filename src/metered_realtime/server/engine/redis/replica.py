"""What a node knows of a channel or of a peer's mailbox, and in which order it hears of it. Pure.

Items come through Redis in the order of `seq`. A node that has no entry hears none; the item of its first join begins
what it knows, with the state that the reply to the join has.

States:
- `new`: nothing is known. Items before the node's own are of an earlier stay, and dropped.
- `live`: every item up to `seq` has been heard.
- `behind`: something is missing. Items are held until `restore` tells the state again.

    state   event                                  next     effects
    new     own item, reply known                  live     PlacedReply
    new     restore                                live     none: nobody has been told anything
    live    item seq + 1, or a mark at seq         live     DeliverStored, Tell, PlacedReply, Pass
    live    item at or before seq, former epoch    live     PlacedReply if it is the node's own
    live    item beyond seq + 1, other epoch       behind   none; `is_behind` asks for `restore`
    live    own item, reply of a `jump`            live     PlacedReply: no entry has been here meanwhile
    behind  restore                                live     Lost, Tell who came, DeliverStored, Tell who went
    any     lose                                   behind   none; open requests are returned

An own item waits for the reply of its request, and what follows waits with it: both come within a moment. Invariants:
messages are delivered in the order of their offsets, each once; a PlacedReply stands exactly where its item is.

After another epoch the storage is new, and other nodes have to enter their peers again. Whoever is not there yet is
`missing`, and still a member for others, until `settle` is called after the deadline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from msgspec import Raw

from ..contract import Envelope, Member, MissedMessages, Position, Stored
from .items import COUNTED, Item

ReplicaState: TypeAlias = Literal["new", "live", "behind"]

MAX_HELD = 10_000
"""Maximum number of items that are held. More come only if Redis answers slowly and is written to fast; they are read
from it again."""


MAX_FORMER_EPOCHS = 16
"""Maximum number of epochs that are remembered as over. More losses of the storage do not happen within a moment."""


@dataclass(frozen=True, slots=True)
class DeliverStored:
    """A message, in order."""

    epoch: str
    stored: Stored


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages before `position` are gone, `count` of them, None if nobody knows."""

    position: Position
    count: int | None


@dataclass(frozen=True, slots=True)
class Tell:
    """Peers that came and went."""

    joined: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """An item that changes nothing here, at its place in the order."""

    item: Item


@dataclass(frozen=True, slots=True)
class PlacedReply:
    """The place of a request in the order: its reply, and the state there."""

    request: int
    reply: Reply
    position: Position
    members: tuple[Member, ...] = ()


Effect: TypeAlias = DeliverStored | Lost | Tell | Pass | PlacedReply


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at `seq`, and what came after the position that the node knew."""

    epoch: str
    seq: int
    offset: int
    members: Mapping[str, Member] = field(default_factory=dict)
    missed: MissedMessages | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request that has a place in the order. `value` is the caller's.

    `jump`: no entry of the node was here when it was made. `stays`: the node has an entry after it.
    """

    value: Any = None
    snapshot: Snapshot | None = None
    jump: bool = False
    stays: bool = True


class Replica:
    """See the module. `node` is the name by which items say that they are the node's own."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.state: ReplicaState = "new"
        self.epoch = ""
        self.seq = self.offset = 0
        self.members: dict[str, Member] = {}
        self.missing: dict[str, float] = {}
        self._former_epochs: set[str] = set()
        self._open: dict[int, Reply | None] = {}
        self._held: deque[tuple[Item, bool]] = deque()

    @property
    def position(self) -> Position:
        """How far messages have been delivered."""
        return Position(self.epoch, self.offset)

    @property
    def is_behind(self) -> bool:
        """Whether `restore` is needed."""
        return self.state == "behind"

    @property
    def is_busy(self) -> bool:
        """Whether a request has no place in the order yet."""
        return bool(self._open)

    def expect(self, request: int) -> None:
        """Note a request that has been sent, and will have an item."""
        self._open[request] = None

    def forget(self, request: int) -> list[Effect]:
        """Handle a request that failed: its item, if there is one, is nobody's."""
        self._open.pop(request, None)
        return self._drain()

    def reply(self, request: int, reply: Reply) -> list[Effect]:
        """Handle the reply to a request."""
        if request in self._open:
            self._open[request] = reply
        return self._drain()

    def hear(self, item: Item, *, by_pattern: bool = False) -> list[Effect]:
        """Handle an item. `by_pattern` if it is a copy for patterns, which is needed while the node has no entry."""
        if self.state == "new" and not self._held and not self._is_own(item):
            return [_deliver(item)] if by_pattern else []
        self._held.append((item, by_pattern))
        effects = self._drain()
        if len(self._held) > MAX_HELD:
            # What is dropped leaves a gap before what comes next.
            self._held.clear()
            self.state = "behind" if self.state != "new" else "new"
        return effects

    def lose(self, node: str) -> list[int]:
        """Handle that items may be missing, and that the node has another name. Return the open requests."""
        requests, self._open = list(self._open), {}
        self.node = node
        self._held.clear()
        if self.state == "live":
            self.state = "behind"
        return requests

    def restore(self, snapshot: Snapshot, missing_until: float) -> list[Effect]:
        """Handle the state as Redis tells it."""
        effects: list[Effect] = []
        was_new, is_same = self.state == "new", snapshot.epoch == self.epoch
        if not was_new and is_same and snapshot.seq < self.seq:
            return self._drain()  # of a request from before
        if was_new:
            self._adopt(snapshot)
        else:
            self._catch_up(snapshot, is_same, missing_until, effects)
        # Items of other epochs are over. Own ones keep their place for the answer.
        self._held = deque(held for held in self._held if held[0].epoch == snapshot.epoch or self._is_own(held[0]))
        self._former_epochs |= {item.epoch for item, _ in self._held} - {snapshot.epoch}
        return effects + self._drain()

    def settle(self, now: float) -> list[Effect]:
        """Give up the missing peers whose time is over."""
        gone = [peer for peer, deadline in self.missing.items() if deadline <= now]
        if not gone or self.state != "live":
            return []
        left = tuple(self.members.pop(peer) for peer in gone)
        for peer in gone:
            del self.missing[peer]
        return [Tell(left=left)]

    # --- in order

    def _drain(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._held and self._apply(*self._held[0], effects):
            self._held.popleft()
        return effects

    def _is_own(self, item: Item) -> bool:
        return item.node == self.node and item.request in self._open

    def _apply(self, item: Item, by_pattern: bool, effects: list[Effect]) -> bool:
        """Carry out an item. Return False if it has to wait."""
        if self.state == "behind":
            return False
        if by_pattern and self.state == "live" and (item.epoch == self.epoch or item.epoch in self._former_epochs):
            if item.epoch == self.epoch and item.offset > self.offset:
                effects.append(_deliver(item))
            return True
        reply = self._open.get(item.request) if item.node == self.node else None
        if reply is None and self._is_own(item):
            return False
        if reply is not None and reply.snapshot is not None and (self.state == "new" or self._jumps(item, reply)):
            self._adopt(reply.snapshot)
            self._answer(item, reply, effects)
            if item.kind == "p" and not isinstance(item.content, Envelope):
                effects.append(Tell(*item.content))
            return True
        if self.state == "new":
            if reply is not None:
                self._answer(item, reply, effects)
            return True
        if item.kind == "r":
            effects.append(Pass(item))
            return True
        if item.epoch != self.epoch:
            if item.epoch not in self._former_epochs:
                self.state = "behind"
                return False
            return reply is None or self._answer(item, reply, effects)
        if item.seq > self.seq + (item.kind in COUNTED):
            self.state = "behind"
            return False
        told = self._change(item) if item.kind in COUNTED and item.seq > self.seq else None
        if reply is not None:
            self._answer(item, reply, effects)
        if told is not None and (reply is None or reply.stays):
            effects.append(told)
        return True

    def _jumps(self, item: Item, reply: Reply) -> bool:
        is_next = item.epoch == self.epoch and item.seq <= self.seq + (item.kind in COUNTED)
        return reply.jump and not is_next

    def _answer(self, item: Item, reply: Reply, effects: list[Effect]) -> bool:
        del self._open[item.request]
        effects.append(PlacedReply(item.request, reply, self.position, tuple(self.members.values())))
        return True

    def _change(self, item: Item) -> Effect | None:
        """Move on by one item. Return what is to be told."""
        told: Effect | None
        if isinstance(item.content, Envelope):
            self.offset = item.offset
            told = DeliverStored(item.epoch, Stored(item.offset, item.content))
        else:
            told = self._presence(*item.content)
        self.seq = item.seq
        return told

    def _presence(self, came: tuple[Member, ...], went: tuple[Member, ...]) -> Tell | None:
        joined, left = [], []
        for member in came:
            if not self._looks_like(member):
                joined.append(member)
            self.members[member.peer_id] = member
            self.missing.pop(member.peer_id, None)
        for member in went:
            if member.peer_id in self.members:
                left.append(replace(self.members.pop(member.peer_id), expelled=member.expelled))
                self.missing.pop(member.peer_id, None)
        return Tell(tuple(joined), tuple(left)) if joined or left else None

    # --- as a whole

    def _adopt(self, snapshot: Snapshot) -> None:
        self._move_to(snapshot)
        self.members = dict(snapshot.members)
        self.missing = {}

    def _move_to(self, snapshot: Snapshot) -> None:
        if snapshot.epoch != self.epoch:
            if len(self._former_epochs) >= MAX_FORMER_EPOCHS:
                self._former_epochs.clear()
            self._former_epochs.add(self.epoch)
        self.epoch, self.seq, self.offset = snapshot.epoch, snapshot.seq, snapshot.offset
        self.state = "live"

    def _catch_up(self, snapshot: Snapshot, is_same: bool, missing_until: float, effects: list[Effect]) -> None:
        joined = tuple(member for member in snapshot.members.values() if not self._looks_like(member))
        gone = [peer for peer in self.members if peer not in snapshot.members]
        self.members.update(snapshot.members)
        self.missing = {peer: deadline for peer, deadline in self.missing.items() if peer not in snapshot.members}
        if not is_same:
            for peer in gone:
                self.missing[peer] = missing_until
        left = tuple(self.members.pop(peer) for peer in gone if peer not in self.missing)
        missed = snapshot.missed if snapshot.missed is not None else MissedMessages(lost=None)
        self._move_to(snapshot)
        if missed.lost != 0:
            before = missed.messages[0].offset - 1 if missed.messages else snapshot.offset
            effects.append(Lost(Position(snapshot.epoch, before), missed.lost))
        if joined:
            effects.append(Tell(joined))
        effects.extend(DeliverStored(snapshot.epoch, stored) for stored in missed.messages)
        if left:
            effects.append(Tell(left=left))

    def _looks_like(self, member: Member) -> bool:
        known = self.members.get(member.peer_id)
        return known is not None and _bytes(known.metadata) == _bytes(member.metadata)


def _deliver(item: Item) -> DeliverStored:
    assert isinstance(item.content, Envelope)
    return DeliverStored(item.epoch, Stored(item.offset, item.content))


def _bytes(value: Raw | None) -> bytes | None:
    return None if value is None else bytes(memoryview(value))
