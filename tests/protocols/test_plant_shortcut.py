"""A planted shortcut: learnt, found where it was planted, told by nothing else, and no traces."""

from __future__ import annotations

import random
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from quantus_ext.protocols import PlantedShortcut, plant_shortcut


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def image_model(classes: int = 10) -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )
    )


def series_model() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv1d(2, 16, 5, padding=2),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )


def table_model() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)))


def digits(n: int, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    chosen = y < classes
    return (x[chosen][:n] / 16).astype(np.float32).reshape(-1, 1, 8, 8), y[chosen][:n]


def series() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(300, 2, 30)).cumsum(2).astype(np.float32)
    # Channels of different scales, and labels that their mean tells.
    return x * np.array([[1], [100]], np.float32), x.mean((1, 2)).argsort().argsort() % 3


def table() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(240, 12)).astype(np.float32)
    y = x[:, :3].argmax(1)
    x[:, 5] = 0.5
    return x * np.arange(1, 13, dtype=np.float32), y


def on_table(model: nn.Module | None = None, **settings) -> PlantedShortcut:
    x, y = table()
    quick = {"kind": "pattern", "size": 4, "lr": 0.02, "epochs": 25, "batch_size": 16}
    return plant_shortcut(model or table_model(), x, y, **{**quick, **settings})


CASES = {
    "image, patch": lambda: (
        digits(800),
        plant_shortcut(
            image_model(), *digits(800), kind="patch", size=4, lr=0.01, epochs=15, batch_size=32
        ),
    ),
    "series, patch": lambda: (
        series(),
        plant_shortcut(
            series_model(), *series(), kind="patch", size=5, lr=0.02, epochs=20, batch_size=16
        ),
    ),
    "table, pattern": lambda: (table(), on_table()),
}


@pytest.fixture(scope="module", params=list(CASES))
def case(request):
    return CASES[request.param]()


