"""What a call takes: shapes that say which axis is which, and every form of array."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import quantus
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    FFidelity,
    Fidelity,
    Infidelity,
    MoRF,
    PScore,
    SynScore,
    evaluate,
)
from quantus_ext.adapters import BlackBox, Columns, Regression, Series, TokenIds, refit
from quantus_ext.batch import channels_are_first
from quantus_ext.finetune.data import read
from tests.harness import make_inputs
from tests.test_arrays import REFUSED


class AnyShape(nn.Module):
    """Two classes of inputs of any shape, each value with a weight of its own."""

    def forward(self, x: Tensor) -> Tensor:
        values = x.flatten(1)
        weights = torch.linspace(-1, 1, values.shape[1]).to(values)
        return torch.stack([values @ weights, -(values @ weights.square())], 1)


def with_part(part: nn.Module) -> nn.Module:
    model = AnyShape()
    model.part = part
    return model.eval()


ANY = AnyShape().eval()
IMAGES = with_part(nn.Conv2d(1, 1, 1))
SCRIPTED = torch.jit.trace(IMAGES, torch.ones(2, 2, 600))
RECURRENT = with_part(nn.LSTM(40, 2, batch_first=True))
ATTENTION = with_part(nn.TransformerEncoderLayer(40, 2, 8, batch_first=True))

# Shape of a sample, model, and what is removed at once: the spatial shape, or how it is refused.
SHAPES: dict[str, tuple[tuple[int, ...], nn.Module, tuple[int, ...] | str]] = {
    "table": ((7,), ANY, (7,)),
    "grey images": ((1, 28, 28), IMAGES, (28, 28)),
    "colour images": ((3, 32, 24), IMAGES, (32, 24)),
    "small images": ((3, 2, 2), IMAGES, (2, 2)),
    "images of many channels": ((64, 40, 30), IMAGES, (40, 30)),
    "feature maps": ((64, 4, 4), IMAGES, (4, 4)),
    "one value a channel": ((512, 1, 1), IMAGES, (1, 1)),
    "a narrow image": ((3, 60, 1), IMAGES, (60, 1)),
    "colour last": ((32, 24, 3), IMAGES, "images (n, C, H, W), or (n, H, W, C)"),
    "grey last": ((28, 28, 1), ANY, "images (n, C, H, W), or (n, H, W, C)"),
    "transparency last": ((28, 20, 4), ANY, "images (n, C, H, W), or (n, H, W, C)"),
    "channels of series as images": ((11, 60, 1), IMAGES, "images (n, C, H, W), or (n, H, W, C)"),
    "series": ((6, 100), ANY, (100,)),
    "series of one channel": ((1, 60), ANY, (60,)),
    "series of many channels": ((12, 24), ANY, (24,)),
    "one step": ((1, 1), ANY, (1,)),
    "more channels than steps": ((64, 40), ANY, "series (n, C, T), or (n, T, C)"),
    "channels last": ((100, 6), ANY, "series (n, C, T), or (n, T, C)"),
    "one channel, last": ((60, 1), ANY, "series (n, C, T), or (n, T, C)"),
    "grey images without an axis": ((28, 28), ANY, "grey images need an axis of one channel"),
    "wide ones": ((20, 30), ANY, "grey images need an axis of one channel"),
    "very wide ones": ((20, 60), IMAGES, "or grey images (n, H, W), as the model has nn.Conv2d"),
    "very wide ones, scripted": ((20, 60), SCRIPTED, "or grey images (n, H, W), as the model has"),
    "channels last, few steps": ((10, 40), RECURRENT, "adapters.Series(model, time_first=True)"),
    "the same for attention": ((10, 40), ATTENTION, "adapters.Series(model, time_first=True)"),
    "channels first for LSTM": ((10, 60), RECURRENT, (60,)),
    "a series that says so": ((64, 40), Series(ANY), (40,)),
    "a recurrent one": ((10, 40), Series(RECURRENT, time_first=True), (40,)),
}


@pytest.mark.parametrize(("shape", "model", "expected"), SHAPES.values(), ids=SHAPES)
def test_shapes_are_read_as_promised_or_refused(shape, model, expected):
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    y, metric = np.array([0, 1]), Fidelity([0.5])

    def removed_at_once(x: np.ndarray, **keywords: Any) -> tuple[int, ...]:
        metric(model, x, y, x, **keywords)
        # Half of the elements.
        assert metric.details["size"].tolist() == [[count // 2]] * 2 or count == 1
        return spatial

    if isinstance(expected, str):
        for metric_of_any_kind in (metric, SynScore(), QGE(quantus.Complexity())):
            with pytest.raises(ValueError, match="x_batch of shape") as raised:
                metric_of_any_kind(model, x, y, x)
            assert "channel_first=True" in str(raised.value)
            assert expected in str(raised.value)
        with pytest.raises(ValueError, match="x_batch of shape"):
            evaluate({"m": MoRF(2)}, {"map": x}, model, x, y)
        for first in (True, False):
            spatial = shape[1:] if first else shape[:-1]
            count = int(np.prod(spatial))
            removed_at_once(x, channel_first=first)
        return
    spatial = expected
    count = int(np.prod(spatial))
    removed_at_once(x)


def test_channels_last_are_moved_with_their_maps_in_evaluate_too():
    inputs = make_inputs("image", dtype=torch.float32)
    expected = inputs.call(MoRF(4))
    last = [np.moveaxis(each, 1, -1) for each in (inputs.x, inputs.a)]
    scores = inputs.call(MoRF(4), x_batch=last[0], a_batch=last[1], channel_first=False)
    np.testing.assert_allclose(scores, expected)
    evaluation = evaluate(
        {"m": MoRF(4)},
        {"map": last[1]},
        inputs.model,
        last[0],
        inputs.y,
        call_kwargs={"": {"channel_first": False}},
    )
    assert not evaluation.failures
    np.testing.assert_allclose(evaluation.scores[0, 0], expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:fine_tune is None")
def test_channels_last_where_evaluate_trains_a_copy():
    inputs = make_inputs("image", dtype=torch.float32)
    last = np.moveaxis(inputs.x, 1, -1)
    evaluation = evaluate(
        {"m": FFidelity(0.2, n_samples=2)},
        {"map": np.moveaxis(inputs.a, 1, -1)},
        inputs.model,
        last,
        inputs.y,
        call_kwargs={"": {"channel_first": False}},
    )
    assert not evaluation.failures


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (8, 8, 8), (8, 8), (2, 8)])
def test_maps_without_a_channel_axis_in_evaluate(shape):
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    y, a, call = np.array([0, 1, 0]), x.sum(1), {"channel_first": True}
    evaluation = evaluate({"m": MoRF(4)}, {"map": a}, ANY, x, y, call_kwargs={"": call})
    assert not evaluation.failures
    np.testing.assert_allclose(evaluation.scores[0, 0], MoRF(4)(ANY, x, y, a, **call), rtol=1e-6)


def test_channels_are_first_where_nothing_speaks_against_it():
    assert channels_are_first(np.ones((2, 3, 8, 8)), IMAGES)


# Attributions with an axis too many, made from right ones (n, *shape) and wrong ones.
CLASS_AXES = {
    "last": (lambda right, wrong: np.stack([right, wrong, wrong], -1), "a_batch[np.arange(5), ..."),
    "second": (lambda right, wrong: np.stack([right, wrong], 1), "a_batch[np.arange(5), y_batch]"),
    "first": (lambda right, wrong: np.stack([right, wrong]), "np.asarray(a_batch)[y_batch, np."),
    "a list by class": (lambda right, wrong: [right, wrong, wrong], "np.asarray(a_batch)[y_batch"),
}


@pytest.mark.parametrize("modality", ["image", "series", "table"])
@pytest.mark.parametrize(("make", "way_out"), CLASS_AXES.values(), ids=CLASS_AXES)
def test_an_axis_of_classes_is_named_with_the_way_to_pick_one(make, way_out, modality):
    inputs = make_inputs(modality)
    given = make(inputs.a, -inputs.a)
    for metric in (MoRF(2), QGE(quantus.Complexity())):
        with pytest.raises(ValueError, match="pick the explained class") as raised:
            inputs.call(metric, a_batch=given)
        assert way_out in str(raised.value)
    explained = {"a_batch": None, "explain_func": lambda model, inputs, targets: given}
    with pytest.raises(ValueError, match="pick the explained class"):
        inputs.call(MoRF(2), **explained)
    with pytest.raises(ValueError, match="pick the explained class"):
        inputs.call(PScore([make_inputs(modality).model.eval()]), **explained)


@pytest.mark.parametrize("modality", ["image", "series", "table"])
def test_what_the_way_out_says_picks_the_explained_class(modality):
    inputs = make_inputs(modality)
    maps = np.stack([(c + 1) * inputs.a for c in range(4)], -1)
    expected = np.stack([(c + 1) * a for c, a in zip(inputs.y, inputs.a, strict=True)])
    samples = np.arange(5)
    np.testing.assert_array_equal(maps[samples, ..., inputs.y], expected)
    np.testing.assert_array_equal(np.moveaxis(maps, -1, 1)[samples, inputs.y], expected)
    listed = list(np.moveaxis(maps, -1, 0))
    np.testing.assert_array_equal(np.asarray(listed)[inputs.y, samples], expected)


def test_maps_with_channels_last_are_named():
    inputs = make_inputs("image")
    with pytest.raises(ValueError, match=r"put the channels .*, np.moveaxis\(a_batch, -1, 1\)"):
        inputs.call(MoRF(2), a_batch=np.moveaxis(inputs.a, 1, -1))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask / attention_mask.sum(1, keepdim=True)
        return self.head((self.embedding(ids) * weights.unsqueeze(2)).sum(1))


def test_an_axis_of_classes_on_token_ids_is_not_summed():
    model = TokenIds(Reader().eval(), mask_id=1, pad_id=0)
    ids, y = np.array([[2, 3, 4, 5, 6], [3, 4, 8, 0, 0]]), np.array([0, 1])
    maps = np.random.default_rng(0).normal(size=(2, 5, 4))
    one = maps.sum(-1)
    expected = MoRF(3)(model, ids, y, one)
    for over in (maps, one[..., np.newaxis]):
        np.testing.assert_allclose(MoRF(3)(model, ids, y, over), expected)
    for classes in (2, 9):
        wrong = np.stack([one] * classes, -1)
        for metric in (MoRF(3), Infidelity(perturb_patch_sizes=1), PScore([model])):
            with pytest.raises(ValueError, match=r"\(2, 5, 4\) over embeddings .*pick the expl"):
                metric(model, ids, y, wrong)
        with pytest.raises(ValueError, match="pick the explained class"):
            MoRF(3)(model, ids, y, explain_func=lambda model, inputs, targets, w=wrong: w)


FORMS = {
    "lists": lambda each: each.tolist(),
    "tensors in a list": lambda each: list(torch.from_numpy(each)),
    "big-endian": lambda each: each.astype(each.dtype.newbyteorder(">")),
    "objects": lambda each: each.astype(object),
    "long double": lambda each: each.astype(np.longdouble if each.dtype.kind == "f" else "u8"),
    "Fortran order": np.asfortranarray,
    "negative strides": lambda each: each[::-1].copy()[::-1],
    "unmasked": np.ma.MaskedArray,
    "table": lambda each: pd.DataFrame(each, index=np.arange(len(each))[::-1]),
    "nullable table": lambda each: pd.DataFrame(each).convert_dtypes(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_scores_alike_in_a_call_and_in_evaluate(form):
    inputs = make_inputs("table", dtype=torch.float32)
    expected = inputs.call(Deletion(4))
    kept = [each.copy() for each in (inputs.x, inputs.y, inputs.a)]
    x, y, a = (form(each) for each in (inputs.x, inputs.y, inputs.a))
    np.testing.assert_array_equal(Deletion(4)(inputs.model, x, y, a), expected)
    evaluation = evaluate(
        {"m": Deletion(4), "theirs": quantus.Complexity(disable_warnings=True)},
        {"map": a, "made": lambda model, inputs, targets: inputs},
        inputs.model,
        x,
        y,
    )
    assert not evaluation.failures
    np.testing.assert_array_equal(evaluation.scores[0, 0], expected)
    for each, before in zip((inputs.x, inputs.y, inputs.a), kept, strict=True):
        np.testing.assert_array_equal(each, before)


def test_a_batch_of_one_and_read_only_arrays():
    inputs = make_inputs("table")
    for each in (inputs.x, inputs.y, inputs.a):
        each.setflags(write=False)
    whole = inputs.call(Deletion(4))
    one = inputs.rows(slice(0, 1))
    assert one.call(Deletion(4)) == pytest.approx(whole[:1])
    assert Deletion(4)(one.model, one.x, [[int(one.y[0])]], one.a) == pytest.approx(whole[:1])


@pytest.mark.parametrize(("values", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_forms_that_are_refused_are_named_in_calls_and_in_evaluate(values, error, message):
    if values is None or isinstance(values, list):
        values = np.array([["u"]])
        error, message = TypeError, "x_batch must be an array"
    with pytest.raises(error, match=message):
        Deletion(2)(ANY, values, np.array([0, 1]), np.ones((2, 3)))
    with pytest.raises(error, match=message):
        evaluate({"m": Deletion(2)}, {"a": np.ones((2, 3))}, ANY, values, np.array([0, 1]))


@pytest.mark.parametrize(
    "form",
    [
        lambda y: y[:, np.newaxis],
        lambda y: y.astype(float),
        lambda y: torch.from_numpy(y).float()[:, None],
        lambda y: y.tolist(),
        lambda y: pd.Series(y, index=y + 7),
        lambda y: pd.Series(y).astype("Int64"),
        lambda y: pd.DataFrame({"y": y}),
        lambda y: y == 1,
        lambda y: y.astype(np.uint8),
    ],
    ids=["column", "floats", "tensor", "list", "series", "nullable", "table", "truths", "bytes"],
)
def test_labels(form):
    inputs = make_inputs("table", dtype=torch.float32)
    inputs.y[:] = [0, 1, 1, 0, 1]
    expected = inputs.call(Deletion(4))
    np.testing.assert_array_equal(inputs.call(Deletion(4), y_batch=form(inputs.y)), expected)
    evaluation = evaluate(
        {"m": Deletion(4)}, {"Saliency": {"abs": False}}, inputs.model, inputs.x, form(inputs.y)
    )
    assert not evaluation.failures
    same = evaluate(
        {"m": Deletion(4)}, {"Saliency": {"abs": False}}, inputs.model, inputs.x, inputs.y
    )
    np.testing.assert_array_equal(evaluation.scores, same.scores)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.array([0, 1, 0.5, 1, 0]), TypeError, "y_batch must hold integers"),
        (np.array([0, 1, np.nan, 1, 0]), TypeError, "y_batch must hold integers"),
        (np.eye(5), ValueError, r"of one-hot labels or outputs pass their argmax\(1\)"),
        (np.array(list("abcde")), TypeError, "y_batch must be an array or tensor of numbers"),
        (np.ma.masked_equal([0, 1, 2, 1, 0], 2), ValueError, "y_batch must have no masked values"),
    ],
)
def test_what_is_no_label(y, error, message):
    inputs = make_inputs("table")
    with pytest.raises(error, match=message):
        inputs.call(Deletion(4), y_batch=y)
    with pytest.raises(error, match=message):
        evaluate({"m": Deletion(4)}, {"a": inputs.a}, inputs.model, inputs.x, y)


def test_segmentations_in_lists():
    inputs = make_inputs("table")
    s = (inputs.x > 0).astype(int)
    expected = inputs.call(SynScore(), s_batch=s)
    for form in (list(s), tuple(s), s.tolist(), list(torch.from_numpy(s)), pd.DataFrame(s)):
        np.testing.assert_array_equal(inputs.call(SynScore(), s_batch=form), expected)
        evaluation = evaluate(
            {"m": SynScore()}, {"a": inputs.a}, inputs.model.float(), inputs.x, inputs.y, form
        )
        np.testing.assert_array_equal(evaluation.scores[0, 0], expected)
        inputs.model.double()
    with pytest.raises(ValueError, match="s_batch must have no masked values"):
        inputs.call(SynScore(), s_batch=np.ma.masked_equal(s, 1))


def test_maps_that_are_nan_where_nothing_counts():
    model = Series(ANY, padding=-9.0)
    x = np.random.default_rng(0).normal(size=(2, 2, 6)).astype(np.float32)
    x[1, :, 4:] = -9.0
    a = np.abs(x)
    expected = ABPC(4)(model, x, np.array([0, 1]), a)
    a[1, :, 4:] = np.nan
    np.testing.assert_array_equal(ABPC(4)(model, x, np.array([0, 1]), a), expected)
    a[0, 0, 5] = np.nan
    with pytest.raises(ValueError, match=r"a_batch must be finite.* first in sample 0"):
        ABPC(4)(model, x, np.array([0, 1]), a)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (1, 2, 2), (3, 1, 5)])
def test_infidelitys_default_patch_fits(shape):
    x = np.random.default_rng(0).normal(size=(3, *shape))
    y, spatial = np.array([0, 1, 0]), shape if len(shape) == 1 else shape[1:]
    keywords = {"channel_first": True}
    scores = Infidelity()(ANY, x, y, x, **keywords)
    # Half of the shortest axis, so that a window leaves something.
    half = Infidelity(perturb_patch_sizes=max(min(spatial) // 2, 1))
    fitting = half(ANY, x, y, x, **keywords)
    np.testing.assert_array_equal(scores, fitting)
    with pytest.raises(ValueError, match="patch sizes must be between 1 and the shortest axis"):
        Infidelity(perturb_patch_sizes=4)(ANY, x, y, x, **keywords)


def test_infidelitys_default_patch_on_short_texts():
    model = TokenIds(Reader().eval(), mask_id=1, pad_id=0)
    ids, a = np.array([[2, 3, 0], [4, 0, 0]]), np.random.default_rng(0).normal(size=(2, 3, 4))
    short, y = Infidelity(), np.array([0, 1])
    scores = short(model, ids, y, a)
    alone = [
        short(model, ids[i : i + 1, : 2 - i], y[i : i + 1], a[i : i + 1, : 2 - i], index_batch=[i])
        for i in range(2)
    ]
    np.testing.assert_allclose(scores, np.concatenate(alone), rtol=1e-5)
    # However far they are padded.
    wide, more = np.pad(ids, ((0, 0), (0, 6))), np.pad(a, ((0, 0), (0, 6), (0, 0)))
    np.testing.assert_allclose(short(model, wide, y, more), scores, rtol=1e-5)


def test_one_output_as_predict_returns_it():
    x = np.random.default_rng(0).normal(size=(4, 3))
    zeros, weights = np.zeros(4, int), np.array([1.0, -2, 3])
    boxes = [
        BlackBox(lambda rows: rows @ weights, classes=1),
        BlackBox(lambda rows: (rows @ weights)[:, None], classes=1),
        BlackBox(lambda rows: torch.from_numpy(rows @ weights).requires_grad_(), classes=1),
        BlackBox(lambda rows: pd.Series(rows @ weights, index=rows[:, 0]), classes=1),
    ]
    for box in (*boxes, *map(Regression, boxes)):
        scores = Deletion(3)(box, x, zeros, weights * x, softmax=False)
        # Removed one by one, the largest contribution first.
        order = np.sort(weights * x, axis=1)[:, ::-1]
        curve = (weights * x).sum(1)[:, None] - np.c_[np.zeros(4), order.cumsum(1)]
        np.testing.assert_allclose(scores, (curve[:, :-1] + curve[:, 1:]).mean(1) / 2)
    with pytest.raises(ValueError, match=r"must return shape \(4, 2\), .* returned \(4,\)"):
        BlackBox(lambda rows: rows @ weights, classes=2)(torch.from_numpy(x))


def test_a_black_box_of_half_precision_inputs_keeps_its_scores():
    box = BlackBox(lambda rows: np.full((len(rows), 1), 1 / 3), classes=1)
    assert box(torch.ones(1, 2, dtype=torch.float16)).item() == pytest.approx(1 / 3, rel=1e-7)


def test_tables_of_training_data_and_backgrounds():
    generator = np.random.default_rng(0)
    x = pd.DataFrame(generator.normal(size=(40, 3)), columns=list("abc"), index=range(40, 0, -1))
    x["c"] = x.c > 0
    y, plain = pd.Series(x.c.astype("Int64")), x.to_numpy(np.float64)
    tree = DecisionTreeClassifier(random_state=0).fit(plain, y)
    box = BlackBox(tree.predict_proba, classes=2)
    scores = []
    for rows, labels in ((x, y), (plain, y.to_numpy(int))):
        fresh = partial(DecisionTreeClassifier, random_state=0)
        metric = FFidelity(0.4, beta=0.5, fine_tune=refit(fresh, rows, labels, copies=2))
        scores.append(metric(box, rows[:5], labels[:5], np.abs(plain[:5]), softmax=False))
    np.testing.assert_array_equal(*scores)
    np.testing.assert_array_equal(read(x, y).x, plain)
    np.testing.assert_array_equal(read(x, y).y, y)
    columns = Columns(ANY, [[0, 1]], n_columns=3)
    np.testing.assert_array_equal(columns.baseline(x), columns.baseline(plain))
