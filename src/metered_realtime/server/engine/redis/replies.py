"""What scripts reply, as what the contract calls it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..contract import Member, MissedMessages, Stored
from .items import unpack_envelope, unpack_raw
from .replica import Snapshot


def read_members(flat: Sequence[bytes]) -> dict[str, Member]:
    """Return members by peer from a flat list of peers and metadata."""
    members = (Member(peer.decode(), unpack_raw(data)) for peer, data in zip(flat[::2], flat[1::2], strict=True))
    return {member.peer_id: member for member in members}


def read_missed(reply: Sequence[Any] | None) -> MissedMessages | None:
    """Return missed messages from how many are lost, the offset of the first one, and the messages with their times."""
    if not reply:
        return None
    lost, first, elements = reply
    messages = tuple(
        Stored(offset, unpack_envelope(element.partition(b"\0")[2])) for offset, element in enumerate(elements, first)
    )
    return MissedMessages(messages, lost if lost >= 0 else None)


def read_snapshot(reply: Sequence[Any]) -> Snapshot:
    """Return the state of a channel or a mailbox."""
    epoch, seq, offset, missed, members = reply
    return Snapshot(epoch.decode(), seq, offset, read_members(members), read_missed(missed))


def digest_key(key: str) -> str:
    """Return what stands for a credential's key in Redis, which does not need to know it."""
    return hashlib.blake2b(key.encode(), digest_size=12).hexdigest() if key else ""