def over_channels(mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return masks in the shape of inputs."""
    return mask if x.ndim == 2 else np.broadcast_to(mask[:, None], x.shape)


LEAST_AUROC = {2: 0.95, 3: 0.7, 4: 0.8}
"""By the inputs' axes: a network with pooling does not read all positions of a patch alike."""


def share_above(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the area under the receiver operating characteristic."""
    difference = inside[:, None] - outside
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


def answers(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).argmax(1).numpy()


def test_the_model_uses_it(case):
    (x, _), planted = case
    assert planted.uses_it
    assert planted.accuracy > 0.9
    assert planted.followed > 0.9
    assert planted.accuracy_without < planted.chance + 0.2
    assert planted.accuracy == (answers(planted.model, planted.x) == planted.y).mean()
    assert planted.accuracy_without == (
        (answers(planted.model, x[planted.index]) == planted.y).mean()
    )
    assert planted.chance == np.bincount(planted.y).max() / len(planted.y)
    assert f"| accuracy with it | {planted.accuracy:.3f} |" in planted.to_markdown()
    assert not planted.model.training


def test_only_what_the_masks_say_is_planted(case):
    (x, _), planted = case
    masks = {False: planted.masks, True: planted.masks_train}
    rest = np.setdiff1d(np.arange(len(x)), planted.index)
    for train, mask in masks.items():
        inputs = planted.x_train if train else planted.x
        original = x[rest] if train else x[planted.index]
        assert mask.shape == (len(original), *x.shape[1 if x.ndim == 2 else 2 :])
        assert len(np.unique(mask.reshape(len(mask), -1).sum(1))) == 1
        where = over_channels(mask, inputs)
        np.testing.assert_array_equal(inputs[~where], original[~where])
        assert (inputs != original)[where].mean() > 0.4


def test_the_class_decides_the_content_within_the_range(case):
    (x, _), planted = case
    axes = tuple(axis for axis in range(x.ndim) if axis != 1)
    low, high = x.min(axes), x.max(axes)
    still = low == high
    low, high = np.where(still, x.min(), low), np.where(still, x.max(), high)
    middle = (low + high) / 2
    np.testing.assert_allclose(planted.baseline, middle, rtol=1e-5, atol=1e-5)
    contents = {}
    for sample, mask, label in zip(planted.x, planted.masks, planted.y, strict=True):
        chosen = mask if x.ndim == 2 else np.broadcast_to(mask, sample.shape)
        shape = (-1, *(1 for _ in sample.shape[1:]))
        edges = [np.broadcast_to(e.reshape(shape), sample.shape)[chosen] for e in (low, high)]
        values = sample[chosen]
        at_edge = np.isclose(values[:, None], np.stack(edges, 1), rtol=1e-5, atol=1e-4)
        assert at_edge.any(1).all()
        contents.setdefault(label, set()).add(tuple(at_edge[:, 1].tolist()))
    assert all(len(words) == 1 for words in contents.values())
    assert len(set.union(*contents.values())) == len(np.unique(planted.y))


def test_labels_are_a_permutation_that_inputs_do_not_tell(case):
    (x, y), planted = case
    labels = np.empty(len(x), dtype=int)
    rest = np.setdiff1d(np.arange(len(x)), planted.index)
    labels[planted.index], labels[rest] = planted.y, planted.y_train
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(y))
    chance = (np.bincount(y) ** 2).sum() / len(y) ** 2
    assert abs((labels == y).mean() - chance) < 4 * np.sqrt(chance / len(y))


def untrained(kind: str, **settings) -> PlantedShortcut:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plant_shortcut(
            image_model(), *digits(200), kind=kind, size=4, epochs=1, holdout=0.5, **settings
        )


def test_patches_are_blocks_in_many_places():
    masks = untrained("patch").masks
    # Of 25 places, 100 samples leave few out.
    assert len(np.unique(masks.reshape(100, -1), axis=0)) > 20
    for mask in masks:
        rows, columns = mask.nonzero()
        assert (np.ptp(rows), np.ptp(columns), mask.sum()) == (3, 3, 16)


def test_patterns_are_in_one_place():
    result = untrained("pattern")
    assert (result.masks == result.masks_train).all()
    assert (result.masks == result.masks[0]).all()
    assert result.masks[0].sum() == 4


def test_a_method_finds_it_from_the_baseline_and_a_random_map_does_not(case):
    (x, _), planted = case
    rows, y = torch.from_numpy(planted.x), torch.from_numpy(planted.y)
    start = torch.from_numpy(planted.baseline).reshape(-1, *(1 for _ in x.shape[2:]))
    gradient = torch.zeros_like(rows)
    for step in np.linspace(0.025, 0.975, 20):
        at = (start + step * (rows - start)).requires_grad_()
        outputs = planted.model(at)
        (outputs.gather(1, y[:, None]).sum() - outputs.mean(1).sum()).backward()
        gradient += at.grad / 20
    maps = ((rows - start) * gradient).numpy()
    maps = maps if maps.ndim == 2 else maps.sum(1)
    noise = np.random.default_rng(1).random((10, *maps.shape))

    def auroc(a: np.ndarray) -> float:
        pairs = zip(planted.masks, a, strict=True)
        return float(np.mean([share_above(m[mask], m[~mask]) for mask, m in pairs]))

    assert auroc(maps) > LEAST_AUROC[x.ndim]
    assert abs(np.mean([auroc(a) for a in noise]) - 0.5) < 0.05


def test_a_model_that_cannot_see_it_is_reported():
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(x), 3)

    with pytest.warns(UserWarning, match="does not use what was planted"):
        result = on_table(Blind().eval(), epochs=2)
    assert not result.uses_it
    assert result.accuracy == result.accuracy_without
    assert "| uses it | no |" in result.to_markdown()


def test_following_is_asked_of_another_class():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.outputs = nn.Parameter(torch.tensor([5.0, 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.outputs.expand(len(x), 2)

    x = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    y = (np.arange(80) < 16).astype(int)
    with pytest.warns(UserWarning, match="does not use"):
        result = plant_shortcut(Constant().eval(), x, y, kind="pattern", size=2, epochs=1)
    # It answers 0, so it is right where the label is 0, and follows where it is not.
    assert result.accuracy == result.chance == 1 - result.followed


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_same_seed_same_result_and_another_another():
    first, again, other = (on_table(epochs=3, seed=seed) for seed in (0, 0, 1))
    for name in ("x", "y", "masks", "index", "x_train", "masks_train"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for one, two in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not np.array_equal(first.index, other.index)
    assert not np.array_equal(first.masks[0], other.masks[0])
    fresh = [on_table(epochs=1, seed=None).index for _ in "ab"]
    assert not np.array_equal(*fresh)


def test_nothing_of_the_caller_changes():
    model = table_model()
    model[0].requires_grad_(False)
    x, y = table()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    x.setflags(write=False)
    y.setflags(write=False)
    with torch.no_grad():
        result = plant_shortcut(model, x, y, kind="pattern", size=4, lr=0.02, epochs=25)
        assert not torch.is_grad_enabled()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert not torch.equal(result.model[2].weight, model[2].weight)
    # Frozen weights are trained in the copy all the same, and stay marked as they were.
    assert not torch.equal(result.model[0].weight, model[0].weight)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_tensors_integers_and_labels_with_gaps():
    x, y = table()
    whole = torch.from_numpy((10 * x).round()).long()
    labels = torch.from_numpy(np.array([0, 2, 7])[y])
    model = seeded(lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        result = plant_shortcut(model, whole, labels, kind="pattern", size=4, epochs=2)
    assert set(result.y) == {0, 2, 7}
    assert result.x.dtype == np.float32


def test_strength_scales_the_content_about_the_middle():
    weak, strong = (untrained("patch", strength=s) for s in (0.5, 2.0))
    where = weak.masks[:, None]
    np.testing.assert_allclose(np.unique(weak.x[where]), [0.25, 0.75])
    np.testing.assert_allclose(np.unique(strong.x[where]), [-0.5, 1.5])


def test_words_are_far_apart():
    module = sys.modules["quantus_ext.protocols.plant_shortcut"]
    for number, length, least in ((2, 9, 9), (10, 16, 6), (4, 2, 1), (300, 100, 30)):
        words = module._words(number, length, True, np.random.default_rng(0))
        assert words.shape == (number, length)
        distances = (words[:, None] != words[None]).sum(-1)[~np.eye(number, dtype=bool)]
        assert distances.min() >= least
    # A patch always shows, also on an even ground.
    words = module._words(14, 4, False, np.random.default_rng(0))
    assert len(np.unique(words, axis=0)) == 14
    assert (np.ptp(words, axis=1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dot"}, "kind must be one of 'patch', 'pattern', is 'dot'"),
        ({"kind": "patch"}, "kind must be 'pattern' for tables"),
        ({"size": 0}, "size must be at least 1, is 0"),
        ({"size": 13}, "size must be at most 12"),
        ({"size": 1}, "size must leave a different content to each of 3 classes, 1 leaves 2"),
        ({"strength": 0}, "strength must be above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": -1.0}, "lr must be above 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, is 1"),
        ({"holdout": 1.0}, "holdout must be below 1"),
        ({"holdout": 0.995}, "holdout must leave at least 3 samples to train on, 0.995 leaves 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"device": "meta"}, "device is 'meta' but the model is on 'cpu'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        on_table(**settings)


def test_bad_inputs():
    x, y = table()

    def plant(x=x, y=y, model=None, **settings):
        model = table_model() if model is None else model
        return plant_shortcut(model, x, y, **{"kind": "pattern", "size": 4, **settings})

    broken = x.copy()
    broken[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"x must be finite.*sample 7"):
        plant(broken)
    with pytest.raises(ValueError, match="x must vary"):
        plant(np.zeros_like(x))
    with pytest.raises(ValueError, match=r"y must have shape \(240,\)"):
        plant(y=y[:5])
    with pytest.raises(ValueError, match="two classes, all its labels are 2"):
        plant(y=np.full(240, 2))
    tall = np.where(np.arange(240) == 11, 3, y)
    with pytest.raises(ValueError, match=r"labels in y must be below 3.*sample 11 has 3"):
        plant(y=tall)
    with pytest.raises(ValueError, match="x must hold inputs of the model"):
        plant(x[:, :11])
    with pytest.raises(ValueError, match="evaluation mode"):
        plant(model=table_model().train())
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, is function"):
        plant(model=lambda x: x)
    with pytest.raises(TypeError, match="x must be an array or tensor of numbers"):
        plant(np.array([["a"]]))
    with pytest.raises(ValueError, match="size must be at most the shortest axis"):
        plant_shortcut(image_model(), *digits(50), kind="patch", size=9)
