"""The packets of simulcast that are taken: one layer, or what there is while that one is silent."""

from __future__ import annotations

from metered_realtime.core.media.layers import LAYER_SILENT_AFTER, ReceivedLayer
from metered_realtime.core.media.source_table import MAX_SOURCES

HI, LO, HI_AGAIN = 1, 2, 3


def both(now: float = 0.0) -> ReceivedLayer:
    """Return a layer after the first packets of two layers, and of the retransmissions of the first one."""
    layer = ReceivedLayer("hi")
    assert layer.takes(HI, "hi", None, now)
    assert not layer.takes(LO, "lo", None, now)
    assert layer.takes(HI_AGAIN, None, "hi", now)
    return layer


def test_other_layers_are_dropped_also_when_their_packets_name_none() -> None:
    layer = both()
    assert layer.takes(HI, None, None, 1.0)
    assert not layer.takes(LO, None, None, 1.0)


def test_another_layer_is_taken_while_the_chosen_one_is_silent() -> None:
    layer = both()
    assert layer.takes(LO, None, None, LAYER_SILENT_AFTER + 0.1)
    assert layer.takes(HI, None, None, LAYER_SILENT_AFTER + 0.2)
    assert not layer.takes(LO, None, None, LAYER_SILENT_AFTER + 0.3)


def test_a_layer_that_never_came_is_replaced_by_what_comes() -> None:
    assert ReceivedLayer("hi").takes(LO, "lo", None, 0.0)


def test_retransmissions_are_of_the_source_of_their_layer() -> None:
    layer = both()
    assert layer.repaired_by(HI_AGAIN) == HI
    assert layer.repaired_by(HI) is None
    layer.takes(9, None, "lo", 0.0)
    assert layer.repaired_by(9) == LO
    layer.forget(LO)
    assert layer.repaired_by(9) is None
    assert layer.repaired_by(77) is None


def test_sources_without_end_are_not_remembered() -> None:
    layer = both()
    for source in range(100, 1_000):
        layer.takes(source, "lo", None, 0.0)
    assert sum(layer.takes(source, None, None, 0.0) is False for source in range(100, 1_000)) < MAX_SOURCES
