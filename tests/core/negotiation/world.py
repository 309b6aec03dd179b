"""Two negotiators over a toy connection and a seeded, virtual network with a virtual clock.

The toy connection implements the m-sections of JSEP and refuses the descriptions that a real connection refuses: those
with another list of sections, and those with another ICE user fragment. It has no media; an item stands for a track.
"""

from __future__ import annotations

import heapq
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from metered_realtime.core.negotiation import negotiator as n
from metered_realtime.core.negotiation.effects import ReplacementsExhausted
from metered_realtime.core.negotiation.sdp import Description, sections, with_answer_tag, with_offer_tag

CONNECT_TIMEOUT = 15.0


class IllegalDescription(Exception):
    """A real connection would refuse the description."""


@dataclass
class ToySection:
    mid: str
    mine: str | None = None
    theirs: str | None = None


class ToyConnection:
    """The sections of one end, with its items and those of the other end in them."""

    def __init__(self, ufrag: str, wanted: list[str]) -> None:
        self.ufrag = ufrag
        self.sections: list[ToySection] = []
        self.wanted = wanted
        self.remote_ufrag: str | None = None

    def describe(self, kind: str, sections: list[ToySection], tag: str) -> str:
        lines = ["v=0", f"a=ice-ufrag:{self.ufrag}"]
        for section in sections:
            lines += ["m=video 9 UDP/TLS/RTP/SAVPF 96", f"a=mid:{section.mid}"]
            if section.mine:
                lines += ["a=sendrecv", f"a=msid:{section.mine} {section.mine}"]
            else:
                lines += ["a=recvonly"]
        sdp = "\r\n".join(lines) + "\r\n"
        return with_offer_tag(sdp, tag) if kind == "offer" else with_answer_tag(sdp, tag or None)

    def create_offer(self, tag: str) -> str:
        proposal = [ToySection(s.mid, s.mine if s.mine in self.wanted else None, s.theirs) for s in self.sections]
        for item in self.wanted:
            if all(section.mine != item for section in proposal):
                proposal.append(ToySection(self._free_mid(proposal), item))
        if not proposal:
            proposal.append(ToySection(self._free_mid(proposal)))
        return self.describe("offer", proposal, tag)

    def commit(self, offer: str, answer: Description) -> bool:
        mine = _parse(offer)
        if [s.mid for s in mine] != list(answer.mids) or not self._extends([s.mid for s in mine]):
            raise IllegalDescription("answer does not fit")
        theirs = _parse(answer.sdp)
        self.sections = [ToySection(a.mid, a.mine, b.mine) for a, b in zip(mine, theirs, strict=True)]
        self._set_remote(answer)
        return self._has_more()

    def answer(self, offer: Description) -> tuple[str, bool]:
        if not self._extends(list(offer.mids)):
            raise IllegalDescription("offer does not extend the session")
        for index, theirs in enumerate(_parse(offer.sdp)):
            if index == len(self.sections):
                self.sections.append(ToySection(theirs.mid))
            section = self.sections[index]
            section.theirs = theirs.mine
            if section.mine not in self.wanted:
                section.mine = None
        self._set_remote(offer)
        return self.describe("answer", self.sections, offer.tag or ""), self._has_more()

    def remote_items(self) -> set[str]:
        return {section.theirs for section in self.sections if section.theirs}

    def _set_remote(self, description: Description) -> None:
        if self.remote_ufrag not in (None, description.ufrag):
            raise IllegalDescription("ICE restart is not supported")
        self.remote_ufrag = description.ufrag

    def _has_more(self) -> bool:
        sent = {section.mine for section in self.sections if section.mine}
        return sent != set(self.wanted)

    def _extends(self, mids: list[str]) -> bool:
        return mids[: len(self.sections)] == [section.mid for section in self.sections]

    def _free_mid(self, sections: list[ToySection]) -> str:
        return next(m for m in map(str, itertools.count()) if all(s.mid != m for s in sections))


def _parse(sdp: str) -> list[ToySection]:
    return [ToySection(s.mid, s.stream_ids[0] if s.sends and s.stream_ids else None) for s in sections(sdp)]


