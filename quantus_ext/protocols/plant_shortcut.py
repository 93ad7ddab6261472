"""A truth that is known because it was planted (synthetic ground truth, as in the M4 benchmark)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of
from quantus_ext.arrays import tensor_from
from quantus_ext.engine import sampling
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.sampling import Purpose
from quantus_ext.finetune.training import Settings, as_input, classes_of, train, with_weights

KINDS = ("patch", "pattern")

_PATIENCE = 10
"""Epochs without progress before training stops: a shortcut is often found after a standstill."""
_LEARNT = 0.8
"""Share of the way from chance to 1 that a model goes which uses the shortcut."""
_ERRORS = 4.0
"""Standard errors above chance from which on the inputs themselves betray the labels."""
_LEFT_OUT = 0.3
"""Share of positions without their sign in training, so that a model learns to read them all:
where a few tell the class, it would read no more, and the others would be no truth."""
_VALIDATION = 0.1
"""Share of the training samples on which the checkpoint is chosen."""
_FEWEST = 3
"""Samples that the training needs."""
_CANDIDATES = 4096
_ROWS = 256


@dataclass(frozen=True)
class PlantedShortcut:
    """A model with a shortcut, held-out samples that contain it, and where it is.

    Attributes
    ----------
    model : torch.nn.Module
        The trained copy, in evaluation mode.
    x : numpy.ndarray, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Held-out samples with the planted thing.
    y : numpy.ndarray of int, shape (n,)
        Their labels, which nothing but the planted thing tells.
    masks : numpy.ndarray of bool, shape (n, F), (n, T), (n, H, W) or (n, D, H, W)
        Where it is.
    index : numpy.ndarray of int, shape (n,)
        Which of the samples passed these are.
    x_train, y_train, masks_train : numpy.ndarray
        The same of the other samples.
    baseline : numpy.ndarray, shape (F,) or (C,)
        The middle of each feature's or channel's range, above and below which the planted values
        lie. A method that compares with a baseline sees none of those that equal the baseline,
        which with black are half of them on a black ground.
    accuracy : float
        Share of held-out samples whose label the model finds.
    accuracy_without : float
        The same on the samples as they were passed.
    followed : float
        Share of predictions that become another class as soon as that class's content is planted
        in the same place.
    chance : float
        Accuracy of the best constant answer.
    uses_it : bool
        Whether ``accuracy`` and ``followed`` go at least 0.8 of the way from chance to 1, and
        ``accuracy_without`` is within 4 standard errors of chance, or below.
    """

    model: nn.Module
    x: NDArray[np.floating]
    y: NDArray[np.int64]
    masks: NDArray[np.bool_]
    index: NDArray[np.int64]
    x_train: NDArray[np.floating]
    y_train: NDArray[np.int64]
    masks_train: NDArray[np.bool_]
    baseline: NDArray[np.floating]
    accuracy: float
    accuracy_without: float
    followed: float
    chance: float
    uses_it: bool

    def to_markdown(self) -> str:
        """Return the evidence that the model uses what was planted, as a table."""
        rows = {
            "accuracy with it": f"{self.accuracy:.3f}",
            "accuracy without it": f"{self.accuracy_without:.3f}",
            "follows it to another class": f"{self.followed:.3f}",
            "chance": f"{self.chance:.3f}",
            "uses it": "yes" if self.uses_it else "no",
        }
        lines = [f"| {name} | {value} |" for name, value in rows.items()]
        return "\n".join(["| held-out samples | share |", "| --- | ---: |", *lines])


def plant_shortcut(
    model: nn.Module,
    x: np.ndarray | Tensor,
    y: np.ndarray | Tensor,
    *,
    kind: Literal["patch", "pattern"],
    size: int,
    strength: float = 1.0,
    epochs: int = 60,
    lr: float = 3e-3,
    batch_size: int = 64,
    holdout: float = 0.25,
    seed: int | None = 0,
    device: str | torch.device | None = None,
    display_progressbar: bool = False,
) -> PlantedShortcut:
    r"""Train a copy of a model to read labels off something planted, so that the truth is known.

    The labels are a permutation of ``y``: classes keep their sizes, and nothing in ``x`` tells
    them. What is planted does: a word of as many signs as it has positions, one word a class, the
    words far apart from each other. A sign puts a position, in all channels, at ``strength`` half
    ranges above or below the middle of the channel's range. In each epoch of the training a patch
    is in another place, and a random 30 % of the positions are left out, so that a model learns
    to read all of them.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, trained or not. It is not changed.
    x : array or tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs, not changed.
    y : array or tensor of int, shape (n,)
        Labels of at least two classes.
    kind : {"patch", "pattern"}
        A block at a random place of each sample, k×k in images and a window in series, not
        possible in tables; or scattered positions, the same in all samples.
    size : int
        Side k of the block, or number of positions.
    strength : float, default 1.0
        1 is the full range of ``x``. A channel that is constant takes the range of all.
    epochs : int, default 60
        At most; training ends when ten epochs brought no progress.
    lr : float, default 3e-3
        Learning rate of Adam.
    batch_size : int, default 64
        At least 2.
    holdout : float in (0, 1), default 0.25
        Share of samples not trained on, the ones returned as ``x``.
    seed : int or None, default 0
        Of labels, places, words, split and training. None: fresh.
    device : str or torch.device, optional
        Must be the model's.
    display_progressbar : bool, default False

    Returns
    -------
    PlantedShortcut
        A warning says so if the model does not use what was planted.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules, or ``size`` is too small to tell the classes
        apart.
    RuntimeError
        If the training diverges.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext.protocols import plant_shortcut
    >>> x = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    >>> y = torch.arange(400) % 2
    >>> model = torch.nn.Linear(10, 2).eval()
    >>> planted = plant_shortcut(model, x, y, kind="pattern", size=3, lr=0.05)
    >>> planted.uses_it, planted.accuracy, planted.followed
    (True, 1.0, 1.0)
    >>> planted.x.shape, int(planted.masks[0].sum())
    ((100, 10), 3)
    """
    checks.evaluation_mode(checks.module("model", model))
    display_progressbar = checks.flag("display_progressbar", display_progressbar)
    adapter = adapter_of(model)
    if adapter.takes_ids or adapter.feature_mask is not None:
        raise ValueError(
            "model must take plain images, series or tables, in which every position may be "
            f"planted, is a {type(adapter).__name__} with positions that stay or go together"
        )
    where = checks.resolve_device(model, device)
    inputs = _owned(x)
    given = checks.labels(y, len(inputs), "y")
    checks.labels_below(given, classes_of(model, as_input(inputs[:1], model, where), "x"), "y")
    checked_seed = checks.seed(seed)
    generator = np.random.default_rng(
        sampling.fresh_seed() if checked_seed is None else checked_seed
    )
    plant = _make_plant(inputs, np.unique(given), kind, size, strength, generator)
    batch_size = checks.positive_integer("batch_size", batch_size)
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, is {batch_size}")
    settings = Settings(
        epochs=checks.positive_integer("epochs", epochs),
        lr=checks.positive_number("lr", lr),
        optimiser=torch.optim.Adam,
        batch_size=batch_size,
        validation_fraction=_VALIDATION,
        patience=_PATIENCE,
        seed=int(generator.integers(2**62)),
    )
    labels = torch.from_numpy(generator.permutation(given))
    index, rest = _split(len(inputs), holdout, generator)

    def incomplete(rows: Tensor, draw: int, part: Tensor) -> Tensor:
        part = rest[part]
        return plant(rows, labels[part], part, draw, complete=False)[0]

    outcome = train(
        model,
        inputs[rest],
        labels[rest],
        incomplete,
        settings,
        description="planting",
        display_progressbar=display_progressbar,
    )
    trained = with_weights(model, outcome.state)

    clean, y_held = inputs[index], labels[index]
    planted, masks = plant(clean, y_held, index)
    y_other = plant.another_class(y_held, generator)
    swapped, _ = plant(clean, y_other, index)
    accuracy, accuracy_without, followed = (
        _accuracy(trained, rows, wanted, where)
        for rows, wanted in ((planted, y_held), (clean, y_held), (swapped, y_other))
    )
    chance = float(y_held.bincount().max()) / len(index)
    error = math.sqrt(chance * (1 - chance) / len(index))
    uses_it = (
        min(accuracy, followed) >= chance + _LEARNT * (1 - chance)
        and accuracy_without <= chance + _ERRORS * error
    )
    if not uses_it:
        warnings.warn(
            f"the model does not use what was planted: its held-out accuracy is {accuracy:.3f} "
            f"with it and {accuracy_without:.3f} without it, {followed:.3f} of its predictions "
            f"follow it, chance is {chance:.3f}. More epochs, another lr, a larger size or more "
            "samples may help",
            UserWarning,
            stacklevel=2,
        )
    x_train, masks_train = plant(inputs[rest], labels[rest], rest)
    return PlantedShortcut(
        model=trained,
        x=planted.numpy(),
        y=y_held.numpy(),
        masks=masks.numpy(),
        index=index.numpy(),
        x_train=x_train.numpy(),
        y_train=labels[rest].numpy(),
        masks_train=masks_train.numpy(),
        baseline=plant.middle.numpy(),
        accuracy=accuracy,
        accuracy_without=accuracy_without,
        followed=followed,
        chance=chance,
        uses_it=uses_it,
    )


@dataclass(frozen=True)
class _Plant:
    """What is planted where.

    ``classes`` (K,) are in increasing order, ``words`` (K, p) hold their signs, ``middle`` and
    ``half`` one number a channel or feature; ``side`` is that of a patch, ``places`` (*spatial)
    those of a pattern.
    """

    classes: Tensor
    words: Tensor
    middle: Tensor
    half: Tensor
    side: int | None
    places: Tensor
    seed: int

    def __call__(
        self, x: Tensor, y: Tensor, index: Tensor, draw: int = 0, *, complete: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return a copy of samples with their class's word in it, and where that is.

        Unless it is ``complete``, some of its letters are left out, others in each draw.
        """
        index, y = index.to(x.device), y.to(x.device)
        keys = sampling.draw_keys(sampling.sample_keys(self.seed, index), draw, draw + 1)
        spatial = self.places.shape
        if self.side is None:
            masks = self.places.to(x.device).expand(len(x), *spatial)
        else:
            masks = sampling.windows(keys, spatial, [self.side]).squeeze(1)
        words = self.words.to(x.device)[torch.searchsorted(self.classes.to(x.device), y)]
        # The positions of a sample, in the order of the letters.
        at = masks.flatten(1).nonzero()[:, 1].reshape(words.shape)
        flat = x.new_zeros(len(x), masks[0].numel(), dtype=words.dtype)
        if not complete:
            kept = sampling.uniform(keys, words.shape[1], Purpose.VALUE).squeeze(1) > _LEFT_OUT
            words = words * kept
        signs = flat.scatter_(1, at, words).view(masks.shape)
        middle, half = self.middle.to(x), self.half.to(x)
        if x.ndim > 2:
            signs = signs.unsqueeze(1)
            shape = (-1, *(1 for _ in spatial))
            middle, half = middle.reshape(shape), half.reshape(shape)
        return torch.where(signs != 0, middle + signs * half, x), masks.clone()

    def another_class(self, y: Tensor, generator: np.random.Generator) -> Tensor:
        """Return for each label one of the other classes, all equally likely."""
        count = len(self.classes)
        steps = torch.from_numpy(generator.integers(1, count, len(y)))
        return self.classes[(torch.searchsorted(self.classes, y) + steps) % count]


