"""The figures of the house: how the source is divided, and what reaches past its divisions.

`python tools/house.py` prints them, with `--places` every place that counts. `--check` compares them with the baseline
`tools/house.json` and fails if one is worse; `--update` writes the baseline.

A room is a top-level package or module of `metered_realtime`. The owner of a private name is found by the name alone,
since syntax has no types: the room that uses it, if anything in there defines it; else the other rooms that define it;
else aiortc or aioice, if they know it. A foreign name that the room happens to define as well is therefore not seen.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "metered_realtime"
COMPAT_ROOM = "aiortc_compat"
LIBRARIES = ("aiortc", "aioice")

MAX_FILES = 24
"""Files of a folder: more do not fit on a screen."""

MAX_LINES = 500
"""Lines of a file."""

MAX_LONG_FILES = 2
"""Files that may be longer."""

PUBLIC_UNDERSCORES = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}
"""Names that begin with an underscore and belong to the public API of named tuples."""

LIBRARY_OBJECTS = {"pc", "transceiver", "sender", "receiver", "sctp", "ice"}
"""Variables and attributes that hold objects of aiortc and aioice, whatever else defines their private names."""

SELF = ("self", "cls")
"""Objects whose private names may come from a base class in another room. From one in a library they count."""

ROOT = Path(__file__).resolve().parents[1]

FIGURES = {
    "folders": f"files beyond {MAX_FILES} in a folder",
    "circles": "files in circles of imports",
    "rooms": "private names of other rooms",
    "libraries": f"private names of aiortc and aioice outside {COMPAT_ROOM}",
    "classes": "class names defined more than once",
    "long": f"files of more than {MAX_LINES} lines",
    "late": "imports in functions",
    "hasattr": "uses of hasattr",
    "cast": "uses of cast",
    "__self__": "uses of __self__",
}
"""What is measured, by its key in the baseline."""

ALLOWED = {"long": MAX_LONG_FILES}
"""What a figure may be however good the baseline is."""

NAMED = {"folders", "circles", "classes", "long"}
"""Figures whose items are always printed: they are few."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that counts. The item has no line number, so that it stays what it is when code above it changes."""

    figure: str
    item: str
    place: str
    amount: int = 1


Baseline = Mapping[str, Mapping[str, int]]
"""Amounts by figure and item."""


# Reading the source


@dataclass(frozen=True, slots=True)
class Access:
    """A private name that is used of an object (`owner`, as source text) or imported from a module."""

    name: str
    owner: str
    line: int


@dataclass(slots=True)
class Source:
    """A file of Python and what counts in it. `module` is its dotted name without the package's."""

    path: Path
    module: str
    line_count: int = 0
    imports: set[str] = field(default_factory=set)
    accesses: list[Access] = field(default_factory=list)
    defined: set[str] = field(default_factory=set)
    classes: list[tuple[str, int]] = field(default_factory=list)
    uses: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def room(self) -> str:
        """The top-level package or module that the file belongs to; "" is the face of the package."""
        return self.module.partition(".")[0]

    @property
    def package(self) -> list[str]:
        """The parts of the name of the package against which relative imports are resolved."""
        parts = self.module.split(".") if self.module else []
        return parts if self.path.name == "__init__.py" else parts[:-1]


def read_tree(folder: Path) -> list[Source]:
    """Read all files of a package."""
    return [_read(path, folder) for path in sorted(folder.rglob("*.py"))]


