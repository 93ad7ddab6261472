"""Every metric of the package with its slow reference; to register a metric, add a case."""

from __future__ import annotations

from functools import partial

from quantus_ext import Infidelity
from tests.harness import Case
from tests.reference import infidelity

_patches = partial(Infidelity, perturb_patch_sizes=[3], n_perturb_samples=30, perturb_baseline=0.25)

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
}