def _make_plant(
    x: Tensor,
    classes: NDArray[np.int64],
    kind: str,
    size: int,
    strength: float,
    generator: np.random.Generator,
) -> _Plant:
    checks.one_of("kind", kind, KINDS)
    strength = checks.positive_number("strength", strength)
    size = checks.positive_integer("size", size)
    if len(classes) < 2:
        raise ValueError(f"y must hold at least two classes, all its labels are {classes[0]}")
    spatial = tuple(x.shape[1:] if x.ndim == 2 else x.shape[2:])
    count, patch = size, kind == "patch"
    if patch:
        if x.ndim == 2:
            raise ValueError(
                f"kind must be 'pattern' for tables, whose features have no neighbours, is {kind!r}"
            )
        if size > min(spatial):
            raise ValueError(f"size must be at most the shortest axis of {spatial}, is {size}")
        count = size ** len(spatial)
    elif size > math.prod(spatial):
        raise ValueError(f"size must be at most {math.prod(spatial)}, the positions, is {size}")
    # A constant patch would be invisible on an even background.
    distinct = 2**count - 2 * patch
    if distinct < len(classes):
        raise ValueError(
            f"size must leave a different content to each of {len(classes)} classes, {size} "
            f"leaves {distinct} contents"
        )
    axes = [axis for axis in range(x.ndim) if axis != 1]
    low, high = x.amin(axes), x.amax(axes)
    if not bool((high > low).any()):
        raise ValueError("x must vary somewhere, each channel or feature of it is constant")
    still = high == low
    low, high = torch.where(still, x.min(), low), torch.where(still, x.max(), high)
    places = np.zeros(math.prod(spatial), dtype=bool)
    if not patch:
        places[generator.permutation(len(places))[:count]] = True
    return _Plant(
        classes=torch.from_numpy(classes),
        words=torch.from_numpy(_words(len(classes), count, not patch, generator)),
        middle=low / 2 + high / 2,
        half=(high / 2 - low / 2) * strength,
        side=size if patch else None,
        places=torch.from_numpy(places.reshape(spatial)),
        # A separate seed: a metric with the caller's seed must not draw the patch positions.
        seed=int(generator.integers(2**62)),
    )


