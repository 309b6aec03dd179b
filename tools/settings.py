"""Write docs/settings.md: every setting of the server, from the tables of the file and the options of `serve`.

python tools/settings.py            # write it
python tools/settings.py --check    # fail if it is not up to date
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import typer.main
from typer.core import TyperGroup, TyperOption

from metered_realtime.cli.app import FILE_KEYS, OVERRIDES, app
from metered_realtime.server.config import schema
from metered_realtime.server.config.file import TABLES
from metered_realtime.server.limits import Limits

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"
SOURCES = ("server/config/schema.py", "server/limits.py")

LISTS = frozenset(("ice_servers", "publishable_keys", "secret_keys"))
"""Tables that may stand several times: `[[ice_servers]]`."""

INTRODUCTION = """\
# Settings of the server

<!-- Written by tools/settings.py from the code. Change the code, and run it again. -->

A setting comes from the configuration file ([reference](server.md#configuration-reference)), from an option of
`metered-realtime serve`, or from the environment. An option overrides the environment. With `--config` the file
decides: of the options only {overrides} override it, the others that it covers are refused, and their variables are
ignored. “–” means that a setting cannot be given in this way.

`SIGHUP` reloads the file; [what changes then](server.md#reload).
"""


@dataclass(frozen=True)
class Setting:
    """A row: where a setting can be given, and what it means."""

    key: str | None
    option: str | None
    variable: str | None
    default: str
    meaning: str

    @property
    def row(self) -> str:
        """The row of the table."""
        cells = [_code(self.key), _code(self.option), _code(self.variable), self.default, self.meaning]
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def page() -> str:
    """Return the text of the page.

    Raises:
        ValueError: a table or a field is not described, or an option stands for a key that there is not.
    """
    options = {option.name: option for option in _options() if option.name is not None}
    by_key = {key: options[name] for name, key in FILE_KEYS.items()}
    parts = [INTRODUCTION.format(overrides=" and ".join(f"`--{name}`" for name in sorted(OVERRIDES)))]
    described = 0
    for table in ("server", *(name for name in TABLES if name != "server")):
        settings = list(_of_table(table, by_key))
        described += sum(setting.option is not None for setting in settings)
        parts.append(f"## {_heading(table)}\n\n{_table(settings)}")
    if described != len(by_key):
        raise ValueError(f"options stand for keys that there are not: {sorted(by_key)}")
    alone = [_of_option(option) for name, option in options.items() if name not in FILE_KEYS]
    parts.append(f"## Of the command line alone\n\n{_table(alone)}")
    return "\n".join(parts)


def _options() -> list[TyperOption]:
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    return [it for it in command.commands["serve"].params if isinstance(it, TyperOption)]


def _of_table(table: str, by_key: Mapping[str, TyperOption]) -> Iterator[Setting]:
    for kind, name, default in _fields(table):
        key = f"{table}.{name}"
        option = by_key.get(key)
        yield Setting(
            f"apps.NAME.{name}" if table == "apps" else key,
            None if option is None else _spelled(option),
            None if option is None else _variable(option),
            default,
            _meaning(kind, name),
        )


def _fields(table: str) -> Iterator[tuple[type, str, str]]:
    if table == "limits":
        for field in fields(Limits):
            yield Limits, field.name, _shown(MISSING if field.default is MISSING else field.default)
        return
    kind = schema.TABLE_TYPES[table]
    for spec in msgspec.structs.fields(kind):
        yield kind, spec.name, _shown(MISSING if spec.default is msgspec.NODEFAULT else spec.default)


def _of_option(option: TyperOption) -> Setting:
    default = "" if option.default is None else _shown(option.default)
    return Setting(None, _spelled(option), _variable(option), default, option.help or "")


def _spelled(option: TyperOption) -> str:
    return max(option.opts, key=len)


def _variable(option: TyperOption) -> str | None:
    return option.envvar if isinstance(option.envvar, str) else None


def _shown(value: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return f"`[{', '.join(_quoted(it) for it in value)}]`"
    return f"`{_quoted(value)}`"


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _meaning(kind: type, name: str) -> str:
    for base in kind.__mro__:
        if (meaning := DESCRIPTIONS.get((base.__name__, name))) is not None:
            return meaning
    raise ValueError(f"{kind.__name__}.{name} has no docstring below it")


def _read_descriptions() -> dict[tuple[str, str], str]:
    """Return the docstrings below the fields of classes, which Python itself does not keep."""
    found = {}
    for source in SOURCES:
        tree = ast.parse((ROOT / "src/metered_realtime" / source).read_text(encoding="utf-8"))
        for kind in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for field, text in zip(kind.body, kind.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    found[kind.name, field.target.id] = " ".join(str(text.value.value).split())
    return found


DESCRIPTIONS = _read_descriptions()


def _heading(table: str) -> str:
    return f"`[[{table}]]`" if table in LISTS else "`[apps.NAME]`" if table == "apps" else f"`[{table}]`"


def _table(settings: Iterable[Setting]) -> str:
    head = "| TOML | `serve` | environment | default | meaning |\n|---|---|---|---|---|\n"
    return head + "".join(f"{setting.row}\n" for setting in settings)


def _code(text: str | None) -> str:
    return "–" if text is None else f"`{text}`"


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="fail if the page is not up to date")
    wanted = page()
    if not parser.parse_args().check:
        PAGE.write_text(wanted, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != wanted:
        print("docs/settings.md is not up to date: run python tools/settings.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
