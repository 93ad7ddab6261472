from __future__ import annotations

from collections.abc import Iterator

import pytest

from quantus_ext.finetune import clear_memory, training, tuner


@pytest.fixture(autouse=True)
def _forget_tuned_models() -> Iterator[None]:
    clear_memory()
    yield
    clear_memory()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each training that was begun."""
    begun: list[str] = []

    def counted(*arguments, **keywords):
        begun.append(keywords["description"])
        return training.train(*arguments, **keywords)

    monkeypatch.setattr(tuner, "train", counted)
    return begun
