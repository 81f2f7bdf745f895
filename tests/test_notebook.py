"""The notebook of the demo: it runs from top to bottom over a finished run, and shows pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "docs/demo.ipynb"


def test_the_notebook_stores_no_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


def test_the_notebook_runs_and_shows_the_world(passed_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    monkeypatch.setenv("TIW_ROOT", str(passed_root))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [
        Image.open(io.BytesIO(base64.b64decode(output.data[kind])))
        for output in outputs
        for kind in ("image/png", "image/gif")
        if kind in output.get("data", {})
    ]
    assert len(shown) == 5
    assert all(picture.width > 90 for picture in shown)
    assert shown[-1].n_frames > 1
    assert "4 latent actions, frames (16, 16, 3)" in "".join(output.get("text", "") for output in outputs)
