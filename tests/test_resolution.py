"""Maps with one value an element: taken as they are; others of another resolution are told how."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.integrate import trapezoid

import quantus_ext
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
    RFidelity,
)
from quantus_ext.base import TorchMetric
from quantus_ext.protocols import explanation_size
from tests.cases import untuned
from tests.harness import make_inputs

SIDE = 3
GRIDS = {"image": (3, 3), "series": (4,), "table": (3,), "volume": (2, 2, 2)}
METRICS: dict[str, Callable[..., TorchMetric]] = {
    "Fidelity": partial(Fidelity, output="probability"),
    "RFidelity": partial(RFidelity, n_samples=3, output="probability"),
    "FFidelity": partial(FFidelity, n_samples=3, output="probability", fine_tune=untuned),
    **{metric.__name__: metric for metric in (MoRF, LeRF, ABPC, Deletion, Insertion)},
    "QGE": lambda **keywords: QGE(ABPC(**keywords)),
    "QGE, random": lambda **keywords: QGE(Deletion(**keywords), reference="random"),
}


def enlarged(maps: np.ndarray, spatial: tuple[int, ...]) -> np.ndarray:
    """Return maps (n, *grid) with each value over its patch, one by one."""
    whole = np.zeros((len(maps), *spatial))
    for place in np.ndindex(*spatial):
        whole[(slice(None), *place)] = maps[(slice(None), *(at // SIDE for at in place))]
    return whole


def coarse(modality: str, n: int = 5) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, *GRIDS[modality]))


@pytest.mark.slow
@pytest.mark.parametrize("modality", GRIDS)
@pytest.mark.parametrize("name", METRICS)
def test_a_value_a_patch_is_the_map_that_has_it_all_over(name: str, modality: str):
    inputs, maps = make_inputs(modality), coarse(modality)
    spatial = inputs.x.shape[1:] if modality == "table" else inputs.x.shape[2:]
    metric = METRICS[name](patch_size=SIDE)
    expected = inputs.call(metric, a_batch=enlarged(maps, spatial))
    forms = [maps, maps[:, None], maps.reshape(len(maps), -1)]
    for form in forms[:: 2 if modality == "table" else 1]:
        np.testing.assert_array_equal(inputs.call(metric, a_batch=form), expected)
    made = inputs.call(metric, a_batch=None, explain_func=lambda inputs, **_: coarse(modality))
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("modality", GRIDS)
def test_a_value_a_segment_is_the_map_that_has_it_all_over(modality: str):
    inputs = make_inputs(modality)
    spatial = inputs.x.shape[1:] if modality == "table" else inputs.x.shape[2:]
    generator = np.random.default_rng(0)
    segments = generator.integers(0, 5, (5, *spatial))
    values = generator.normal(size=(5, 6))  # one of six segments is in no sample
    whole = np.take_along_axis(values, segments.reshape(5, -1), 1).reshape(5, *spatial)
    for make in METRICS.values():
        metric = make(element="segment")
        expected = inputs.call(metric, a_batch=whole, s_batch=segments)
        found = inputs.call(metric, a_batch=values, s_batch=segments)
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="a_batch must have shape"):
        inputs.call(Deletion(element="segment"), a_batch=values[:, :4], s_batch=segments)


def test_maps_of_each_resolution_stand_beside_each_other(tmp_path):
    inputs, maps = make_inputs("image"), coarse("image")
    metrics = {"Deletion": Deletion(patch_size=SIDE), "QGE": QGE(ABPC(patch_size=SIDE))}
    evaluation = quantus_ext.evaluate(
        metrics,
        {
            "coarse": maps,
            "flat": lambda inputs, **_: maps.reshape(5, 9),
            "fine": enlarged(maps, (8, 8)),
        },
        inputs.model,
        inputs.x,
        inputs.y,
        cases=1,
    )
    assert not evaluation.failures
    for metric in metrics:
        scores = [evaluation.scores_of(name, metric) for name in evaluation.explainers]
        np.testing.assert_allclose(scores[1:], np.stack([scores[0]] * 2))
    evaluation.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count('class="pixels"') == 3


def test_training_maps_and_sizes():
    inputs, maps = make_inputs("image", n=12), coarse("image", 12)
    scores = []
    for form in (maps, enlarged(maps, (8, 8))):
        tuner = FineTuner(inputs.x, inputs.y, epochs=1, display_progressbar=False)
        metric = ROAR(tuner, form, [0.5], patch_size=SIDE)
        scores.append(inputs.call(metric, a_batch=form))
    np.testing.assert_array_equal(*scores)
    found = [
        explanation_size(
            inputs.model,
            inputs.x,
            inputs.y,
            form,
            fine_tune=inputs.model,
            alphas=[0.9],
            betas=[0.4],
            sparsity=[0.2, 0.4, 0.6],
            n_samples=3,
            element="patch",
            patch_size=SIDE,
        )
        for form in (maps, enlarged(maps, (8, 8)))
    ]
    assert found[0].ends == found[1].ends


@pytest.mark.parametrize("modality", ["image", "series", "volume"])
@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize(
    "metric", [Deletion(), Deletion(patch_size=2), Infidelity(n_perturb_samples=3), QGE(Deletion())]
)
def test_others_are_told_how_to_interpolate(metric, modality, channel):
    inputs, maps = make_inputs(modality), coarse(modality)
    given = maps[:, None] if channel else maps
    with pytest.raises(ValueError, match=f"of another resolution.* patch_size={SIDE}$") as raised:
        inputs.call(metric, a_batch=given)
    call = re.search(r"(torch\.nn.*), or in", str(raised.value)).group(1)
    interpolated = eval(call, {"torch": torch, "a_batch": given})
    assert np.isfinite(inputs.call(metric, a_batch=interpolated)).all()


def test_a_resolution_that_no_patch_has_is_only_interpolated():
    inputs = make_inputs("image")
    with pytest.raises(ValueError, match=r"mode='bilinear'\)\[:, 0\]$"):
        inputs.call(Deletion(), a_batch=np.ones((5, 7, 3)))
    with pytest.raises(ValueError, match="a_batch must have shape"):
        inputs.call(Deletion(patch_size=SIDE), a_batch=np.ones((5, 10)))


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_rollout_of_a_vision_transformer_batch_by_batch():
    model = vision_transformer()
    x = np.random.default_rng(0).normal(size=(3, 3, 24, 16)).astype(np.float32)
    y = np.array([0, 1, 2])
    metric = Deletion(3, patch_size=8)
    found = metric(model, x, y, explain_func=rollout, batch_size=1)
    maps = rollout(vision_transformer(), x, y)
    assert maps.shape == (3, 3, 2)
    np.testing.assert_allclose(found, metric(model, x, y, maps), rtol=1e-5)
    assert not any(part._forward_hooks for part in model.modules())
    evaluation = quantus_ext.evaluate(
        [metric], {"rollout": rollout, "Saliency": {}}, model, x, y, batch_size=1
    )
    np.testing.assert_allclose(evaluation.scores_of("rollout", "Deletion"), found, rtol=1e-5)
    by_hand = []
    for row, label, scores in zip(x, y, maps, strict=True):
        order = np.argsort(-scores.ravel())
        outputs = []
        for count in (0, 2, 4, 6):
            left = row.copy()
            for place in order[:count]:
                top, side = 8 * (place // 2), 8 * (place % 2)
                left[:, top : top + 8, side : side + 8] = 0
            with torch.no_grad():
                logits = model(torch.from_numpy(left)[None]).logits
            outputs.append(float(logits.softmax(1)[0, label]))
        by_hand.append(trapezoid(outputs) / 3)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def vision_transformer() -> torch.nn.Module:
    config = transformers.ViTConfig(
        image_size=(24, 16),
        patch_size=8,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(config).eval()


def rollout(model: torch.nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> Any:
    """Multiply the attentions of all layers, half of each being what skips it."""
    with torch.no_grad():
        layers = model(torch.as_tensor(inputs), output_attentions=True).attentions
    through = skipped = torch.eye(layers[0].shape[-1])
    for attention in layers:
        through = (attention.mean(1) + skipped) / 2 @ through
    return through[:, 0, 1:].unflatten(1, (3, 2)).numpy()
