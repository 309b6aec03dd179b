"""What to say where an extra of the package is not installed."""

from __future__ import annotations

from importlib.util import find_spec

PACKAGE = "metered-realtime-mesh"

EXTRAS = {
    "webrtc": ("aiortc", "aioice", "av"),
    "server": ("aiohttp", "prometheus_client", "jwt"),
    "whip": ("aiortc", "aioice", "av", "aiohttp"),
    "numpy": ("numpy",),
    "cli": ("typer", "rich", "aiohttp", "prometheus_client", "jwt"),
}
"""The modules that each extra installs, those that it refers to included. An extra that names fewer comes first."""


class MissingExtraError(ModuleNotFoundError):
    """A part of the package needs the module `name`, which the `extra` installs."""

    def __init__(self, part: str, name: str, extra: str) -> None:
        super().__init__(f"{part} needs {name}: pip install '{PACKAGE}[{extra}]'", name=name)
        self.extra = extra


def require(*names: str, part: str) -> None:
    """Check that extras are installed. Imports nothing.

    Raises:
        MissingExtraError: a module of theirs is not installed.
    """
    for name in names:
        for module in EXTRAS[name]:
            if not _is_installed(module):
                raise MissingExtraError(part, module, name)


def extra_of(module: str, names: tuple[str, ...] = tuple(EXTRAS)) -> str | None:
    """Return the first of some extras that installs a module, None if none does."""
    return next((name for name in names if module in EXTRAS[name]), None)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: a module in `sys.modules` without a spec
        return False
