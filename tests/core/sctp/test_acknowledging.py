"""When data is acknowledged."""

from __future__ import annotations

from metered_realtime.core.sctp.acknowledging import ACKNOWLEDGE_EVERY, PAUSE, PROMPT_ANSWERS, AcknowledgementPolicy


def answers(policy: AcknowledgementPolicy, packets: int, *, shows_loss: bool = False) -> int:
    """Count packets, and return how many acknowledgements they make due."""
    count = 0
    for _ in range(packets):
        policy.count_packet(shows_loss=shows_loss)
        if policy.is_due:
            count += 1
            policy.answered()
    return count


def steady(now: float = 0.0) -> AcknowledgementPolicy:
    policy = AcknowledgementPolicy()
    policy.begin_batch(now)
    answers(policy, PROMPT_ANSWERS)
    return policy


def test_each_packet_is_acknowledged_at_first() -> None:
    assert answers(AcknowledgementPolicy(), PROMPT_ANSWERS) == PROMPT_ANSWERS


def test_packets_share_acknowledgements_in_a_steady_flow() -> None:
    policy = steady()
    policy.begin_batch(PAUSE)
    assert answers(policy, 10 * ACKNOWLEDGE_EVERY) == 10


def test_each_packet_is_acknowledged_after_a_pause_and_a_loss() -> None:
    policy = steady()
    policy.begin_batch(2.5 * PAUSE)
    assert answers(policy, 10) == 10
    assert answers(steady(), 10, shows_loss=True) == 10


def test_the_end_of_a_batch_leaves_nothing_unacknowledged() -> None:
    policy = steady()
    policy.end_batch()
    assert not policy.is_due
    policy.count_packet(shows_loss=False)
    assert not policy.is_due
    policy.end_batch()
    assert policy.is_due