@dataclass
class End:
    name: str
    polite: bool
    world: World
    items: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.negotiator = n.Negotiator(polite=self.polite)
        self.connections_made = 0
        self.rebuilds = 0
        self.busy = False
        self.effects: list[n.Effect] = []
        self.offers = 0
        self.is_muted = False
        self.refused = 0
        self.max_sections = 1_000
        self.taken_back = 0
        self._delivered = ""
        self.connection = self._fresh()
        self.peer: End

    def _fresh(self) -> ToyConnection:
        self.connections_made += 1
        return ToyConnection(f"{self.name}{self.connections_made}", self.items)

    def change(self, item: str) -> None:
        self.items.remove(item) if item in self.items else self.items.append(item)
        self.perform(self.negotiator.changed(self.world.now))

    def mute(self, seconds: float) -> None:
        """Let the server refuse all descriptions of this end for good, for some seconds."""
        self.is_muted = True
        self.world.after(seconds, self.unmute)

    def unmute(self) -> None:
        self.is_muted = False
        self.world.after(self.world.delay[1], lambda: self.perform(self.negotiator.retry(self.world.now)))

    def delivered(self, kind: str, sdp: str) -> None:
        self._delivered = sdp if kind == "offer" else self._delivered

    def was_refused(self, kind: str, sdp: str) -> None:
        """Handle the refusal of a description by the server."""
        self.refused += 1
        if kind == "answer":
            self.negotiator.answer_undeliverable(sdp)
        else:
            has_arrived = sdp == self._delivered
            self.perform(self.negotiator.offer_undeliverable(self.world.now, sdp, has_arrived=has_arrived))

    def perform(self, effects: list[n.Effect]) -> None:
        self.effects += effects
        self._work()
        if self.negotiator.deadline is not None:
            self.world.at(self.negotiator.deadline, self.timer)

    def timer(self) -> None:
        self.perform(self.negotiator.timer(self.world.now))

    def receive(self, kind: str, sdp: str) -> None:
        self.perform(self.negotiator.received(Description.parse(kind, sdp), self.world.now))  # type: ignore[arg-type]

    def _work(self) -> None:
        """Perform effects one at a time. Operations of the connection take time."""
        while self.effects and not self.busy:
            effect = self.effects.pop(0)
            match effect:
                case n.SendOffer(sdp):
                    self.world.send(self.peer, "offer", sdp)
                case n.SendAnswer(sdp):
                    self.world.send(self.peer, "answer", sdp)
                case n.ForgetOffer() | n.FollowLater():
                    pass
                case ReplacementsExhausted():
                    self.world.log(self.name, "follows only offers")
                case n.Rebuild():
                    self.rebuilds += 1
                    self.connection = self._fresh()
                case n.Unanswered(reason):
                    self.world.log(self.name, reason)
                case n.GiveUp(reason):
                    self.world.log(self.name, f"gives up: {reason}")
                    self.world.after(self.world.random.uniform(0, 1), self.recover)
                case _:
                    self.busy = True
                    self.world.after(self.world.random.uniform(0, 0.02), lambda e=effect: self._finish(e))

    def _create_offer(self) -> Description | None:
        """Create an offer, without the newest items if it would be too large. None if it is still too large."""
        while True:
            sdp = self.connection.create_offer(f"{self.connection.ufrag}.{self.offers}")
            offer = Description.parse("offer", sdp)
            if len(offer.mids) <= self.max_sections:
                return offer
            sent = {section.mine for section in self.connection.sections}
            new = [item for item in self.items if item not in sent]
            if not new:
                return None
            self.items.remove(new[-1])
            self.taken_back += 1

    def recover(self) -> None:
        if self.negotiator.phase in (n.Phase.STABLE, n.Phase.OFFERED) and not self.effects and not self.busy:
            self.perform(self.negotiator.restart(self.world.now, "recovery"))
        else:
            self.world.after(0.05, self.recover)

    def _finish(self, effect: n.Effect) -> None:
        self.busy = False
        now = self.world.now
        match effect:
            case n.CreateOffer():
                self.offers += 1
                self.negotiator.planning()
                offer = self._create_offer()
                if offer is None:
                    self.perform(self.negotiator.offer_undeliverable(now))
                else:
                    self.perform(self.negotiator.offer_created(offer, now))
            case n.CommitOffer(offer, answer):
                more = self.connection.commit(offer, answer)
                self.perform(self.negotiator.committed(now, more=more))
            case n.ApplyOffer(offer):
                answer, more = self.connection.answer(offer)
                self.perform(self.negotiator.answered(answer, now, more=more))
        self.world.check_connected()


