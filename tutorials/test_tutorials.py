"""Every notebook here runs from top to bottom and is committed without output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_prints(path: Path, capsys: pytest.CaptureFixture[str]):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    # Plain Python without magics, so that no kernel is needed to run it.
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in code:
        exec(compile("".join(cell["source"]), f"{path.stem}: {cell['id']}", "exec"), namespace)
    assert capsys.readouterr().out
