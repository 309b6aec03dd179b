"""The command line as a program: `metered-realtime`, or `python -m metered_realtime`."""

from __future__ import annotations

import sys

CLI_DEPENDENCIES = frozenset({"aiohttp", "jwt", "rich", "typer"})


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from .cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in CLI_DEPENDENCIES:
            raise
        print(
            f"The command line needs {error.name}, which is not installed. "
            "Install it with: pip install 'metered-realtime-mesh[cli]'",
            file=sys.stderr,
        )
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
