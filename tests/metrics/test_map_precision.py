"""Maps in double precision beside a model in single: what differs in the last digits counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantus_ext import (
    ABPC,
    QGE,
    ROAR,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
)
from tests.harness import Inputs, make_inputs

CHANGES = {
    "tiny": lambda a: a * 1e-46,
    "tiny beside a thousand": lambda a: a * 1e-6 + 1000,
    "huge": lambda a: a * 1e40,
    "tiny, as a tensor": lambda a: torch.from_numpy(a * 1e-46),
}
"""Maps that rank as before, and that single precision cannot hold."""

_probability = {"output": "probability"}
RANKS = {
    "MoRF": MoRF,
    "LeRF": LeRF,
    "ABPC": ABPC,
    "Deletion": Deletion,
    "Insertion": Insertion,
    "Fidelity": lambda: Fidelity([0.3, 0.6], **_probability),
    "RFidelity": lambda: RFidelity([0.3, 0.6], n_samples=4, **_probability),
    "FFidelity": lambda: FFidelity(
        [0.3, 0.6], n_samples=4, beta=0.4, fine_tune=lambda model, masks: model, **_probability
    ),
    "SynScore": SynScore,
    "QGE(MoRF)": lambda: QGE(MoRF()),
    "QGE(ABPC), negated": lambda: QGE(ABPC(), reference="negated"),
    "normalised": lambda: MoRF(normalise=True),
}


def inputs_of(modality: str) -> Inputs:
    inputs = make_inputs(modality, dtype=torch.float32)
    return Inputs(inputs.model, inputs.x, inputs.y, inputs.a.astype(np.float64))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize("name", RANKS)
def test_only_ranks_count(name, modality, change):
    inputs = inputs_of(modality)
    expected = inputs.call(RANKS[name]())
    np.testing.assert_array_equal(inputs.call(RANKS[name](), a_batch=change(inputs.a)), expected)

    def explain(**_: object) -> np.ndarray:
        return change(inputs.a)

    made = inputs.call(RANKS[name](), a_batch=None, explain_func=explain)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("change", [CHANGES["tiny"], CHANGES["tiny beside a thousand"]])
def test_roar_ranks_its_training_maps_alike(change):
    inputs = inputs_of("table")
    x, maps = np.tile(inputs.x, (6, 1)), np.tile(inputs.a, (6, 1))
    tuner = FineTuner(x, np.arange(30) % 4, epochs=1, display_progressbar=False)
    expected, scores = (
        inputs.call(ROAR(tuner, a_train, [0.5], **_probability)) for a_train in (maps, change(maps))
    )
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("scale", [1e-46, 1e40])
@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"multiply_by_inputs": True}, {"perturb_baseline": "uniform"}],
    ids=["fixed", "by mask", "random"],
)
def test_infidelity_of_maps_that_single_precision_cannot_hold(settings, modality, scale):
    inputs = inputs_of(modality)
    settings = {"perturb_patch_sizes": [3], "n_perturb_samples": 12, **settings}
    plain, scaled = Infidelity(**settings), Infidelity(**settings)
    inputs.call(plain)
    scores = inputs.call(scaled, a_batch=inputs.a * scale)
    assert np.isfinite(scores).all()
    for name in ("rescaled_infidelity", "faithfulness", "correlation"):
        np.testing.assert_allclose(scaled.details[name], plain.details[name], rtol=1e-8)
    np.testing.assert_allclose(scaled.details["scale"] * scale, plain.details["scale"], rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-46, 1e40])
def test_a_consensus_is_of_directions(scale):
    inputs = inputs_of("series")
    other = make_inputs("series", dtype=torch.float32).model
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    expected = inputs.call(PScore([other]))
    scores = inputs.call(PScore([other]), a_batch=inputs.a * scale)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)
