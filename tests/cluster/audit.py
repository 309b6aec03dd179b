"""What a soak test holds the server to: messages come once and in order or are told as lost, presence alternates.

Pure: times are arguments. A message has a number of its own for each sender and scope, a scope being a channel or the
directs to one client. Numbers of a scope go up by one for each attempt to send, whatever becomes of it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Flow:
    """The messages of one sender in one scope: when each confirmed one was sent, by its number."""

    last: int = 0
    confirmed: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Inbox:
    """What one receiver has of one scope."""

    seen_to: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    told: int = 0
    told_unknown_at: float | None = None


class MessageAudit:
    """Compares what was sent with what arrived and what was told as lost."""

    def __init__(self) -> None:
        self.seen = 0
        self.told = 0
        self._twice: list[str] = []
        self._late: list[tuple[str, str, str, int]] = []
        self._flows: dict[str, dict[str, Flow]] = defaultdict(lambda: defaultdict(Flow))
        self._inboxes: dict[tuple[str, str], Inbox] = {}

    @property
    def confirmed(self) -> int:
        """Number of messages that the server has acknowledged."""
        return sum(len(flow.confirmed) for flows in self._flows.values() for flow in flows.values())

    @property
    def violations(self) -> list[str]:
        """What was wrong so far.

        A message that was refused may still come, since a request that gets no answer in time may have its effect
        later: then it may come after those that were sent meanwhile.
        """
        return self._twice + [
            f"{receiver} got number {number} of {sender} in {scope} after a later one"
            for receiver, scope, sender, number in self._late
            if number in self._flows[scope][sender].confirmed
        ]

    def expect(self, receiver: str, scope: str) -> None:
        """Hold the server to what comes to a receiver from now on."""
        self._inboxes[receiver, scope] = Inbox({sender: flow.last for sender, flow in self._flows[scope].items()})

    def number(self, sender: str, scope: str) -> int:
        """Return the number of a message that is about to be sent."""
        flow = self._flows[scope][sender]
        flow.last += 1
        return flow.last

    def confirm(self, sender: str, scope: str, number: int, sent_at: float) -> None:
        """Note that the server has acknowledged a message."""
        self._flows[scope][sender].confirmed[number] = sent_at

    def arrive(self, receiver: str, scope: str, sender: str, number: int) -> None:
        """Note that a message has arrived."""
        inbox = self._inboxes.get((receiver, scope))
        if inbox is None:
            return
        self.seen += 1
        last = inbox.seen_to.get(sender, 0)
        if number in inbox.skipped[sender]:
            inbox.skipped[sender].remove(number)
            self._late.append((receiver, scope, sender, number))
            return
        if number <= last:
            self._twice.append(f"{receiver} got number {number} of {sender} in {scope} twice")
            return
        inbox.skipped[sender].update(range(last + 1, number))
        inbox.seen_to[sender] = number

    def lost(self, receiver: str, scope: str, count: int | None, at: float) -> None:
        """Note that a receiver was told of a loss."""
        self.told += 1
        inbox = self._inboxes.get((receiver, scope))
        if inbox is None:
            return
        if count is None:
            inbox.told_unknown_at = at
        else:
            inbox.told += count

    def missing(self) -> dict[tuple[str, str], list[str]]:
        """Return the confirmed messages that have neither arrived nor been told as lost, by receiver and scope."""
        found = {}
        for (receiver, scope), inbox in self._inboxes.items():
            absent = []
            for sender, flow in self._flows[scope].items():
                if sender == receiver:
                    continue
                last = inbox.seen_to.get(sender, 0)
                absent += [
                    f"{sender}/{number}"
                    for number, sent_at in flow.confirmed.items()
                    if (number > last or number in inbox.skipped[sender])
                    and (inbox.told_unknown_at is None or sent_at > inbox.told_unknown_at)
                ]
            if len(absent) > inbox.told:
                found[receiver, scope] = absent
        return found


class PresenceAudit:
    """Follows what observers are told of peers: joined and left alternate, and nobody leaves who is only away for a
    moment.

    `return_time` is how long a lost client may be away before others are told, `margin` what a slow machine may take
    from it.
    """

    def __init__(self, return_time: float, margin: float) -> None:
        self.violations: list[str] = []
        self.changes = 0
        self._shortest = return_time - margin
        self._present: dict[tuple[str, str], set[str]] = {}
        self._away_since: dict[str, float] = {}
        self._steady: set[str] = set()

    def keep(self, peer: str) -> None:
        """Expect a peer to stay: `left` is right only after it was away for long."""
        self._steady.add(peer)

    def away(self, peer: str, at: float) -> None:
        """Note that a peer has lost its connection."""
        self._away_since.setdefault(peer, at)

    def back(self, peer: str) -> None:
        """Note that a peer is in all its channels again."""
        self._away_since.pop(peer, None)

    def snapshot(self, observer: str, channel: str, peers: set[str], at: float) -> None:
        """Note all peers of a channel, as an observer gets them."""
        before = self._present.get((observer, channel))
        self._present[observer, channel] = set(peers)
        for peer in (before or set()) - peers:
            self._check_leave(observer, channel, peer, at, "is not in the snapshot of")

    def change(self, observer: str, channel: str, joined: set[str], left: set[str], at: float) -> None:
        """Note who came and went."""
        present = self._present.setdefault((observer, channel), set())
        self.changes += len(joined) + len(left)
        for peer in joined & present:
            self.violations.append(f"{observer} heard that {peer} joined {channel} twice")
        for peer in left - present:
            self.violations.append(f"{observer} heard that {peer} left {channel}, where it was not")
        for peer in left & present:
            self._check_leave(observer, channel, peer, at, "left")
        present |= joined
        present -= left

    def differing(self, channel: str, members: set[str]) -> list[str]:
        """Return the observers whose peers are not the members of a channel, once nothing changes any more."""
        return [
            f"{observer}: without {sorted(members - present - {observer})}, with {sorted(present - members)}"
            for (observer, name), present in self._present.items()
            if name == channel and present - {observer} != members - {observer}
        ]

    def _check_leave(self, observer: str, channel: str, peer: str, at: float, what: str) -> None:
        if peer not in self._steady:
            return
        since = self._away_since.get(peer)
        if since is None or at - since < self._shortest:
            how = "was there" if since is None else f"was away for {at - since:.1f} s only"
            self.violations.append(f"{peer} {what} {channel} for {observer}, but {how}")
