"""The command line as a program: `metered-realtime`, or `python -m metered_realtime`."""

from __future__ import annotations

import sys

from .missing import MissingExtraError


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from .cli.app import run
    except MissingExtraError as error:
        sys.exit(str(error))
    run()


if __name__ == "__main__":
    main()
