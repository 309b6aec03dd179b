"""Charges for work beyond the bytes of a frame, in bytes of the client's bucket (`Limits.bytes_per_frame`).

A short frame can cause much work: a snapshot of a large channel, a message to thousands. Charges are proportional to
the time it takes. They are paid afterwards: the frame is answered, and the debt delays the frames that follow.
"""

from __future__ import annotations

PER_RECEIVER = 64
"""For each connection written to: a system call, about 3 microseconds, unless messages share it. A message to 256 costs
16 KB, so that the bucket of frames is empty first. The maximum is 65,000 deliveries per second."""

RECEIVER_SHARE = 32
"""And one byte per this many bytes written, which the kernel copies for each receiver."""

PER_PATTERN_SUBSCRIPTION = 65_536
"""For a subscription to a pattern: checking its scope takes up to 1 ms for each pattern of the key."""

PER_PATTERN_COMPARED = 512
"""For each pattern that a new name is compared with: 10 to 25 microseconds at worst."""


def fan_out(receivers: int, size: int) -> int:
    """Return the charge for one frame of `size` bytes to `receivers`. One is free, covered by the sender's frame."""
    return max(0, receivers - 1) * (PER_RECEIVER + size // RECEIVER_SHARE)
