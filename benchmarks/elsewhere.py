"""The measures of other libraries and what they are here, on one model, its inputs and maps.

Run ``python -m benchmarks.elsewhere`` in the repository's root. Of torchcam, grad-cam, xplique
(with tensorflow), ferret-xai, autotimm and pnpxai, those that are not installed are left out. Each
can be installed with ``pip install --no-deps`` and what its import asks for.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from quantus.functions.perturb_func import noisy_linear_imputation
from torch import Tensor, nn

from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import (
    ABPC,
    AverageDrop,
    AverageGain,
    AverageIncrease,
    Deletion,
    Fidelity,
    Infidelity,
    Insertion,
)
from quantus_ext.adapters import TokenIds
from quantus_ext.base import TorchMetric

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

N, SIDE = 12, 20
Row = tuple[str, str, np.ndarray | float, np.ndarray | float]
"""What it is elsewhere and here, and both numbers, of each sample or their means."""


class Problem:
    """A small untrained network, and maps from 0 to 1 without ties."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(
                *(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(8 * 36, 4)),
            ).eval()
            # Outputs that differ, so that drops are not all alike.
            self.model[-1].weight.data *= 12
        self.x = torch.rand(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.y = self.model(self.x).argmax(1)
        ranks = torch.rand(N, SIDE * SIDE, generator=torch.Generator().manual_seed(2)).argsort(1)
        self.a = (ranks / (SIDE * SIDE - 1)).float().reshape(N, 1, SIDE, SIDE)

    def scores(self, metric: TorchMetric, **call: Any) -> np.ndarray:
        return np.array(metric(self.model, self.x, self.y, self.a, **call))


class GivenMaps:
    """What torch-cam asks of an explainer, around maps that there are already."""

    def __init__(self, problem: Problem) -> None:
        self.model, self._maps = problem.model, problem.a.squeeze(1)

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self._maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> nullcontext[None]:
        return nullcontext()


def of_torchcam(problem: Problem) -> Iterator[Row]:
    """Compare with torch-cam."""
    metrics = importlib.import_module("torchcam.metrics")
    probabilities = partial(torch.softmax, dim=-1)
    summary: dict[str, float] = {}
    for measure in (
        metrics.ClassificationMetric(GivenMaps(problem), probabilities),
        metrics.DeletionInsertionMetric(GivenMaps(problem), probabilities, steps=20),
    ):
        measure.update(problem.x, problem.y.tolist())
        summary |= measure.summary()
    every = {"features_in_step": SIDE * SIDE // 20}
    for key, shown, metric in (
        ("avg_drop", "`AverageDrop()`", AverageDrop()),
        ("conf_increase", "`AverageIncrease()`", AverageIncrease()),
        ("deletion_auc", "`Deletion(features_in_step=20)`", Deletion(**every)),
        ("insertion_auc", "`Insertion(features_in_step=20)`", Insertion(**every)),
    ):
        yield f"torch-cam `{key}`", shown, summary[key], problem.scores(metric).mean()


def of_grad_cam(problem: Problem) -> Iterator[Row]:
    """Compare with pytorch-grad-cam; its imputation without noise, whose numbers are its own."""
    images = importlib.import_module("pytorch_grad_cam.metrics.cam_mult_image")
    road = importlib.import_module("pytorch_grad_cam.metrics.road")
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    maps = problem.a.squeeze(1).numpy()
    probability = [targets.ClassifierOutputSoftmaxTarget(int(y)) for y in problem.y]
    logit = [targets.ClassifierOutputTarget(int(y)) for y in problem.y]
    metric = AverageDrop()
    problem.scores(metric)
    drop = metric.details["original_score"] - metric.details["masked_score"]
    found = images.DropInConfidence()(problem.x, maps[:, None], probability, problem.model)
    here = '`max(details["original_score"] - details["masked_score"], 0)`'
    yield "pytorch-grad-cam `DropInConfidence`", here, found, np.maximum(drop, 0)
    found = images.IncreaseInConfidence()(problem.x, maps[:, None], probability, problem.model)
    increase = problem.scores(AverageIncrease())
    yield "pytorch-grad-cam `IncreaseInConfidence`", "`AverageIncrease()`", found, increase
    defaults = road.NoisyLinearImputer.__init__.__defaults__
    silent = (0.0, *defaults[1:])
    with mock.patch.object(road.NoisyLinearImputer.__init__, "__defaults__", silent):
        measure = road.ROADCombined()
        by_probability = measure(problem.x, maps, probability, problem.model)
        by_logit = measure(problem.x, maps, logit, problem.model)
    imputed: dict[str, Any] = {
        "perturb_func": noisy_linear_imputation,
        "perturb_func_kwargs": {"noise": 0.0},
    }
    tenths = (np.arange(1, 10) / 10).tolist()
    gap = problem.scores(Fidelity(tenths, score="gap", output="probability", **imputed))
    here = '`Fidelity(…, score="gap", output="probability", …)` / 2'
    yield "pytorch-grad-cam `ROADCombined`, probabilities", here, by_probability, gap / 2
    curves = problem.scores(ABPC(10, **imputed), softmax=False)
    here = "`ABPC(10, …)` · 11/18"
    yield "pytorch-grad-cam `ROADCombined`, logits", here, by_logit, curves * 11 / 18


def of_xplique(problem: Problem) -> Iterator[Row]:
    """Compare with xplique."""
    metrics = importlib.import_module("xplique.metrics")
    wrap = importlib.import_module("xplique.wrappers").TorchWrapper
    wrapped = wrap(problem.model, "cpu", is_channel_first=True)
    given = (wrapped, problem.x.permute(0, 2, 3, 1).numpy(), np.eye(4, dtype="f4")[problem.y])
    maps = problem.a.squeeze(1).numpy()
    for name, metric in (
        ("AverageDropMetric", AverageDrop(abs=True)),
        ("AverageIncreaseMetric", AverageIncrease(abs=True)),
        ("AverageGainMetric", AverageGain(abs=True)),
    ):
        found = getattr(metrics, name)(*given, activation="softmax").evaluate(maps[..., None])
        yield f"xplique `{name}`", f"`{metric}`", found, problem.scores(metric).mean()
    for name, metric in (("Deletion", Deletion(20)), ("Insertion", Insertion(20))):
        measure = getattr(metrics, name)(*given, activation="softmax", steps=20)
        found = float(measure.evaluate(maps))
        yield f"xplique `{name}`", f"`{name}(20)`", found, problem.scores(metric).mean()
    measure = metrics.MuFidelity(*given, grid_size=None, nb_samples=1000)
    yield "xplique `MuFidelity`", *_correlation(problem, measure.evaluate(maps))


def of_pnpxai(problem: Problem) -> Iterator[Row]:
    """Compare with pnpxai."""
    module = importlib.import_module("pnpxai.evaluator.metrics.mu_fidelity")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        measure = module.MuFidelity(problem.model, n_perturb=1000, grid_size=SIDE)
        maps = problem.a.expand_as(problem.x) / 3
        found = float(measure.evaluate(problem.x, problem.y, maps).mean())
    yield "pnpxai `MuFidelity`", *_correlation(problem, found)


def _correlation(problem: Problem, found: float) -> tuple[str, float, float]:
    metric = Infidelity(
        scheme="subset",
        subset_fraction=0.2,
        multiply_by_inputs=True,
        perturb_baseline=0.0,
        n_perturb_samples=1000,
    )
    problem.scores(metric)
    here = '`Infidelity(scheme="subset", …)`: `details["correlation"]`; not the same measure'
    return here, found, float(metric.details["correlation"].mean())


class _Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(30, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.embedding(ids).cumsum(1).tanh().mean(1))
        return outputs


def of_ferret(problem: Problem) -> Iterator[Row]:
    """Compare with ferret, whose tokenizer here says each id as a number."""
    module = importlib.import_module("ferret.evaluators.faithfulness_measures")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = _Reader().eval()
        reader.head.weight.data *= 4
    generator = np.random.default_rng(0)
    ids = np.pad(generator.integers(4, 30, (N, 10)), [(0, 0), (1, 1)], constant_values=2)
    a = generator.uniform(0.1, 1.0, ids.shape)
    model = TokenIds(reader, mask_id=1, pad_id=0, special_ids=[2])
    with torch.no_grad():
        y = reader(torch.from_numpy(ids)).argmax(1)

    class Helper:
        tokenizer = SimpleNamespace(
            cls_token="[CLS]",
            mask_token_id=1,
            decode=lambda tokens: " ".join(str(int(token)) for token in tokens),
        )

        def _tokenize(self, text: str) -> dict[str, Tensor]:
            tokens = torch.tensor([[2, *map(int, text.split()), 2]])
            return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

        def _forward(self, text: Sequence[str] | str, **_: Any) -> tuple[None, Tensor]:
            texts = [text] if isinstance(text, str) else text
            tokens = torch.cat([self._tokenize(each)["input_ids"] for each in texts])
            with torch.no_grad():
                return None, reader(tokens)

    metric = Fidelity([round(0.1 * k, 1) for k in range(1, 11)], output="probability")
    metric(model, ids, y, a)
    for name, key in (("Comprehensiveness", "plus"), ("Sufficiency", "minus")):
        measure = getattr(module, f"AOPC_{name}_Evaluation")
        measure = measure.__new__(measure)
        measure.helper = Helper()
        found = [
            measure.compute_evaluation(
                SimpleNamespace(
                    text=" ".join(map(str, tokens[1:-1])),
                    scores=values,
                    tokens=["[CLS]", *map(str, tokens[1:-1]), "[SEP]"],
                ),
                target=int(label),
                removal_args={"remove_tokens": False},
            ).score
            for tokens, values, label in zip(ids, a, y, strict=True)
        ]
        here = f'`Fidelity(…, output="probability")`: `details["{key}"]`'
        yield f"ferret `aopc_{name.lower()}`", here, np.array(found), metric.details[key]


def of_autotimm(problem: Problem) -> Iterator[Row]:
    """Compare with AutoTimm, on inputs as they are."""
    module = importlib.import_module("autotimm.interpretation.metrics")
    keys = {
        "deletion": (Deletion(20), {"auc": "normalised", "final_drop": "relative_drop"}),
        "insertion": (Insertion(20), {"auc": "normalised", "final_rise": "relative_rise"}),
    }
    for name, (metric, same) in keys.items():
        found = []
        for x, y, a in zip(problem.x, problem.y, problem.a, strict=True):
            explainer = SimpleNamespace(explain=lambda *_, a=a, **__: a[0].numpy())
            measure = module.ExplanationMetrics(problem.model, explainer, use_cuda=False)
            measure._preprocess_image = lambda _, x=x: x[None]
            found.append(
                getattr(measure, name)(None, target_class=int(y), steps=20, baseline="black")
            )
        problem.scores(metric)
        for theirs, ours in same.items():
            here = f'`{type(metric).__name__}(20)`: `details["{ours}"]`'
            each = np.array([result[theirs] for result in found])
            yield f"AutoTimm `{name}`: `{theirs}`", here, each, metric.details[ours]


LIBRARIES: dict[str, Callable[[Problem], Iterator[Row]]] = {
    "torchcam": of_torchcam,
    "grad-cam": of_grad_cam,
    "xplique": of_xplique,
    "ferret-xai": of_ferret,
    "autotimm": of_autotimm,
    "pnpxai": of_pnpxai,
}


def main() -> None:
    """Write the page."""
    chosen = options(parser("elsewhere", __doc__))
    page = Page("elsewhere", [*LIBRARIES, "tensorflow-cpu"], quick=chosen.quick)
    page.text(f"# Measures of other libraries\n\n{N} images of {SIDE}×{SIDE} pixels, maps 0 to 1.")
    problem, rows = Problem(), []
    for library, compare in LIBRARIES.items():
        try:
            found = list(compare(problem))
        except ImportError as error:
            page.text(f"{library} was left out: {error}.")
            continue
        for elsewhere, here, theirs, ours in found:
            difference = float(np.abs(np.asarray(theirs) - np.asarray(ours)).max())
            means = [f"{float(np.mean(each)):.4f}" for each in (theirs, ours)]
            rows.append([elsewhere, here, *means, f"{difference:.1e}"])
    headers = ["Elsewhere", "Here", "Mean there", "Mean here", "Largest difference"]
    page.text(markdown_table(headers, rows))


if __name__ == "__main__":
    main()
