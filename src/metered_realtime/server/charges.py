"""What a client pays for beyond the bytes of its frames, in bytes of its bucket (`Limits.bytes_per_frame`).

A short frame can ask for much: a snapshot of everybody, a message to thousands. The prices are in proportion to the
time that it takes. They are paid afterwards: the frame is answered, and what is owed bounds the frames that follow.
"""

from __future__ import annotations

PER_RECEIVER = 64
"""For each connection that something is written to: a system call, some 3 microseconds. A message to 256 costs 16 KB,
so that the bucket of frames is empty first; 65,000 deliveries per second are the most."""

RECEIVER_SHARE = 32
"""And one byte for so many that are written: the kernel copies them for each."""

PER_PATTERN_SUBSCRIPTION = 65_536
"""For a subscription to a pattern: whether it is in scope takes 1 ms at the worst for each pattern of the key."""

PER_PATTERN_COMPARED = 512
"""For each pattern that a name which is new is compared with, 10 to 25 microseconds at the worst."""


def fan_out(receivers: int, size: int) -> int:
    """Return the price of one frame of `size` bytes for so many. One is free: the sender's frame has paid for it."""
    return max(0, receivers - 1) * (PER_RECEIVER + size // RECEIVER_SHARE)
