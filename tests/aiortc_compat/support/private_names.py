"""The private names of others that a module touches: each is watched by a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

MANGLED = re.compile(r"_RTC[A-Za-z]+?__")
"""What Python puts before a private name of a class of aiortc."""


def private_names(*modules: ModuleType) -> set[str]:
    """Return the private names that modules use of objects other than their own, without the class in them.

    They are attributes, and names in strings that begin with a class of aiortc or with a constant that holds one
    (`f"{_PC}connect"`).
    """
    trees = [ast.parse(Path(str(module.__file__)).read_text()) for module in modules]
    return {MANGLED.sub("__", name) for tree in trees for node in ast.walk(tree) for name in _names(node)}


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and re.match("_[a-zA-Z]", node.attr):
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.attr
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MANGLED.match(node.value):
        if MANGLED.sub("", node.value):
            yield node.value
    elif isinstance(node, ast.JoinedStr):
        *prefix, name = node.values
        is_name = isinstance(name, ast.Constant) and name.value.isidentifier()
        if not is_name or not isinstance(prefix[-1], ast.FormattedValue):
            return
        if name.value.startswith("__"):
            yield name.value
        elif len(prefix) == 1 and ast.unparse(prefix[0].value).startswith("_"):
            yield f"__{name.value}"
