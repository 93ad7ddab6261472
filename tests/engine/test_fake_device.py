"""The core on a device that is not there: fake tensors know shapes and devices, not values.

They refuse operations that mix devices and those that need a value, as ``item`` does; copies
between devices they allow, so :class:`OneDevice` looks for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quantus_ext.engine import replacements, sampling
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.influence import measure
from quantus_ext.engine.perturb import Native
from quantus_ext.engine.spaces import SPACES, Spaces
from quantus_ext.functional import (
    Scores,
    fidelity,
    infidelity,
    p_score,
    removal_curves,
    syn_score,
)

DEVICE = torch.device("cuda")


class OneDevice(TorchDispatchMode):
    """Raises when an operation takes tensors of two devices, brings one to the host, or brings one
    from there so that the host waits for the device.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = (
            {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
            for tree in ((args, kwargs), result)
        )
        if len(inputs) > 1:
            raise AssertionError(f"{func} mixes devices {inputs}")
        if "cpu" in outputs and "cpu" not in inputs and inputs:
            raise AssertionError(f"{func} copies to the host")
        if "cpu" in inputs and "cuda" in outputs and not (kwargs or {}).get("non_blocking"):
            raise AssertionError(f"{func} makes the host wait")
        return result


@contextmanager
def fake_device() -> Iterator[None]:
    with FakeTensorMode(), OneDevice():
        yield


def _image() -> tuple[nn.Module, tuple[int, ...]]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    return net, (3, 8, 8)


def _series() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(40, 4)), (2, 12)


def _table() -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Linear(7, 4), (7,)


MODALITIES = {"image": _image, "series": _series, "table": _table}


PERTURBATIONS = {
    "number": replacements.replace_by(0.25),
    "array": replacements.replace_by(np.array(0.25)),
    "black": replacements.replace_by("black"),
    "white": replacements.replace_by("white"),
    "mean": replacements.replace_by("mean"),
    "uniform a sample": replacements.replace_by("uniform"),
    "uniform a channel": replacements.replace_by("uniform", scope="channel"),
    "uniform a value": replacements.replace_by("uniform", scope="value"),
    "shift": replacements.shift_by("mean"),
    "random shift": replacements.shift_by("uniform"),
    "blur": replacements.blur(3),
    "Quantus's blur": replacements.blur(3, zeros_beyond=True),
    "Gaussian blur": replacements.gaussian_blur(5, 1.0),
    "gaussian": replacements.gaussian_noise(),
    "uniform noise": replacements.uniform_noise(-0.1, 0.1),
}


def score(modality: str = "table", *, one_channel: bool = False, **keywords: Any) -> Scores:
    """Score fake explanations of a fake model on the fake device."""
    with fake_device():
        with DEVICE:
            model, shape = MODALITIES[modality]()
        x = torch.randn(2, *shape, device=DEVICE)
        a = torch.randn(2, 1, *shape[1:], device=DEVICE) if one_channel else torch.randn_like(x)
        y = torch.zeros(2, dtype=torch.long, device=DEVICE)
        forward = Forward.of_module(model.eval(), DEVICE, softmax=True, chunk_size=4)
        return infidelity(forward, x, a, y, **{"patch_sizes": [2, 3], "n_draws": 4, **keywords})


def assert_on_the_device(result: Scores) -> None:
    tensors = [result.score, result.standard_error, *result.details.values()]
    assert {tensor.device.type for tensor in tensors} == {DEVICE.type}
    assert {tuple(tensor.shape) for tensor in tensors} == {(2,)}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("scheme", ["patch", "subset", "all"])
def test_every_scheme_stays_on_the_device(scheme, modality):
    assert_on_the_device(score(modality, scheme=scheme))


@pytest.mark.parametrize("modality", MODALITIES)
def test_few_masks_are_listed_on_the_device(modality):
    assert_on_the_device(score(modality, patch_sizes=[2]))


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("multiply_by_inputs", [False, True])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_perturbation_stays_on_the_device(name, multiply_by_inputs, modality):
    perturbation = PERTURBATIONS[name]
    # The scheme that samples nothing: which elements is no matter of what they become.
    assert_on_the_device(
        score(
            modality,
            perturbation=perturbation,
            scheme="all",
            multiply_by_inputs=multiply_by_inputs,
        )
    )


@pytest.mark.parametrize("modality", ["image", "series"])
@pytest.mark.parametrize(
    "keywords",
    [
        {"rescale": True},
        # Elsewhere it is looked at once whether `I` is the same in all channels.
        {"multiply_by_inputs": True, "perturbation": replacements.replace_by(0.0)},
        {"multiply_by_inputs": True, "inputs_baseline": "black"},
    ],
    ids=["rescale", "inputs", "inputs-black"],
)
def test_one_channel_maps_stay_on_the_device(keywords, modality):
    assert_on_the_device(score(modality, one_channel=True, **keywords))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("random", [False, True])
