"""Runs notebooks, writing in what comes out: `python notebooks/execute.py [NAME ...]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

HERE = Path(__file__).parent
SECONDS = 900  # for one cell; far more than any takes, also on a busy machine
# IPython runs this first: no notebook looks beyond this machine.
OFFLINE = """
import sys

def _offline(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host or ""
    if host not in ("", "localhost", "::1", "0.0.0.0") and not host.startswith("127."):
        raise OSError(f"a notebook asked for {host}: they run without a network")

sys.addaudithook(_offline)
"""


def notebooks() -> list[Path]:
    """Return all notebooks of this folder."""
    return sorted(HERE.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> NotebookNode:
    """Return a notebook as it is after running in an empty folder.

    Outputs say nothing of this machine, and as little as can be that another run would not say.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    place, startup = folder / "run", folder / "ipython/profile_default/startup"
    for new in (place, startup):
        new.mkdir(parents=True)
    (startup / "00-offline.py").write_text(OFFLINE)
    notebook = nbformat.read(path, as_version=4)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    with TemporaryDirectory() as sockets:  # whose paths must be short
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            resources={"metadata": {"path": str(place)}},
            record_timing=False,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
        )
        client.execute(env=environment)
    return cleaned(notebook, place)


def cleaned(notebook: NotebookNode, place: Path) -> NotebookNode:
    """Return a notebook whose outputs do not say where and when it ran."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
            if output.output_type == "stream":
                output.text = output.text.replace(f"{place}/", "").replace("\r\n", "\n")
            for name, content in output.get("data", {}).items():
                if name.startswith("text/"):
                    output.data[name] = content.replace(f"{place}/", "")
            data = output.get("data", {})
            if "text/html" in data:
                data.pop("text/plain", None)  # says it again, with all digits
            if {"image/png", "image/jpeg"} <= data.keys():  # of a picture that PIL shows
                del data[max("image/png", "image/jpeg", key=lambda kind: len(data[kind]))]
    return notebook


def main(names: list[str]) -> None:
    """Run notebooks by their names, or all of them, and write them with their outputs."""
    for path in [HERE / f"{name}.ipynb" for name in names] or notebooks():
        sys.stdout.write(f"{path.name}\n")
        with TemporaryDirectory() as folder:
            nbformat.write(execute(path, Path(folder)), path)


if __name__ == "__main__":
    main(sys.argv[1:])
