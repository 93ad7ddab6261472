"""Average drop, increase and gain: closed forms, ends of the scale, and what is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantus_ext import AverageDrop, AverageGain, AverageIncrease, answers_shared
from quantus_ext.engine.elements import elements_of
from quantus_ext.engine.masked import MaskedModel
from quantus_ext.engine.replacements import replace_by
from quantus_ext.engine.shared import SharedAnswers
from quantus_ext.functional import average_drop
from quantus_ext.functional.average_drop import shares_of
from quantus_ext.perturbation import background_replacement_by_indices
from tests import modalities
from tests.harness import make_inputs, rows_seen

FIRST = torch.tensor([0])


def first_value(rows: Tensor) -> Tensor:
    return rows.flatten(1)[:, :1]


def scores_of(before: float, after: float) -> dict[str, float]:
    """Return the scores where the weighted input changes the output so."""
    # The first feature keeps nothing and becomes the replacement.
    found = average_drop(
        first_value,
        torch.tensor([[before, 1.0]], dtype=torch.float64),
        torch.tensor([[0.0, 1.0]]),
        FIRST,
        perturbation=replace_by(after),
    )
    return {name: float(scores.score) for name, scores in found.items()}


@pytest.mark.parametrize(
    ("before", "after", "drop", "increase", "gain"),
    [
        (0.8, 0.2, 0.75, 0, 0),
        (0.8, 0.9, 0, 1, 0.5),
        (0.5, 0.5, 0, 0, 0),
        # Nothing can be lost of 0 or missing from 1.
        (0.0, 0.0, 0, 0, 0),
        (0.0, 0.4, 0, 1, 0.4),
        (1.0, 1.0, 0, 0, 0),
        (1.0, 0.0, 1, 0, 0),
    ],
)
def test_scores_of_two_outputs(before, after, drop, increase, gain):
    expected = {"drop": drop, "increase": increase, "gain": gain}
    assert scores_of(before, after) == pytest.approx(expected)


def test_outputs_that_are_no_probabilities_have_no_share():
    found = scores_of(-1.0, -2.0)
    assert np.isnan([found["drop"], found["gain"]]).all()
    assert found["increase"] == 0
    found = scores_of(2.0, 1.0)
    assert (found["drop"], found["increase"]) == (0.5, 0)
    assert np.isnan(found["gain"])


def test_an_unknown_output_makes_every_score_unknown():
    assert np.isnan([*scores_of(np.nan, 0.5).values()]).all()
    found = average_drop(
        lambda rows: (rows[:, :1] - 0.5).sqrt(),
        torch.tensor([[0.8, 1.0]]),
        torch.tensor([[0.0, 1.0]]),
        FIRST,
    )
    assert all(scores.score.isnan().all() for scores in found.values())


@pytest.mark.parametrize("element", ["position", "channel_value", "patch", "segment"])
@pytest.mark.parametrize("modality", ["image", "series", "table"])
def test_each_element_keeps_what_the_map_says_of_it(modality, element):
    inputs = make_inputs(modality)
    spatial = inputs.x.shape[1:] if modality == "table" else inputs.x.shape[2:]
    segments = np.broadcast_to(
        np.arange(np.prod(spatial)).reshape(spatial) // 3, (len(inputs.x), *spatial)
    )
    patch = {"patch_size": 2} if element == "patch" else {}
    metric = AverageDrop(element=element, **patch)
    with rows_seen(inputs.model) as seen:
        inputs.call(metric, s_batch=segments)
    x, a = torch.from_numpy(inputs.x), torch.from_numpy(inputs.a)
    elements = elements_of(x, element, segments=torch.from_numpy(segments.copy()), **patch)
    scores = elements.scores(a)
    low, high = scores.amin(1, True), scores.amax(1, True)
    shares = elements.expand(((scores - low) / (high - low)).unsqueeze(1), slice(None))
    np.testing.assert_allclose(torch.cat(seen)[len(x) :], x * shares.squeeze(1), rtol=1e-12)


def test_elements_that_a_sample_has_not_count_for_nothing():
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1]])
    x = torch.ones(2, 4)
    elements = elements_of(x, features=ids)
    maps = torch.tensor([[1.0, 2, 3, 5], [4, 2, 9, -9]])
    assert shares_of(maps, elements).tolist() == [[0, 0.25, 0.5, 1], [1, 0, 0, 0]]
    rows = []
    average_drop(
        lambda given: rows.append(given.clone()) or given.sigmoid(),
        x,
        maps,
        torch.zeros(2, dtype=torch.long),
        elements=elements,
    )
    assert rows[-1].tolist() == [[0, 0.25, 0.5, 1], [1, 0, 1, 1]]


def test_padding_and_special_tokens_stay(monkeypatch: pytest.MonkeyPatch):
    given = modalities.MODALITIES["text `(n, L)` (`TokenIds`)"]()
    asked, ask = [], MaskedModel._ask
    monkeypatch.setattr(
        MaskedModel,
        "_ask",
        lambda masked, samples, rows, changed, n_compared: (
            asked.append(rows.clone()) or ask(masked, samples, rows, changed, n_compared)
        ),
    )
    a = np.abs(given.a)
    AverageDrop()(given.model, given.x, np.array([0, given.classes - 1]), a)
    for ids, values, row in zip(given.x, a, torch.cat(asked), strict=True):
        tokens = ~np.isin(ids, [2, 0])
        assert 3 <= tokens.sum() < len(ids)
        shares = np.ones(len(ids))
        own = values[tokens]
        shares[tokens] = (own - own.min()) / (own.max() - own.min())
        embedded = given.model.embed(torch.from_numpy(ids[None]))[0].detach().numpy()
        np.testing.assert_allclose(row, embedded * shares, rtol=1e-12)


def test_what_is_asked_once_serves_all_three():
    inputs = make_inputs("image")
    alone = [inputs.call(each()) for each in (AverageDrop, AverageIncrease, AverageGain)]
    shared = SharedAnswers(by_identity=True)
    with rows_seen(inputs.model) as seen, answers_shared(shared):
        together = [inputs.call(each()) for each in (AverageDrop, AverageIncrease, AverageGain)]
    assert sum(map(len, seen)) == 2 * len(inputs.x)
    np.testing.assert_array_equal(together, alone)


def test_maps_that_keep_everything_of_what_there_is_ask_nothing():
    x = np.array([[0.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    model = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)).double().eval()
    metric = AverageDrop()
    # Of the first sample only zeros are weighted; of a constant map nothing stays.
    scores = metric(model, x, np.array([0, 0]), np.array([[0.0, 1.0, 0.2], [3.0, 3.0, 3.0]]))
    assert scores[0] == 0
    assert metric.n_evaluations == 3
    with torch.no_grad():
        original, nothing = model(torch.tensor([[1.0, 1, 1], [0, 0, 0]]).double())[:, 0].tolist()
    assert scores[1] == pytest.approx(max(original - nothing, 0) / original)


def test_a_random_replacement_leaves_the_error_unknown():
    inputs = make_inputs("table")
    background = np.random.default_rng(0).normal(size=(9, 7))
    metric = AverageDrop(
        perturb_func=background_replacement_by_indices,
        perturb_func_kwargs={"background": background},
    )
    scores = inputs.call(metric)
    assert np.isfinite(scores).all()
    assert np.isnan(metric.standard_errors).all()


@pytest.mark.parametrize(
    ("clean", "weighted", "drop", "gain"),
    [
        (0.0, 0.0, 0.0, 0.0),
        (1.0, 1.0, 0.0, 0.0),
        (0.0, 0.5, 0.0, 0.5),
        (1.0, 0.5, 0.5, 0.0),
        (0.0, -0.5, np.nan, 0.0),
        (1.0, 1.5, 0.0, np.nan),
        (-1.0, -2.0, np.nan, np.nan),
        (-1.0, 0.5, np.nan, np.nan),
        (2.0, 3.0, 0.0, np.nan),
    ],
)
def test_at_the_ends_there_is_nothing_to_lose_or_gain(clean, weighted, drop, gain):
    # The second of the features is removed, and decides on the output.
    def forward(rows: torch.Tensor) -> torch.Tensor:
        return rows[:, 1:] * (clean - weighted) + weighted

    x, a = torch.ones(1, 2), torch.tensor([[1.0, 0.0]])
    found = average_drop(forward, x, a, FIRST)
    expected = {"drop": drop, "gain": gain, "increase": float(weighted > clean)}
    assert {name: each.score.item() for name, each in found.items()} == pytest.approx(
        expected, nan_ok=True
    )


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ("data frames (`DataFrame`)", "Average Gain needs inputs that can be weighted"),
        ("graphs, their nodes (`Graphs`)", "Average Gain needs inputs that can be weighted"),
        ("prompts of a language model (`Generation`)", "AverageGain cannot weight tokens"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_weighted_is_refused(modality, message):
    if "Graphs" in modality:
        pytest.importorskip("torch_geometric")
    given = modalities.MODALITIES[modality]()
    x = given.x if given.frame is None else given.frame
    with pytest.raises(ValueError, match=message):
        AverageGain()(given.model, x, np.array([0, given.classes - 1]), given.a)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="x must hold floating-point numbers"):
        average_drop(first_value, torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2), FIRST)