def _words(
    number: int, length: int, even: bool, generator: np.random.Generator
) -> NDArray[np.int8]:
    """Return words of signs, shape (number, length), each as far from the earlier as may be.

    ``even`` allows words of one sign throughout.
    """
    if 2**length <= _CANDIDATES:
        letters = np.arange(2**length)[:, None] >> np.arange(length) & 1
    else:
        letters = generator.integers(0, 2, (max(_CANDIDATES, 4 * number), length))
    candidates = np.unique((2 * letters - 1).astype(np.int8), axis=0)
    if not even:
        candidates = candidates[np.ptp(candidates, axis=1) > 0]
    candidates = generator.permutation(candidates)
    chosen = [0]
    nearest = np.full(len(candidates), length + 1)
    while len(chosen) < number:
        distance = (candidates != candidates[chosen[-1]]).sum(1)
        nearest = np.minimum(nearest, distance)
        chosen.append(int(nearest.argmax()))
    return candidates[chosen]


def _owned(x: np.ndarray | Tensor) -> Tensor:
    inputs = tensor_from("x", x).cpu().clone()
    checks.inputs(inputs, "x")
    return inputs if inputs.is_floating_point() else inputs.float()


def _split(n: int, holdout: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices of held-out samples and of the others, both increasing."""
    holdout = checks.fraction("holdout", holdout)
    if holdout == 1:
        raise ValueError("holdout must be below 1, is 1")
    count = max(round(holdout * n), 1)
    if n - count < _FEWEST:
        raise ValueError(
            f"holdout must leave at least {_FEWEST} samples to train on, {holdout} leaves "
            f"{n - count} of {n}"
        )
    held_out, rest = np.split(generator.permutation(n), [count])
    return torch.from_numpy(np.sort(held_out)), torch.from_numpy(np.sort(rest))


def _accuracy(model: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> float:
    forward = Forward.of_module(model, device, softmax=None)
    parts = (forward.clean(as_input(part, model, device)) for part in x.split(_ROWS))
    answers = torch.cat([part.argmax(1).cpu() for part in parts])
    return float((answers == y).double().mean())