def _read(path: Path, folder: Path) -> Source:
    parts = path.relative_to(folder).with_suffix("").parts
    source = Source(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    text = path.read_text(encoding="utf-8")
    source.line_count = len(text.splitlines())
    _Reader(source).visit(ast.parse(text, str(path)))
    return source


def is_private(name: str) -> bool:
    """Whether a name has one leading underscore. Mangled ones (`_Class__name`) have."""
    return name.startswith("_") and not name.startswith("__") and name != "_" and name not in PUBLIC_UNDERSCORES


class _Reader(ast.NodeVisitor):
    """Collects what counts in one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._classes: list[str] = []
        self._functions = 0

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._source.classes.append((node.name, node.lineno))
        self._define(node.name)
        self._classes.append(node.name)
        depth, self._functions = self._functions, 0
        self.generic_visit(node)
        self._functions = depth
        self._classes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._define(node.name)
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store) and not self._functions:
            self._define(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets):
            for each in ast.walk(node.value):
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    self._define(each.value)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in SELF:
            self._define(node.attr)
        elif is_private(node.attr):
            self._source.accesses.append(Access(node.attr, ast.unparse(node.value), node.lineno))
        if node.attr == "__self__":
            self._use("__self__", "__self__", node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
        if called == "hasattr":
            self._use("hasattr", "hasattr", node)
        elif called in ("cast", "typing.cast"):
            self._use("cast", "cast", node)
        if called in ("getattr", "setattr", "hasattr", "delattr"):
            self._note_access_by_text(node)
        self.generic_visit(node)

    def _note_access_by_text(self, node: ast.Call) -> None:
        match node.args:
            case [owner, ast.Constant(value=str(name)), *_] if is_private(name):
                self._source.accesses.append(Access(name, ast.unparse(owner), node.lineno))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note_import(node, alias.name.split("."), None, alias)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = [PACKAGE, *self._source.package[: len(self._source.package) - node.level + 1]] if node.level else []
        base += node.module.split(".") if node.module else []
        for alias in node.names:
            self._note_import(node, base, alias.name, alias)

    def _note_import(self, node: ast.stmt, module: list[str], name: str | None, alias: ast.alias) -> None:
        if self._functions:
            self._use("late", ".".join(module), node)
        elif alias.asname is not None:
            self._define(alias.asname)
        if module[0] == PACKAGE:
            self._source.imports.add(".".join([*module[1:], name or ""]).rstrip("."))
        if name is not None and is_private(name) and module[-1] != "__future__":
            self._source.accesses.append(Access(name, ".".join(module), node.lineno))

    def _use(self, figure: str, item: str, node: ast.expr | ast.stmt) -> None:
        if (figure, item, node.lineno) not in self._source.uses:
            self._source.uses.append((figure, item, node.lineno))

    def _define(self, name: str) -> None:
        if name.startswith("__") and not name.endswith("__") and self._classes:
            self._source.defined.add(f"_{self._classes[-1].lstrip('_')}{name}")
        elif is_private(name):
            self._source.defined.add(name)


# Measuring


def measure(root: Path, library_names: Iterable[str] | None = None) -> list[Finding]:
    """Measure the house at `root`. `library_names` are those of the installed aiortc and aioice if None."""
    sources = read_tree(root / "src" / PACKAGE)
    names = find_library_names(root) if library_names is None else frozenset(library_names)
    return [
        *count_files(root),
        *find_circles(sources, root),
        *find_foreign_names(sources, names, root),
        *find_repeated_classes(sources, root),
        *find_long_files(sources, root),
        *_uses(sources, root),
    ]


def count_files(root: Path) -> Iterator[Finding]:
    """Find the folders of source and tests that hold too many files."""
    for folder, count in files_by_folder(root).items():
        if count > MAX_FILES:
            yield Finding("folders", folder, f"{folder}: {count} files", count - MAX_FILES)


def files_by_folder(root: Path) -> dict[str, int]:
    """Return how many files each folder of source and tests holds, those of subfolders not counted."""
    files = [path for part in ("src", "tests") for path in (root / part).rglob("*") if path.is_file()]
    files = [path for path in files if "node_modules" not in path.parts]
    kept = [path for path in files if path.suffix != ".pyc" and not path.name.startswith(".")]
    return dict(sorted(Counter(path.parent.relative_to(root).as_posix() for path in kept).items()))


def find_circles(sources: list[Source], root: Path) -> Iterator[Finding]:
    """Find the files that import each other, directly or through others.

    Imports for type checking and imports in functions count.
    """
    paths = {source.module: source.path for source in sources}
    for circle in circles(import_graph(sources)):
        for module in circle:
            path = paths[module].relative_to(root).as_posix()
            yield Finding("circles", path, f"circle of {len(circle)} files: {path}")


def import_graph(sources: Iterable[Source]) -> dict[str, set[str]]:
    """Return the modules that each module imports. A package is not imported by what imports one of its modules."""
    modules = {source.module: source for source in sources}
    return {
        name: {found for target in source.imports if (found := _nearest(target, modules)) is not None}
        for name, source in modules.items()
    }


def _nearest(target: str, modules: Mapping[str, Source]) -> str | None:
    """The module that an import loads: the target itself, or else the one which the target is a name of."""
    if target in modules:
        return target
    package = target.rpartition(".")[0]
    return package if package in modules else None


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module, the largest first."""
    reached = {module: _reachable(module, graph) for module in graph}
    found = {tuple(sorted(other for other in reached[module] if module in reached[other])) for module in graph}
    return sorted((list(each) for each in found if len(each) > 1), key=lambda it: (-len(it), it))


def _reachable(start: str, graph: Mapping[str, set[str]]) -> set[str]:
    found = {start}
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead.extend(new)
    return found


def find_foreign_names(sources: list[Source], library_names: Iterable[str], root: Path) -> Iterator[Finding]:
    """Find private names that are used outside the room or the library that they belong to."""
    of_libraries = frozenset(library_names)
    rooms: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        rooms[source.room] |= source.defined
    for source in sources:
        path = source.path.relative_to(root).as_posix()
        for access in source.accesses:
            if figure := _belongs_to(access, source.room, rooms, of_libraries):
                text = f"{access.owner}.{access.name}"
                yield Finding(figure, f"{path}: {access.name}", f"{path}:{access.line}: {text}")


def _belongs_to(access: Access, room: str, rooms: Mapping[str, set[str]], of_libraries: frozenset[str]) -> str | None:
    """Return the figure that an access counts in, or None if the name belongs to the room itself or to nobody known."""
    in_compat = room == COMPAT_ROOM
    holder = access.owner.rpartition(".")[2]
    if not in_compat and (holder in LIBRARY_OBJECTS or access.owner.partition(".")[0] in LIBRARIES):
        return "libraries"
    if access.name in rooms[room] or (in_compat and access.name in of_libraries):
        return None
    if any(access.name in defined for defined in rooms.values()):
        return None if access.owner in SELF else "rooms"
    return "libraries" if access.name in of_libraries else None


def find_library_names(root: Path) -> frozenset[str]:
    """Return the private names that the installed aiortc and aioice define or use.

    Raises FileNotFoundError if they are installed neither beside this Python nor in the project's environment.
    """
    folders = [_find_library(name, root) for name in LIBRARIES]
    sources = [source for folder in folders for source in read_tree(folder)]
    return frozenset(name for it in sources for name in (*it.defined, *(access.name for access in it.accesses)))


def _find_library(name: str, root: Path) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    for folder in (root / ".venv").glob(f"lib/python*/site-packages/{name}"):
        return folder
    raise FileNotFoundError(f"{name} is not installed: `make check` installs it")


def find_repeated_classes(sources: list[Source], root: Path) -> Iterator[Finding]:
    """Find the names that several classes have."""
    places: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for name, line in source.classes:
            places[name].append(f"{source.path.relative_to(root).as_posix()}:{line}")
    for name, found in sorted(places.items()):
        if len(found) > 1:
            yield Finding("classes", name, f"{name}: {', '.join(found)}")


def find_long_files(sources: list[Source], root: Path) -> Iterator[Finding]:
    """Find the files that are too long."""
    for source in sources:
        if source.line_count > MAX_LINES:
            path = source.path.relative_to(root).as_posix()
            yield Finding("long", path, f"{path}: {source.line_count} lines")


def _uses(sources: list[Source], root: Path) -> Iterator[Finding]:
    for source in sources:
        path = source.path.relative_to(root).as_posix()
        for figure, item, line in source.uses:
            yield Finding(figure, f"{path}: {item}", f"{path}:{line}: {item}")


# Comparing and printing


def totals(findings: Iterable[Finding]) -> dict[str, int]:
    """Return each figure."""
    counted = dict.fromkeys(FIGURES, 0)
    for finding in findings:
        counted[finding.figure] += finding.amount
    return counted


def to_baseline(findings: Iterable[Finding]) -> dict[str, dict[str, int]]:
    """Return what the baseline keeps of a measurement."""
    amounts: dict[str, Counter[str]] = {figure: Counter() for figure in FIGURES}
    for finding in findings:
        amounts[finding.figure][finding.item] += finding.amount
    return {figure: dict(sorted(items.items())) for figure, items in amounts.items()}


def compare(findings: list[Finding], baseline: Baseline) -> tuple[list[str], list[str]]:
    """Return what got worse, with the places of what is new, and what got better, as lines."""
    worse: list[str] = []
    better: list[str] = []
    now = to_baseline(findings)
    for figure, total in totals(findings).items():
        known = baseline.get(figure, {})
        before = sum(known.values())
        if total > max(before, ALLOWED.get(figure, 0)):
            grown = {item for item, amount in now[figure].items() if amount > known.get(item, 0)}
            worse.append(f"{FIGURES[figure]}: {total}, and {before} in the baseline. New:")
            worse.extend(f"    {it.place}" for it in findings if it.figure == figure and it.item in grown)
        elif total < before:
            better.append(f"{FIGURES[figure]}: {total}, and {before} in the baseline")
    return worse, better


def describe(findings: list[Finding], root: Path, *, places: bool = False) -> Iterator[str]:
    """Describe a measurement in lines: each figure, and the items of those that have few."""
    folders = ", ".join(f"{folder} {count}" for folder, count in files_by_folder(root).items())
    yield f"files of each folder, at most {MAX_FILES}: {folders}"
    for figure, total in totals(findings).items():
        limit = f", at most {ALLOWED[figure]}" if figure in ALLOWED else ""
        yield f"{FIGURES[figure]}{limit}: {total}"
        if places or figure in NAMED:
            yield from (f"    {finding.place}" for finding in findings if finding.figure == figure)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Print the figures, compare them with the baseline, or write it. Return the exit code."""
    parser = argparse.ArgumentParser(description="Print the figures of the house.")
    parser.add_argument("--places", action="store_true", help="print every place that counts")
    parser.add_argument("--check", action="store_true", help="fail if a figure is worse than in the baseline")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    chosen = parser.parse_args(arguments)
    try:
        findings = measure(root)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    baseline = root / "tools" / "house.json"
    if chosen.update:
        baseline.write_text(json.dumps(to_baseline(findings), indent=2) + "\n", encoding="utf-8")
        return 0
    if chosen.check:
        return _check(findings, json.loads(baseline.read_text(encoding="utf-8")))
    print("\n".join(describe(findings, root, places=chosen.places)))
    return 0


def _check(findings: list[Finding], baseline: Baseline) -> int:
    worse, better = compare(findings, baseline)
    if better:
        print("The house got better. Record it with `python tools/house.py --update`:")
        print("\n".join(better))
    if worse:
        print("The house got worse. Change that, or record it with `python tools/house.py --update` and say why:")
        print("\n".join(worse))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
