"""Targets of a sample's own: masks, boxes, heads, and several inputs; each score again by hand."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from scipy.integrate import trapezoid
from torch import Tensor, nn

import quantus_ext
from quantus_ext import ROAR, Deletion, FFidelity, Fidelity, FineTuner, Infidelity, RFidelity
from quantus_ext.adapters import Adapter, MultiOutput, Targets
from tests.harness import gradients
from tests.test_docs import ROOT, python_blocks

torchvision = pytest.importorskip("torchvision")


@dataclass(frozen=True)
class Form:
    """A model whose samples have targets of their own, and the same by hand.

    Attributes
    ----------
    by_hand : callable
        From one row and the number of its sample to the explained output, of the bare model.
    elements : list of arrays of bool
        Where each is in a sample, in the shape of the maps.
    windows : list of arrays of bool
        All that Infidelity perturbs with ``infidelity``.
    ranked, infidelity : dict
        Keywords of metrics of rankings, and of Infidelity.
    """

    model: nn.Module
    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    by_hand: Callable[[Tensor, int], float]
    elements: list[np.ndarray]
    windows: list[np.ndarray]
    ranked: dict[str, Any] = field(default_factory=dict)
    infidelity: dict[str, Any] = field(default_factory=dict)

    def without(self, sample: int, gone: np.ndarray) -> float:
        row = torch.from_numpy(np.where(gone, 0.0, self.x[sample]))
        with torch.no_grad():
            return self.by_hand(row, sample)

    def ranking(self, sample: int) -> list[int]:
        scores = [self.a[sample][self._of_map(element)].sum() for element in self.elements]
        return list(np.argsort(scores)[::-1])

    def union(self, chosen: list[int]) -> np.ndarray:
        return np.any([self.elements[e] for e in chosen], axis=0) if chosen else np.array(False)

    def _of_map(self, element: np.ndarray) -> np.ndarray:
        return np.broadcast_to(element, self.a.shape[1:])


def documented(page: str, *names: str) -> list[Any]:
    """Return functions and classes as a page of the docs defines them."""
    found: dict[str, Any] = {}
    for block in python_blocks(ROOT / "docs" / f"{page}.md"):
        tree = ast.parse(block)
        taken = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
        tree.body = [each for each in tree.body if isinstance(each, taken)]
        exec(compile(tree, page, "exec"), found)
    return [found[name] for name in names]


SIDE, PATCH, WINDOW = 32, 8, 31


def _photos() -> dict[str, Any]:
    draw = np.random.default_rng(3)
    places = [(i, j) for i in range(SIDE // PATCH) for j in range(SIDE // PATCH)]
    sides = range(SIDE - WINDOW + 1)
    return {
        "x": draw.random((2, 3, SIDE, SIDE)),
        "y": np.array([1, 0]),
        "a": draw.normal(size=(2, 3, SIDE, SIDE)),
        "elements": [_square(PATCH * i, PATCH * j, PATCH) for i, j in places],
        "windows": [_square(i, j, WINDOW) for i in sides for j in sides],
        "ranked": {"element": "patch", "patch_size": PATCH},
        "infidelity": {"perturb_patch_sizes": [WINDOW], "n_perturb_samples": len(sides) ** 2},
    }


def _square(top: int, left: int, side: int) -> np.ndarray:
    found = np.zeros((1, SIDE, SIDE), dtype=bool)
    found[:, top : top + side, left : left + side] = True
    return found


def _segmentation() -> Form:
    segmenter = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )
    segmenter = segmenter.double().eval()
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.float64)
    masks[0, 5:20, 9:21], masks[1, 20:30] = 1, 1
    classes = torch.tensor([2, 3])
    photos = _photos()

    def by_hand(row: Tensor, sample: int) -> float:
        logits = segmenter(row[None])["out"][0]
        target = photos["y"][sample]
        inside = [
            logits[:, i, j].softmax(0)[classes[target]].item()
            for i, j in masks[target].nonzero().tolist()
        ]
        return float(np.mean(inside))

    (in_mask,) = documented("adapters", "in_mask")
    model = Targets(segmenter, in_mask, masks=masks, classes=classes)
    return Form(model, **photos, by_hand=by_hand)


def _detection() -> Form:
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=4, box_score_thresh=0.0, min_size=SIDE
    )
    detector = detector.double().eval()
    photos = _photos()
    with torch.no_grad():
        found = detector(torch.from_numpy(photos["x"]))
    # Of the photo that y names it, not of the one in its place.
    boxes = torch.stack([found[1]["boxes"][0], found[0]["boxes"][1]])
    classes = torch.stack([found[1]["labels"][0], found[0]["labels"][1]])

    def by_hand(row: Tensor, sample: int) -> float:
        target = photos["y"][sample]
        sure = [0.0]
        (found,) = detector([row])
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            if label == classes[target]:
                sure.append(_overlap(box.tolist(), boxes[target].tolist()) * score.item())
        return max(sure)

    (found_at,) = documented("adapters", "found_at")
    model = Targets(detector, found_at, boxes=boxes, classes=classes)
    return Form(model, **photos, by_hand=by_hand)


def _overlap(one: list[float], other: list[float]) -> float:
    def area(box: list[float]) -> float:
        return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)

    both = [*map(max, one[:2], other[:2]), *map(min, one[2:], other[2:])]
    return area(both) / (area(one) + area(other) - area(both))


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.colour, self.size = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x).tanh()
        return torch.stack([self.colour(seen), self.size(seen)], 1)


def _heads() -> Form:
    network = _Heads().double().eval()
    model = MultiOutput(network, (2, 3))
    draw = np.random.default_rng(4)
    targets = [(1, 0), (0, 2)]

    def by_hand(row: Tensor, sample: int) -> float:
        head, label = targets[sample]
        layer = network.size if head else network.colour
        return layer(network.body(row).tanh()).softmax(0)[label].item()

    columns = [np.arange(6) == column for column in range(6)]
    x, a = draw.normal(size=(2, 2, 6))
    single = {"scheme": "subset", "subset_fraction": 0.17, "n_perturb_samples": 6}
    return Form(model, x, model.target(targets), a, by_hand, columns, columns, infidelity=single)


def _inputs() -> Form:
    network, adapter = documented("own_adapter", "Both", "ImageAndTable")
    both = network().double().eval()
    model = adapter(both, columns=5, shape=(3, 16, 16), patch=4)
    draw = np.random.default_rng(5)
    table, images = draw.normal(size=(2, 5)), draw.normal(size=(2, 3, 16, 16))

    def by_hand(row: Tensor, sample: int) -> float:
        outputs = both(row[5:].reshape(1, 3, 16, 16), row[None, :5])
        return outputs.softmax(1)[0, sample].item()

    elements = [np.arange(5 + 3 * 256) == column for column in range(5)]
    for i, j in itertools.product(range(4), range(4)):
        square = np.zeros((3, 16, 16), dtype=bool)
        square[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = True
        elements.append(np.concatenate([np.zeros(5, dtype=bool), square.ravel()]))
    x, a = model.rows(table, images), draw.normal(size=(2, 5 + 3 * 256))
    single = {"scheme": "subset", "subset_fraction": 0.05, "n_perturb_samples": 21}
    return Form(model, x, np.arange(2), a, by_hand, elements, elements, infidelity=single)


FORMS = {"mask": _segmentation, "box": _detection, "head": _heads, "inputs": _inputs}


@cache
def form(name: str) -> Form:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FORMS[name]()


def score(name: str, metric: quantus_ext.base.TorchMetric, **keywords: Any) -> np.ndarray:
    made = form(name)
    # Of outputs that are not probabilities yet, they are explained.
    softmax = None if made.model.own_softmax else True
    return np.array(metric(made.model, made.x, made.y, made.a, softmax=softmax, **keywords))


each_form = pytest.mark.parametrize("name", FORMS)


@each_form
def test_infidelity_is_that_by_hand(name: str):
    made, expected = form(name), []
    for sample in range(2):
        whole = made.without(sample, np.array(False))
        errors = []
        for window in made.windows:
            predicted = (made.a[sample] * made.x[sample] * window).sum()
            errors.append((predicted - whole + made.without(sample, window)) ** 2)
        expected.append(np.mean(errors))
    found = score(name, Infidelity(perturb_baseline=0.0, **made.infidelity))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@each_form
def test_r_fidelity_is_that_by_hand(name: str):
    made, expected = form(name), []
    top = 4 if len(made.elements) > 6 else 2
    for sample in range(2):
        most = made.ranking(sample)[:top]
        subsets = itertools.combinations(most, top // 2)
        left = [made.without(sample, made.union(subset)) for subset in subsets]
        expected.append(made.without(sample, np.array(False)) - np.mean(left))
    share = (top + 0.5) / len(made.elements)
    # At least as many draws as there are subsets: all of them are made.
    metric = RFidelity([share], alpha=0.5, n_samples=6, output="probability", **made.ranked)
    np.testing.assert_allclose(score(name, metric), expected, rtol=1e-7, atol=1e-9)


@each_form
def test_deletion_is_that_by_hand(name: str):
    made, expected = form(name), []
    t = len(made.elements)
    counts = sorted({share * t // 4 for share in range(5)})
    for sample in range(2):
        order = made.ranking(sample)
        curve = [made.without(sample, made.union(order[:count])) for count in counts]
        expected.append(trapezoid(curve, np.array(counts) / t))
    np.testing.assert_allclose(score(name, Deletion(4, **made.ranked)), expected, rtol=1e-7)


@pytest.mark.slow
@each_form
def test_a_target_stays_with_its_sample_in_any_order_and_chunk(name: str):
    made = form(name)
    metric = Deletion(4, plan=quantus_ext.Plan(3), **made.ranked)
    expected = score(name, Deletion(4, **made.ranked))
    softmax = None if made.model.own_softmax else True
    turned = metric(made.model, made.x[::-1], made.y[::-1], made.a[::-1], softmax=softmax)
    np.testing.assert_allclose(turned[::-1], expected, rtol=1e-7)
    evaluation = quantus_ext.evaluate(
        {"D": metric}, {"map": made.a}, made.model, made.x, made.y, softmax=softmax, shard_size=1
    )
    np.testing.assert_allclose(evaluation.scores_of("map", "D"), expected, rtol=1e-7)


def test_quantus_metrics_ask_for_the_own_target():
    made = form("mask")
    flipping = quantus.PixelFlipping(
        features_in_step=SIDE * SIDE, perturb_baseline=0.0, disable_warnings=True
    )
    # They know single precision only.
    model = copy.deepcopy(made.model).float()
    curves = flipping(model, made.x, made.y, made.a.mean(1, keepdims=True), softmax=False)
    black = torch.zeros(3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        own = [made.by_hand(black, sample) for sample in (0, 1)]
    np.testing.assert_allclose([curve[-1] for curve in curves], own, rtol=1e-4)
    assert abs(own[0] - own[1]) > 1e-3


class _Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def _at(outputs: Tensor, places: Tensor) -> Tensor:
    return outputs[:, places].sigmoid()


def at_places(**keywords: Any) -> Targets:
    return Targets(_Flat().eval(), _at, places=np.array([2, 0]), **keywords)


X, Y = np.random.default_rng(0).normal(size=(4, 5)), np.array([1, 0, 0, 1])


def test_explainers_get_targets_as_they_get_classes():
    model = Targets(nn.Linear(5, 3).double().eval(), _at, places=np.array([2, 0]))
    maps = gradients(model, X, Y)
    found = Deletion(5)(model, X, Y, explain_func=gradients)
    np.testing.assert_array_equal(found, Deletion(5)(model, X, Y, maps))


def test_scores_are_no_classes():
    model, a = at_places(), np.abs(X)
    with pytest.raises(ValueError, match="y_batch must be given for a Targets"):
        Deletion()(model, X, None, explain_func=lambda model, inputs, targets, **_: inputs)
    with pytest.raises(ValueError, match=r"output='label' needs .* that of a Targets is not"):
        Fidelity()(model, X, Y, a)
    with pytest.raises(ValueError, match="softmax must be False for a Targets that gives prob"):
        Deletion()(model, X, Y, a, softmax=True)
    trained = nn.Sequential(nn.Linear(5, 3), _Flat()).double().eval()
    for model in (
        Targets(trained, _at, places=np.array([2, 0])),
        MultiOutput(nn.Sequential(trained, nn.Unflatten(1, (3, 1))).eval(), (3, 1), softmax=False),
    ):
        tuner = FineTuner(X, Y, epochs=1, display_progressbar=False)
        for metric in (
            FFidelity(fine_tune=tuner, output="probability"),
            ROAR(tuner, a, output="probability"),
        ):
            with pytest.raises(ValueError, match=r"trained by cross-entropy, a (Targets|Multi)"):
                metric(model, X, Y, a, softmax=False)


def test_no_softmax_is_taken_of_scores_that_do_not_compete():
    heads = MultiOutput(nn.Unflatten(1, (5, 1)).eval(), (5, 1), softmax=False)
    for model in (at_places(probabilities=False), heads):
        assert not Deletion().takes_softmax(model, None)
        with pytest.raises(ValueError, match=r"softmax must be False .* one is right"):
            Deletion()(model, X, Y, np.abs(X), softmax=True)
        with pytest.raises(ValueError, match=r"output must be 'logit' .* one is right"):
            Deletion()(model, X, Y, np.abs(X), output="probability")


def test_a_target_may_be_of_several_samples_and_a_sample_have_several():
    model, a = at_places(), np.abs(X)
    both = Deletion(5)(model, X, np.stack([Y, 1 - Y], 1), np.stack([a, a], 1))
    for k, y in enumerate((Y, 1 - Y)):
        np.testing.assert_allclose([each[k] for each in both], Deletion(5)(model, X, y, a))


def test_targets_move_with_the_adapter():
    model = Targets(nn.Linear(5, 3).eval(), _at, places=torch.tensor([2, 0]))
    assert {buffer.device.type for buffer in model.to("meta").buffers()} == {"meta"}


def test_adapters_around_it_answer_alike():
    outer = Adapter(at_places(probabilities=False))
    assert not outer.one_softmax
    assert not outer.one_label


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="targets must be given by name, as masks=…, are none"):
        Targets(_Flat(), _at)
    with pytest.raises(ValueError, match=r"entry for each target, have {'boxes': 2, 'names': 3}"):
        Targets(_Flat(), _at, boxes=np.zeros((2, 4)), names=np.zeros(3))
    with pytest.raises(ValueError, match="places must have an entry for each target, is a single"):
        Targets(_Flat(), _at, places=np.array(3))
    with pytest.raises(TypeError, match="score must be callable, is 3"):
        Targets(_Flat(), 3, places=np.array([3]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"y_batch .*2"):
        Deletion()(at_places(), X, Y + 1, np.abs(X))


def test_bad_scores_are_named():
    model = Targets(_Flat().eval(), lambda outputs, places: outputs, places=np.array([2, 0]))
    with pytest.raises(ValueError, match=r"must give a tensor of shape \(4, 2\).*gives \(4, 5\)"):
        model(torch.from_numpy(X))
    model = Targets(_Flat().eval(), lambda *_, **__: [1.0], places=np.array([2, 0]))
    with pytest.raises(ValueError, match=r"must give a tensor of shape .*gives list"):
        model(torch.from_numpy(X))
    model = Targets(
        _Flat().eval(), lambda outputs, places: outputs[:, places], places=np.array([2, 0])
    )
    with pytest.raises(ValueError, match=r"between 0 and 1, gives .*probabilities=False"):
        Deletion()(model, X - 5, Y, np.abs(X))
