"""What the rooms of the package may touch of each other and of the libraries."""

from __future__ import annotations

from tools import house


def test_private_names_of_aiortc_and_aioice_stand_in_one_room() -> None:
    found = [finding.place for finding in house.measure(house.ROOT) if finding.figure == "libraries"]
    assert not found


def test_that_room_does_touch_them() -> None:
    """What is looked for is there: the test above would find it elsewhere."""
    sources = house.read_tree(house.ROOT / "src" / house.PACKAGE)
    names = house.find_library_names(house.ROOT)
    touched = {it.name for source in sources if source.room == house.COMPAT_ROOM for it in source.accesses}
    assert {"_RTCPeerConnection__sctp", "_nominated"} & names & touched
