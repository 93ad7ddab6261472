"""The list of metrics: ours join it under their categories, and leave it as they found it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import quantus
from quantus.metrics.faithfulness.pixel_flipping import PixelFlipping

import quantus_ext
from quantus_ext import metrics

LISTED = quantus.AVAILABLE_METRICS
RENAMED = "Infidelity (quantus_ext)"


def state() -> list[tuple[str, list[tuple[str, type]]]]:
    """Return categories, names and classes, in their order."""
    return [(category, list(names.items())) for category, names in LISTED.items()]


@pytest.fixture(autouse=True)
def restored():
    before = state()
    yield
    quantus_ext.unregister()
    assert state() == before


def test_every_metric_is_under_its_category():
    quantus_ext.register()
    for name in metrics.__all__:
        metric = getattr(metrics, name)
        if metric is quantus_ext.QGE:
            continue
        shown = RENAMED if name == "Infidelity" else metric.name
        assert LISTED[metric.evaluation_category.value][shown] is metric
    assert LISTED["Wrapper"] == {"QGE": quantus_ext.QGE}
    assert "None" not in LISTED
    assert LISTED["Localisation"]["SynScore"] is quantus_ext.SynScore


def test_quantus_own_entries_stay_and_come_first():
    before = state()
    quantus_ext.register()
    for category, names in before:
        assert list(LISTED[category].items())[: len(names)] == names


def test_registered_twice_is_registered_once():
    quantus_ext.register()
    once = state()
    quantus_ext.register()
    assert state() == once


def test_shadow_replaces_in_place_and_the_last_word_counts():
    before = list(LISTED["Faithfulness"])
    quantus_ext.register(shadow=True)
    assert LISTED["Faithfulness"]["Infidelity"] is quantus_ext.Infidelity
    assert list(LISTED["Faithfulness"])[: len(before)] == before
    assert RENAMED not in LISTED["Faithfulness"]
    quantus_ext.register()
    assert LISTED["Faithfulness"]["Infidelity"] is quantus.Infidelity
    assert LISTED["Faithfulness"][RENAMED] is quantus_ext.Infidelity


def test_unregistering_leaves_what_others_changed():
    class Mine(PixelFlipping):
        pass

    quantus_ext.register(shadow=True)
    faithfulness = LISTED["Faithfulness"]
    changed = {"Infidelity": Mine, "MoRF": Mine, "New": Mine}
    faithfulness.update(changed)
    del faithfulness["LeRF"]
    LISTED["Wrapper"]["Other"] = Mine
    quantus_ext.unregister()
    try:
        assert {name: m for name, m in faithfulness.items() if m is Mine} == changed
        assert not any(m.__module__.startswith("quantus_ext") for m in faithfulness.values())
        assert LISTED["Wrapper"] == {"Other": Mine}
    finally:
        faithfulness["Infidelity"] = quantus.Infidelity
        del faithfulness["MoRF"], faithfulness["New"], LISTED["Wrapper"]


def test_a_name_that_was_taken_by_others_is_given_back():
    faithfulness = LISTED["Faithfulness"]
    faithfulness[RENAMED] = PixelFlipping
    try:
        quantus_ext.register()
        assert faithfulness[RENAMED] is quantus_ext.Infidelity
        quantus_ext.unregister()
        assert faithfulness[RENAMED] is PixelFlipping
    finally:
        del faithfulness[RENAMED]


def test_unregistering_what_is_not_registered_changes_nothing():
    before = state()
    quantus_ext.unregister()
    assert state() == before


@pytest.mark.slow
def test_importing_alone_lists_nothing():
    program = (
        "import quantus, copy; before = copy.deepcopy(quantus.AVAILABLE_METRICS)\n"
        "import sys; before_ours = set(sys.modules)\n"
        "import quantus_ext; assert quantus.AVAILABLE_METRICS == before\n"
        "assert quantus_ext.metaquantus.score_direction('higher') == 'higher'\n"
        "assert 'metaquantus' not in sys.modules\n"
        "assert not {'dask', 'distributed', 'ray', 'matplotlib.pyplot'} & "
        "set(sys.modules) - set(before_ours)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
