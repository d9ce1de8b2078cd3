"""`python -m bonfire`: the program `bonfire`, from this environment or the path."""

import os
import shutil
import subprocess
import sys
import sysconfig


def main() -> int:
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("bonfire", path=scripts) or shutil.which("bonfire")
    if program is None:
        print(
            "error: the program `bonfire` is not installed here\n"
            "  help:    this package is its engine for Python; the program is a package of its own: pip install bonfire-lora-cli",
            file=sys.stderr,
        )
        return 2
    command = [program, *sys.argv[1:]]
    if os.name == "nt":
        return subprocess.run(command, check=False).returncode
    os.execv(program, command)


if __name__ == "__main__":
    sys.exit(main())
