"""Every metric of the package with its slow reference; to register a metric, add a case."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from quantus_ext import (
    ABPC,
    QGE,
    ROAR,
    AverageDrop,
    AverageGain,
    AverageIncrease,
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
from tests.harness import MODALITIES, Case, Inputs, Predict, make_inputs
from tests.reference import (
    average_drop,
    fidelity,
    infidelity,
    p_score,
    qge,
    removal_curves,
    syn_score,
)

# 30 of 36 windows of images and of 35 subsets of a table's features; all 10 windows of series.
_patches = partial(Infidelity, perturb_patch_sizes=[3], n_perturb_samples=30, perturb_baseline=0.25)


def _inverted(**common: object) -> QGE:
    return QGE(Infidelity(scheme="all", perturb_baseline=0.25), **common)


def _reordered(**common: object) -> QGE:
    inner = Infidelity(scheme="all", perturb_baseline=0.25)
    return QGE(inner, reference="random", n_references=6, **common)


_sizes = (0.3, 0.5, 0.9)
# Probabilities, because labels of few draws often all agree, and then no draw would show.
_halves = {"sparsity": _sizes, "alpha": 0.5, "output": "probability"}


_halved = partial(RFidelity, n_samples=6, **_halves)


def untuned(model: nn.Module, mask_sampler: object) -> nn.Module:
    """Tune nothing, so that F-Fidelity can be re-derived on the model itself."""
    return model


_capped = partial(FFidelity, n_samples=6, fine_tune=untuned, beta=0.3, **_halves)


# Each size has a training of its own, so that no random share of elements comes into it.
_training = make_inputs("table", n=40)
_share = 0.5


def _retrained(**common: object) -> ROAR:
    tuner = FineTuner(_training.x, _training.y, epochs=1, display_progressbar=False)
    return ROAR(tuner, _training.a, [_share], retrain="per_sparsity", **common)


def _fidelity_of_the_retrained(predict: Predict, *data: np.ndarray) -> np.ndarray:
    """Re-derive the scores on the model that answers; its training has tests of its own."""
    inputs = make_inputs("table")
    x, y = torch.from_numpy(inputs.x), torch.from_numpy(inputs.y)
    asked = _retrained()._at(_share).model_to_ask(inputs.model, x, y)
    answers = Inputs(asked, inputs.x, inputs.y, inputs.a).predict(softmax=True)
    return fidelity.fidelity(answers, *data, sparsity=(_share,))


_quarters = [0.0, 0.25, 0.5, 0.75, 1.0]
_thirds = [0.0, 0.3, 0.7, 1.0]


def _ensemble(modality: str) -> list[nn.Module]:
    """Make three networks as the harness's, each with other weights."""
    models = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(3):
            torch.manual_seed(seed)
            models.append(MODALITIES[modality][0]().double().eval())
    return models


_others = _ensemble("series")

CASES = {
    "Infidelity": Case(_patches, infidelity.infidelity, exact_on=("series",)),
    "Infidelity-rescaled": Case(
        partial(_patches, rescale=True),
        partial(infidelity.infidelity, name="rescaled_infidelity"),
        exact_on=("series",),
    ),
    "Infidelity-inputs": Case(
        partial(_patches, multiply_by_inputs=True),
        partial(infidelity.infidelity, multiply_by_inputs=True, inputs_baseline=0.0),
        exact_on=("series",),
    ),
    "Fidelity": Case(
        partial(Fidelity, _sizes), partial(fidelity.fidelity, sparsity=_sizes), is_random=False
    ),
    "Fidelity-minus": Case(
        partial(Fidelity, _sizes, score="minus", output="probability"),
        partial(fidelity.fidelity, sparsity=_sizes, score="minus", output="probability"),
        is_random=False,
    ),
    "RFidelity": Case(_halved, partial(fidelity.fidelity, n_samples=6, **_halves)),
    "RFidelity-gap": Case(
        partial(_halved, score="gap"),
        partial(fidelity.fidelity, n_samples=6, score="gap", **_halves),
    ),
    "FFidelity": Case(
        _capped,
        partial(fidelity.fidelity, n_samples=6, beta=0.3, **_halves),
        counts_every_row=False,
    ),
    "ROAR": Case(
        _retrained,
        _fidelity_of_the_retrained,
        modalities=("table",),
        is_random=False,
        counts_every_row=False,
        trains=True,
    ),
    "MoRF": Case(
        partial(MoRF, 4),
        partial(removal_curves.removal_score, name="morf", fractions=_quarters),
        is_random=False,
    ),
    "LeRF": Case(
        partial(LeRF, [0.3, 0.7], perturb_baseline=0.5),
        partial(removal_curves.removal_score, name="lerf", fractions=_thirds, baseline=0.5),
        is_random=False,
    ),
    "ABPC": Case(
        partial(ABPC, 4),
        partial(removal_curves.removal_score, name="abpc", fractions=_quarters),
        is_random=False,
    ),
    "Deletion": Case(
        partial(Deletion, [0.3, 0.7]),
        partial(removal_curves.removal_score, name="deletion", fractions=_thirds),
        is_random=False,
    ),
    "Insertion": Case(
        partial(Insertion, 4, baseline="black"),
        partial(removal_curves.removal_score, name="insertion", fractions=_quarters),
        is_random=False,
    ),
    "AverageDrop": Case(
        AverageDrop, partial(average_drop.average_drop, name="drop"), is_random=False
    ),
    "AverageIncrease": Case(
        AverageIncrease, partial(average_drop.average_drop, name="increase"), is_random=False
    ),
    "AverageGain": Case(
        partial(AverageGain, perturb_baseline=0.5),
        partial(average_drop.average_drop, name="gain", baseline=0.5),
        is_random=False,
    ),
    "PScore": Case(
        partial(PScore, _others),
        partial(p_score.p_score, models=_others),
        modalities=("series",),
        is_random=False,
        asks=False,
        explains=True,
    ),
    "SynScore": Case(
        SynScore, syn_score.syn_score, is_random=False, asks=False, needs_segmentations=True
    ),
    "SynScore-ap": Case(
        partial(SynScore, "ap"),
        partial(syn_score.syn_score, measure="ap"),
        is_random=False,
        asks=False,
        needs_segmentations=True,
    ),
    "QGE": Case(_inverted, qge.qge, is_random=False),
    "QGE-random": Case(_reordered, partial(qge.qge, n_random=6)),
}