class StubbornEnd(End):
    """A foreign end without rollback: it answers nothing while its own offer is pending, and repeats nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pending: str | None = None

    def change(self, item: str) -> None:
        self.items.remove(item) if item in self.items else self.items.append(item)
        self.offer()

    def offer(self) -> None:
        if self.pending is None:
            self.pending = _without_tag(self.connection.create_offer("x"))
            self.world.send(self.peer, "offer", self.pending)

    def receive(self, kind: str, sdp: str) -> None:
        description = Description.parse(kind, _without_tag(sdp))  # type: ignore[arg-type]
        if kind == "answer" and self.pending is not None:
            more = self.connection.commit(self.pending, description)
            self.pending = None
        elif kind == "offer" and self.pending is None:
            answer, more = self.connection.answer(description)
            self.world.send(self.peer, "answer", answer)
        else:
            return
        self.world.check_connected()
        if more:
            self.offer()

    def recover(self) -> None:
        """Do nothing: the other end repairs the connection."""


def _without_tag(sdp: str) -> str:
    return re.sub(r"a=x-metered-\w+:\S+\r\n", "", sdp)


class World:
    """The network, the clock and the two ends."""

    def __init__(
        self, seed: int, *, loss: float, delay: tuple[float, float] = (0.001, 0.2), a: type[End] = End
    ) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.delay = delay
        self.now = 0.0
        self.trace: list[str] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._last_arrival: dict[str, float] = {}
        self._connected_pairs: set[tuple[str, str]] = set()
        self.a = a("a", True, self)
        self.b = End("b", False, self)
        self.a.peer, self.b.peer = self.b, self.a
        for end in (self.a, self.b):
            self._watch(end)

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(when, self.now), next(self._sequence), action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def log(self, source: str, what: str) -> None:
        self.trace.append(f"{self.now:8.3f} {source} {what}")

    def send(self, target: End, kind: str, sdp: str) -> None:
        """Deliver a description in order, lose it, or refuse it."""
        if target.peer.is_muted:
            self.log(target.peer.name, f"{kind} is refused")
            self.after(self.random.uniform(*self.delay), lambda: target.peer.was_refused(kind, sdp))
            return
        if self.random.random() < self.loss:
            self.log(target.peer.name, f"{kind} is lost")
            return
        arrival = max(self.now + self.random.uniform(*self.delay), self._last_arrival.get(target.name, 0.0))
        self._last_arrival[target.name] = arrival
        self.log(target.peer.name, f"sends {kind}, arrives {arrival:.3f}")
        self.at(arrival, lambda: target.receive(kind, sdp))
        self.at(arrival, lambda: target.peer.delivered(kind, sdp))

    def check_connected(self) -> None:
        """Let both ends connect after a moment if they have each other's description."""
        a, b = self.a.connection, self.b.connection
        pair = (a.ufrag, b.ufrag)
        if a.remote_ufrag == b.ufrag and b.remote_ufrag == a.ufrag and pair not in self._connected_pairs:
            self._connected_pairs.add(pair)
            for end in (self.a, self.b):
                self.after(self.random.uniform(0.01, 0.3), lambda e=end, c=end.connection: self._connect(e, c))

    def _connect(self, end: End, connection: ToyConnection) -> None:
        if end.connection is connection:
            end.perform(end.negotiator.connected(self.now))

    def _watch(self, end: End) -> None:
        """Replace, as recovery does, a connection that was negotiated but did not come up."""
        seen = (end.connection.ufrag, end.connection.remote_ufrag)
        pair = (self.a.connection.ufrag, self.b.connection.ufrag)

        def check() -> None:
            stuck = seen == (end.connection.ufrag, end.connection.remote_ufrag) and seen[1] is not None
            is_current = pair == (self.a.connection.ufrag, self.b.connection.ufrag)
            if stuck and is_current and pair not in self._connected_pairs:
                self.log(end.name, "never connected")
                end.recover()
            self._watch(end)

        self.after(CONNECT_TIMEOUT + self.random.uniform(0, 1), check)

    def run(self, until: float, done: Callable[[], bool] | None = None) -> None:
        while self._queue and self._queue[0][0] <= until:
            if done is not None and done():
                return
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = max(self.now, until)

    @property
    def converged(self) -> bool:
        a, b = self.a, self.b
        return (
            a.negotiator.settled
            and b.negotiator.settled
            and a.connection.remote_items() == set(b.items)
            and b.connection.remote_items() == set(a.items)
        )
