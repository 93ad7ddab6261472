"""Every metric of the package with its slow reference; to register a metric, add a case."""

from __future__ import annotations

from functools import partial

from quantus_ext import QGE, Infidelity
from tests.harness import Case
from tests.reference import infidelity, qge

_patches = partial(Infidelity, perturb_patch_sizes=[3], n_perturb_samples=30, perturb_baseline=0.25)


def _inverted(**common: object) -> QGE:
    return QGE(Infidelity(scheme="all", perturb_baseline=0.25), **common)


def _reordered(n_perturb_samples: int = 6, **common: object) -> QGE:
    inner = Infidelity(scheme="all", perturb_baseline=0.25)
    return QGE(inner, reference="random", n_references=n_perturb_samples, **common)


CASES = {
    "Infidelity": Case(_patches, infidelity.infidelity),
    "Infidelity-rescaled": Case(
        partial(_patches, rescale=True),
        partial(infidelity.infidelity, name="rescaled_infidelity"),
    ),
    "Infidelity-inputs": Case(
        partial(_patches, multiply_by_inputs=True),
        partial(infidelity.infidelity, multiply_by_inputs=True),
    ),
    "QGE": Case(_inverted, qge.qge, is_random=False),
    "QGE-random": Case(_reordered, partial(qge.qge, n_random=6)),
}
