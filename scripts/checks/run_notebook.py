"""Runs a notebook from its own folder and fails where a cell does; with --out it keeps the notebook with what it printed.

    python scripts/checks/run_notebook.py examples/tutorial.ipynb

Needs nbclient, nbformat and ipykernel; what the notebook itself needs stands in it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--timeout", type=int, default=600, help="seconds that a cell may take [%(default)s]")
    options = parser.parse_args()
    notebook = nbformat.read(options.notebook, as_version=4)
    # A kernel of this interpreter, whatever kernels its user has.
    with tempfile.TemporaryDirectory() as kernels:
        place = Path(kernels) / "kernels" / "here"
        place.mkdir(parents=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (place / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
        client = NotebookClient(notebook, timeout=options.timeout, kernel_name="here")
        client.create_kernel_manager().kernel_spec_manager.kernel_dirs.insert(0, str(place.parent))
        try:
            client.execute(cwd=str(options.notebook.resolve().parent))
        except CellExecutionError as error:
            sys.exit(f"error: {options.notebook}: {error}")
    if options.out:
        nbformat.write(notebook, options.out)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            print(output.get("text", ""), end="")


if __name__ == "__main__":
    main()
