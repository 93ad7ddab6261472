"""The docs' table of what can be combined says what runs; what is not in it is refused clearly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import modalities

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "modalities.md"


@pytest.mark.parametrize("modality", modalities.MODALITIES)
def test_every_cell_of_the_table_is_what_runs(modality: str):
    if "Graphs" in modality:
        pytest.importorskip("torch_geometric")
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(f"| {modality} |")] == modalities.rows(
        modality
    )
