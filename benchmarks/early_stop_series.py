"""What ``benchmarks.early_stop`` measures on digits, on time series.

GunPoint (aeon), the 150 series that the network has not seen, with 20 seeds. Run ``python -m
benchmarks.early_stop_series`` in the repository's root; ``--quick`` writes nothing.
"""

from __future__ import annotations

import warnings

import torch
from aeon.datasets import load_gunpoint

from benchmarks.early_stop import SEEDS, compare
from benchmarks.fidelity_common import accuracy, train
from benchmarks.fidelity_series_tables import convolutions, series
from benchmarks.page import Page, options, parser
from quantus_ext import FineTuner


def main() -> None:
    quick = options(parser("early_stop_series", __doc__)).quick
    page = Page("early_stop_series", ("aeon", "captum"), quick=quick)
    warnings.simplefilter("ignore")
    x_train, y_train, x, y = series(load_gunpoint)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = convolutions(1, 2)
    train(model, x_train, y_train, epochs=20 if quick else 200, batch_size=16)
    tuner = FineTuner(
        x_train,
        y_train,
        epochs=5 if quick else 60,
        batch_size=16,
        patience=10,
        display_progressbar=False,
    )
    title = f"Convolutions, {accuracy(model, x, y):.1%} of GunPoint read rightly; {len(x)} series"
    compare(page, title, model, x, y, tuner, 4 if quick else 50, 2 if quick else SEEDS)


if __name__ == "__main__":
    main()
