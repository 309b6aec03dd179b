"""Simulcast that a remote offers: its layers, the one that is received, and the text of answers."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.remote_sdp import RemoteSdp
from metered_realtime.core.negotiation.sdp import section_texts
from metered_realtime.core.negotiation.simulcast import MAX_LAYERS, STREAM_ID, Layer, choose_layer, with_layers
from tests.core.negotiation.test_remote_sdp import offer

IDS = f"a=extmap:10 {STREAM_ID}"
RIDS = ("a=rid:lo send", "a=rid:mid send", "a=rid:hi send")


def rids(read: RemoteSdp) -> list[str]:
    return [layer.rid for layer in read.sections[0].layers]


def layers(*names: str) -> list[Layer]:
    return [Layer(name) for name in names]


def test_the_layers_that_a_browser_offers_are_read_in_their_order() -> None:
    read = offer(IDS, *RIDS, "a=simulcast:send lo;mid;hi")
    assert rids(read) == ["lo", "mid", "hi"]
    assert (read.odd_lines, read.sections[1].layers) == (0, ())
    assert "simulcast" not in read.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=simulcast:send lo;hi", ["lo", "hi"]),
        ("a=simulcast:send hi,mid;lo recv x", ["hi", "lo"]),
        ("a=simulcast:recv x send hi;lo", ["hi", "lo"]),
        ("a=simulcast:send unknown,mid;hi;hi", ["mid", "hi"]),
        ("a=simulcast:recv x", []),
    ],
)
def test_lists_with_alternatives_and_both_directions_are_read(line: str, expected: list[str]) -> None:
    read = offer(IDS, *RIDS, line)
    assert (rids(read), read.odd_lines) == (expected, 0)


@pytest.mark.parametrize(
    "odd",
    [
        (*RIDS, "a=simulcast:send lo;mid;hi"),  # packets would not name their layer
        (IDS, "a=simulcast:send lo;mid;hi"),
        (IDS, "a=rid:lo recv", "a=simulcast:send lo"),
        (IDS, *RIDS, "a=simulcast:send lo mid"),
        (IDS, *RIDS, "a=simulcast:send lo send hi"),
        (IDS, *RIDS, "a=simulcast:"),
        (IDS, *RIDS, f"a=simulcast:send {'x' * 2000}"),
    ],
)
def test_simulcast_that_cannot_be_received_is_left_out_and_told(odd: tuple[str, ...]) -> None:
    read = offer(*odd)
    assert rids(read) == []
    assert read.odd_lines == 1
    assert "simulcast" in read.noted[0]


def test_the_number_of_layers_is_bounded() -> None:
    names = [f"r{number}" for number in range(100)]
    read = offer(IDS, *(f"a=rid:{name} send" for name in names), f"a=simulcast:send {';'.join(names)}")
    assert rids(read) == names[:MAX_LAYERS]
    assert read.odd_lines > 0


@pytest.mark.parametrize(
    ("names", "largest"),
    [
        (["lo", "mid", "hi"], "hi"),
        (["hi", "mid", "lo"], "hi"),
        (["f", "h", "q"], "f"),
        (["q", "h", "f"], "f"),
        (["h", "m", "l"], "h"),
        (["High", "Low"], "High"),
        (["0", "1", "2"], "2"),
        (["r0", "r1"], "r1"),
        (["h", "x"], "x"),
        (["only"], "only"),
    ],
)
def test_the_largest_layer_is_told_by_its_usual_name_or_else_comes_last(names: list[str], largest: str) -> None:
    assert choose_layer(layers(*names)) == largest


def test_restrictions_tell_the_largest_layer() -> None:
    restricted = ("a=rid:a send max-width=1280;max-height=720", "a=rid:b send pt=96;max-width=320;max-height=180")
    (camera, _) = offer(IDS, *restricted, "a=simulcast:send a;b").sections
    assert camera.layers == (Layer("a", 1280 * 720), Layer("b", 320 * 180))
    assert choose_layer(camera.layers) == "a"
    assert choose_layer([Layer("a", 5), Layer("b")]) == "b", "a restriction of one says nothing about the other"


def test_a_paused_layer_is_received_only_if_there_is_no_other() -> None:
    assert choose_layer([Layer("lo"), Layer("hi", is_paused=True)]) == "lo"
    assert choose_layer([Layer("lo", is_paused=True), Layer("hi", is_paused=True)]) == "hi"


def test_the_layer_that_is_received_already_stays() -> None:
    assert choose_layer(layers("lo", "hi"), "lo") == "lo"
    assert choose_layer(layers("lo", "hi"), "gone") == "hi"


def test_an_answer_asks_for_the_chosen_layer_in_its_section_only() -> None:
    text = offer(IDS).text
    asked = with_layers(text, {"0": "hi", "7": "x"})
    camera, data = section_texts(asked)[1]
    assert camera[-2:] == ["a=rid:hi recv", "a=simulcast:recv hi"]
    assert data == section_texts(text)[1][1]
    assert with_layers(text, {}) == text
    declined = text.replace("m=video 9", "m=video 0")
    assert "simulcast" not in with_layers(declined, {"0": "hi"})
