"""The figures of the house, each from a small tree, and how they are compared with the baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from tools import house
from tools.house import Finding

LIBRARY_NAMES = {"_RTCPeerConnection__sctp", "_nominated", "_shared"}


@pytest.fixture(autouse=True)
def in_an_empty_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(house, "find_library_names", lambda root: frozenset(LIBRARY_NAMES))


def write(files: Mapping[str, str]) -> None:
    """Write files, named by their paths below the package."""
    for name, text in files.items():
        path = Path("src/metered_realtime", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def measure() -> list[Finding]:
    return house.measure(Path())


def places(figure: str) -> list[str]:
    """Return the places of one figure, without the path of the package."""
    found = [finding.place for finding in measure() if finding.figure == figure]
    return [place.replace("src/metered_realtime/", "") for place in found]


def run(*arguments: str) -> int:
    return house.main(list(arguments), Path())


# Folders, long files, classes


def test_files_beyond_the_limit_of_a_folder_count() -> None:
    write({f"mesh/m{number}.py": "" for number in range(house.MAX_FILES)})
    assert places("folders") == []
    write({"mesh/page.html": "", "mesh/inner/one.py": "", "mesh/.hidden": "", "mesh/m0.pyc": ""})
    assert places("folders") == ["mesh: 25 files"]
    write({"mesh/another.py": ""})
    assert house.totals(measure())["folders"] == 2


def test_folders_of_tests_count_as_well() -> None:
    Path("tests/mesh").mkdir(parents=True)
    for number in range(house.MAX_FILES + 1):
        Path(f"tests/mesh/test_{number}.py").touch()
    assert places("folders") == ["tests/mesh: 25 files"]


def test_files_of_more_lines_than_the_limit_are_long() -> None:
    write({"a.py": "\n" * house.MAX_LINES, "b.py": "\n" * (house.MAX_LINES + 1)})
    assert places("long") == ["b.py: 501 lines"]


def test_classes_of_one_name_count_once_with_all_their_places() -> None:
    write(
        {
            "a.py": "class Link: ...\nclass Pair: ...\nclass Single: ...",
            "mesh/b.py": "def make():\n    class Link: ...\n    class Pair: ...",
            "mesh/c.py": "class Outer:\n    class Link: ...",
        }
    )
    assert places("classes") == ["Link: a.py:1, mesh/b.py:2, mesh/c.py:2", "Pair: a.py:2, mesh/b.py:3"]


# Circles


def circle_sizes() -> list[int]:
    sources = house.read_tree(Path("src/metered_realtime"))
    return [len(circle) for circle in house.circles(house.import_graph(sources))]


def test_imports_one_way_are_no_circle() -> None:
    write({"a.py": "from . import b\nfrom .mesh.c import thing", "b.py": "from .mesh import c", "mesh/c.py": ""})
    assert circle_sizes() == []


@pytest.mark.parametrize(
    "way_back",
    [
        "from ..a import thing",
        "from .. import a",
        "import metered_realtime.a",
        "from metered_realtime import a",
        "from metered_realtime.a import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..a import thing",
        "def late():\n    from ..a import thing",
    ],
)
def test_files_that_import_each_other_are_a_circle(way_back: str) -> None:
    write({"a.py": "from .mesh.b import thing", "mesh/b.py": way_back})
    assert places("circles") == ["circle of 2 files: a.py", "circle of 2 files: mesh/b.py"]


def test_circles_lead_through_other_files_and_are_told_apart() -> None:
    write({"a.py": "from . import b", "b.py": "from . import c", "c.py": "from . import a", "d.py": "from . import a"})
    write({"x.py": "from . import y", "y.py": "from . import x"})
    assert circle_sizes() == [3, 2]
    assert house.totals(measure())["circles"] == 5


def test_a_package_is_imported_for_its_names_but_not_for_its_modules() -> None:
    write({"mesh/__init__.py": "from .peer import Peer", "mesh/peer.py": "", "mesh/other.py": "from . import peer"})
    assert circle_sizes() == []
    write({"mesh/peer.py": "from . import Peer"})
    assert places("circles") == ["circle of 2 files: mesh/__init__.py", "circle of 2 files: mesh/peer.py"]


def test_imports_from_outside_the_package_are_no_part_of_the_graph() -> None:
    write({"asyncio.py": "from . import b", "b.py": "import asyncio\nfrom aiortc import a"})
    assert circle_sizes() == []


# Private names


@pytest.mark.parametrize(
    "definition",
    [
        "class A:\n    def __init__(self):\n        self._x = 1",
        "class A:\n    _x: int",
        "class A:\n    _x = 1",
        "def make():\n    class A:\n        _x = 1",
        "class A:\n    __slots__ = ('_x',)",
        "class A:\n    def _x(self): ...",
        "class A:\n    async def _x(self): ...",
        "class _x: ...",
        "_x = 1",
        "from y import z as _x",
    ],
)
def test_a_private_name_belongs_to_the_room_that_defines_it(definition: str) -> None:
    write({"mesh/a.py": definition, "mesh/b.py": "def f(a):\n    a._x()", "rpc/c.py": "def f(a):\n    return a.b._x"})
    assert places("rooms") == ["rpc/c.py:2: a.b._x"]


@pytest.mark.parametrize(
    ("use", "shown"),
    [
        ("a._x", "a._x"),
        ("a._x = 1", "a._x"),
        ("del a[0]._x", "a[0]._x"),
        ("getattr(a, '_x', None)", "a._x"),
        ("setattr(a, '_x', 1)", "a._x"),
        ("hasattr(a, '_x')", "a._x"),
        ("from ..mesh.a import _x", "metered_realtime.mesh.a._x"),
    ],
)
def test_every_use_of_a_private_name_counts(use: str, shown: str) -> None:
    write({"mesh/a.py": "_x = 1", "rpc/b.py": use})
    assert places("rooms") == [f"rpc/b.py:1: {shown}"]


@pytest.mark.parametrize("use", ["a.x", "a.__x__", "a._replace(x=1)", "_x", "_", "getattr(a, 'x')", "getattr(a, name)"])
def test_other_names_do_not_count(use: str) -> None:
    write({"mesh/a.py": "_x = 1\nclass A:\n    def _replace(self): ...", "rpc/b.py": use})
    assert places("rooms") == []


def test_local_variables_of_functions_define_nothing() -> None:
    write({"mesh/a.py": "_x = 1", "rpc/b.py": "def f(a):\n    _x = a._x"})
    assert places("rooms") == ["rpc/b.py:2: a._x"]


def test_modules_of_the_package_are_rooms_as_well() -> None:
    write({"emitter.py": "class Emitter:\n    def _end(self): ...", "mesh/b.py": "def f(a):\n    a._end()"})
    assert places("rooms") == ["mesh/b.py:2: a._end"]


def test_names_of_a_base_class_in_another_room_do_not_count() -> None:
    write({"emitter.py": "class Emitter:\n    def _end(self): ...", "mesh/b.py": "self._end()\ncls._end()"})
    assert places("rooms") == []


@pytest.mark.parametrize(
    "use",
    [
        "a._nominated",
        "self._nominated()",
        "a._RTCPeerConnection__sctp",
        "getattr(a, '_nominated')",
        "from aioice.ice import _nominated",
        "from aiortc.codecs import _unheard_of",
        "aiortc.codecs._unheard_of",
        "self.pc._unheard_of",
        "sender._unheard_of",
        "sender._shared",
    ],
)
def test_names_of_libraries_belong_to_one_room(use: str) -> None:
    write({"mesh/a.py": use, "mesh/b.py": "_shared = 1"})
    assert len(places("libraries")) == 1
    assert places("rooms") == []
    Path("src/metered_realtime/mesh").rename("src/metered_realtime/aiortc_compat")
    assert places("libraries") == []
    assert places("rooms") == []


def test_a_name_of_the_room_itself_is_no_name_of_a_library() -> None:
    write({"mesh/a.py": "class A:\n    _shared: int\ndef f(a):\n    return a._shared"})
    assert places("libraries") == []


def test_the_room_of_the_libraries_may_not_touch_other_rooms() -> None:
    write({"mesh/a.py": "_shared = _own = 1", "aiortc_compat/b.py": "a._shared\na._own"})
    assert places("rooms") == ["aiortc_compat/b.py:2: a._own"]


def test_names_of_the_installed_libraries_are_known() -> None:
    names = REAL_FIND_LIBRARY_NAMES(house.ROOT)
    assert {"_RTCPeerConnection__sctp", "_nominated", "_data"} <= names  # of aiortc, of aioice, set on a foreign object


REAL_FIND_LIBRARY_NAMES = house.find_library_names


def test_libraries_may_be_installed_in_the_environment_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, text in {"aiortc": "class RTC:\n    def __secret(self): ...", "aioice": "_hidden = 1"}.items():
        folder = Path(".venv/lib/python3.11/site-packages", name)
        folder.mkdir(parents=True)
        (folder / "it.py").write_text(text)
    assert REAL_FIND_LIBRARY_NAMES(Path()) == {"_RTC__secret", "_hidden"}


# Uses


def test_imports_in_functions_count() -> None:
    write(
        {"a.py": "import socket\ndef f():\n    import numpy\n    async def g():\n        from . import b", "b.py": ""}
    )
    assert places("late") == ["a.py:3: numpy", "a.py:5: metered_realtime"]


def test_imports_in_classes_and_for_type_checking_are_not_late() -> None:
    write({"a.py": "if TYPE_CHECKING:\n    from . import b\nclass A:\n    import socket", "b.py": ""})
    assert places("late") == []


@pytest.mark.parametrize(
    ("use", "figure"),
    [
        ("hasattr(a, 'b')", "hasattr"),
        ("cast(int, a)", "cast"),
        ("typing.cast('int', a)", "cast"),
        ("a.handler.__self__", "__self__"),
    ],
)
def test_ways_around_types_count(use: str, figure: str) -> None:
    write({"a.py": f"{use}\n{use}"})
    assert house.totals(measure()) == dict.fromkeys(house.FIGURES, 0) | {figure: 2}


def test_the_cast_of_a_memoryview_is_another_thing() -> None:
    write({"a.py": "view.cast('B')\nself.hasattr(1)"})
    assert not any(house.totals(measure()).values())


# The baseline


def test_the_check_passes_as_long_as_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    write({"a.py": "cast(int, a)", "b.py": "from . import c", "c.py": "from . import b"})
    assert run("--update") == 0
    write({"a.py": "# moved down\n\ncast(int, a)"})
    assert run("--check") == 0
    assert capsys.readouterr().out == ""


def test_the_check_names_what_got_worse(capsys: pytest.CaptureFixture[str]) -> None:
    write({"a.py": "cast(int, a)", "b.py": ""})
    run("--update")
    write({"b.py": "\ncast(str, b)"})
    assert run("--check") == 1
    _, *worse = capsys.readouterr().out.splitlines()
    assert worse == ["uses of cast: 2, and 1 in the baseline. New:", "    src/metered_realtime/b.py:2: cast"]
    run("--update")
    assert run("--check") == 0


def test_the_check_notes_what_got_better(capsys: pytest.CaptureFixture[str]) -> None:
    write({"a.py": "cast(int, a)"})
    run("--update")
    write({"a.py": ""})
    assert run("--check") == 0
    note, *better = capsys.readouterr().out.splitlines()
    assert "--update" in note
    assert better == ["uses of cast: 0, and 1 in the baseline"]


def test_what_moves_to_another_file_is_not_worse(capsys: pytest.CaptureFixture[str]) -> None:
    write({"a.py": "cast(int, a)", "b.py": ""})
    run("--update")
    write({"a.py": "", "b.py": "cast(int, a)"})
    assert run("--check") == 0
    assert capsys.readouterr().out == ""


def test_a_figure_that_gets_better_makes_up_for_no_other() -> None:
    write({"a.py": "cast(int, a)"})
    run("--update")
    write({"a.py": "hasattr(a, 'b')"})
    assert run("--check") == 1


def test_two_files_may_be_long() -> None:
    run("--update")
    write({f"{name}.py": "\n" * (house.MAX_LINES + 1) for name in "ab"})
    assert run("--check") == 0
    write({"c.py": "\n" * (house.MAX_LINES + 1)})
    assert run("--check") == 1


def test_a_baseline_without_a_figure_holds_none_of_it() -> None:
    write({"a.py": "cast(int, a)"})
    Path("tools/house.json").write_text(json.dumps({}))
    assert run("--check") == 1


# The command


def test_all_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    write({"a.py": "from . import b\ncast(int, a)", "b.py": "from . import a"})
    assert run() == 0
    printed = capsys.readouterr().out
    assert "src/metered_realtime 2" in printed
    assert all(f"\n{text}" in printed for text in house.FIGURES.values())
    assert "    circle of 2 files: src/metered_realtime/a.py\n" in printed
    assert "a.py:2: cast" not in printed
    run("--places")
    assert "    src/metered_realtime/a.py:2: cast\n" in capsys.readouterr().out


def test_libraries_that_are_missing_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "find_library_names", REAL_FIND_LIBRARY_NAMES)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("--check") == 2
    assert "aiortc is not installed" in capsys.readouterr().err