def test_removal_stays_on_the_device(modality, random):
    with fake_device():
        with DEVICE:
            model, shape = MODALITIES[modality]()
        x = torch.randn(2, *shape, device=DEVICE)
        y = torch.zeros(2, dtype=torch.long, device=DEVICE)
        forward = Forward.of_module(model.eval(), DEVICE, softmax=True, chunk_size=4)
        perturbation = replacements.replace_by("uniform" if random else 0.0)
        keywords = {"perturbation": perturbation, "n_draws": 3}
        curves = removal_curves(forward, x, x, y, fractions=[0, 0.4, 1], **keywords)
        halves = fidelity(forward, x, x, y, sparsity=[0.3, 0.6], alpha=(0.5, 0.5), **keywords)
    for result in (*curves.values(), halves):
        tensors = [result.score, result.standard_error, *result.details.values()]
        assert {tensor.device.type for tensor in tensors} == {DEVICE.type}


@pytest.mark.slow
@pytest.mark.parametrize("output", [None, *SPACES])
@pytest.mark.parametrize("softmax", [False, True])
def test_comparing_maps_in_every_space_stays_on_the_device(softmax, output):
    with fake_device():
        with DEVICE:
            model, shape = _table()
        x = torch.randn(2, *shape, device=DEVICE)
        y = torch.zeros(2, dtype=torch.long, device=DEVICE)
        forward = Forward.of_module(model.eval(), DEVICE, softmax=softmax, chunk_size=4)
        found = []
        for carries in (False, True):
            for function, keywords in (
                (infidelity, {"patch_sizes": [2], "n_draws": 4}),
                (removal_curves, {"fractions": [0, 0.4, 1]}),
                (fidelity, {"sparsity": [0.3, 0.6], "alpha": (0.5, 0.5), "n_draws": 3}),
            ):
                clean = forward.clean_answered(x)
                spaces = Spaces(
                    clean,
                    y,
                    probabilities=softmax or None,
                    output=output,
                    maps=x[None],
                    carry_inputs=carries,
                )
                function(forward, x, x, y, clean=clean.outputs, spaces=spaces, **keywords)
                found.append(spaces.unexplained())
    assert {(each.device.type, tuple(each.shape)) for each in found} == {("cuda", (1, 2, 4))}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("modality", MODALITIES)
def test_what_rows_do_to_each_other_is_measured_on_the_device(modality, n):
    with fake_device():
        with DEVICE:
            model, shape = MODALITIES[modality]()
        x = torch.randn(n, *shape, device=DEVICE)
        forward = Forward.of_module(model.eval(), DEVICE, softmax=True, chunk_size=4)
        forward.settle(x)
        assert measure(forward.probe, x, forward.chunk_size).device.type == DEVICE.type


def test_comparisons_of_maps_stay_on_the_device():
    with fake_device():
        a = torch.randn(2, 7, device=DEVICE)
        results = [syn_score(a, a > 0), p_score(a, [a, -a])]
    for result in results:
        assert {value.device.type for value in result.details.values()} == {DEVICE.type}


def breaks(change: Callable[[Tensor], Tensor]) -> Any:
    """A perturbation that does something with its draws' values."""
    return Native(
        lambda x: lambda samples, keys: change(x[samples].unsqueeze(1)), random=True, replaces=True
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x: x + torch.zeros(x.shape),
            RuntimeError,
            "on the same device|two different devices",
        ),
        (lambda x: x + x.sum().item(), DataDependentOutputException, "_local_scalar_dense"),
        (lambda x: x if x.sum() > 0 else -x, DataDependentOutputException, "_local_scalar_dense"),
        (lambda x: x * len(x.nonzero()), DynamicOutputShapeException, "nonzero"),
        (lambda x: x + x.cpu().to(DEVICE), AssertionError, "copies to the host"),
        (lambda x: x + torch.zeros(()), AssertionError, "mixes devices"),
        (lambda x: x + torch.tensor([0.5], device=DEVICE), AssertionError, "makes the host wait"),
    ],
)
def test_what_the_fake_device_refuses(change, error, message):
    # The tests above can fail.
    with pytest.raises(error, match=message):
        score(perturbation=breaks(change))


class Launches(TorchDispatchMode):
    """Counts operations, about as many as a GPU launches kernels."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [100, "of each draw"])
def test_subsets_of_a_photos_pixels_are_drawn_at_once(size):
    counts = []
    for n_draws in (1, 64):
        with fake_device(), Launches() as launches:
            keys = torch.zeros(1, n_draws, dtype=torch.long, device=DEVICE)
            sizes = size if size == 100 else keys.unsqueeze(2)
            sampling.subsets(keys, 224 * 224, sizes)
        counts.append(launches.count)
    assert counts[0] == counts[1]


def test_a_sampler_on_the_host_is_refused(monkeypatch):
    def on_host(elements, keys, purpose):
        return torch.zeros((*keys.shape, elements.shape[-1]), dtype=torch.long)

    monkeypatch.setattr(sampling, "bits_of", on_host)
    with pytest.raises((RuntimeError, AssertionError), match="device"):
        score(scheme="subset")
