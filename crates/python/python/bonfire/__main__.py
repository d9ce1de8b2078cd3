"""The program `bonfire`, as installed with the package: `bonfire train`, or `python -m bonfire train`."""

import signal
import sys

from bonfire._bonfire import main as program


def main() -> int:
    # The program hears Ctrl-C itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return program(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
