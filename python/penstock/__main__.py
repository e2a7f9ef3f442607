"""``python -m penstock`` and the ``penstock`` command."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on ``sys.argv`` and exit: 0, 1 (user error), 2 (usage) or 130 (interrupted)."""
    from penstock.cli.app import app

    try:
        app(prog_name="penstock")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
