"""The batches of a call, as metrics get them: checked tensors on the model's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from quantus.functions.explanation_func import explain
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter, adapter_of
from quantus_ext.arrays import numbers_of, tensor_from
from quantus_ext.engine import sampling
from quantus_ext.engine.fence import Fence
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.global_state import seeded
from quantus_ext.engine.masked import MaskedModel, SampleArguments
from quantus_ext.engine.modules import NoModel
from quantus_ext.engine.outputs import answering_tensors
from quantus_ext.engine.perturb import Perturbation
from quantus_ext.engine.spaces import Space, Spaces

Remake = Callable[[np.ndarray], np.ndarray]
"""Attributions of a batch in, others of the same shape out."""


@dataclass(frozen=True)
class Explainer:
    """An explanation function, called as in Quantus.

    Side effects are undone, see :class:`quantus_ext.engine.fence.Fence`. Global random states are
    seeded for each batch and restored, so random numbers depend on the seed and the batch only.

    Attributes
    ----------
    function : callable or None
    keywords : mapping
        Each call gets its own copies of arrays.
    seed : int
        For the global random states.
    fence : Fence
    """

    function: Callable[..., Any] | None
    keywords: Mapping[str, Any]
    seed: int
    fence: Fence

    @classmethod
    def of_call(
        cls,
        function: Callable[..., Any] | None,
        keywords: Mapping[str, Any] | None,
        device: str | torch.device | None,
        seed: int,
    ) -> Explainer:
        """Take the arguments of a metric's call."""
        given = {} if device is None else {"device": device}
        checks.optional(checks.function, "explain_func", function)
        own = checks.optional(checks.mapping, "explain_func_kwargs", keywords)
        name = getattr(function, "__name__", type(function).__name__)
        return cls(function, {**given, **(own or {})}, seed, Fence(f"the explainer {name!r}"))

    def require(self) -> Callable[..., Any]:
        """Return the function, or raise TypeError if there is none."""
        if not callable(self.function):
            raise TypeError(f"explain_func must be callable, is {self.function!r}")
        return self.function

    def state(self, first: int) -> int:
        """Return the seed of the global random states for a batch, by its first sample.

        Metrics use others: one that explains again must not get the draws that are in the
        attributions already.
        """
        purpose = sampling.Purpose.EXPLAINER_STATE
        return sampling.state_seed(self.seed, torch.tensor([first]), purpose)

    def maps(
        self, model: nn.Module, x: np.ndarray, y: np.ndarray, first: int, device: torch.device
    ) -> Any:
        r"""Return the function's result for a batch.

        Parameters
        ----------
        model : nn.Module
        x : numpy.ndarray, shape (n, \*sample)
        y : numpy.ndarray, shape (n,)
        first : int
            Global index of the first sample.
        device : torch.device
            The model's.
        """
        function = self.require()
        with self.fence.around(model), seeded(self.state(first), device):
            # Copies, because functions may write into what they are given.
            keywords = {name: _own(value) for name, value in self.keywords.items()}
            # This explainer takes tensors only.
            knows_tensors = getattr(function, "func", function) is explain
            with answering_tensors(model) if knows_tensors else nullcontext():
                if knows_tensors and x.ndim > 4:
                    # It cannot tell of volumes, and puts nothing anywhere else.
                    keywords.setdefault("channel_first", True)
                inputs = adapter_of(model).decoded(x.copy())
                return function(model=model, inputs=inputs, targets=y.copy(), **keywords)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, first: int) -> Tensor:
        """Explain ``y`` of ``x``, both on the model's device."""
        explained = self.maps(model, x.cpu().numpy(), y.cpu().numpy(), first, x.device)
        explained = adapter_of(model).in_order("a_batch", explained)
        maps = tensor_of("a_batch", explained, x.device, None)
        check_embedding_axis(maps, adapter_of(model), x)
        return of_explained_class(maps, model, x, y.cpu().numpy())


def _own(value: Any) -> Any:
    """Return an array of one's own; layers, and tensors that may be a model's, stay."""
    return value.copy() if isinstance(value, np.ndarray) else value


@dataclass(frozen=True)
class Call:
    """The arguments of a call other than samples and maps; see ``TorchMetric.__call__``.

    Attributes
    ----------
    model, model_predict_kwargs, softmax, output, device, custom_batch
        As given.
    has_attributions : bool
        Whether all maps are given.
    is_part : bool
        Whether the samples are part of a larger set.
    """

    model: nn.Module
    model_predict_kwargs: Mapping[str, Any] | None
    softmax: bool | None
    output: Space | None
    device: str | torch.device | None
    custom_batch: Any
    has_attributions: bool
    is_part: bool


@dataclass(frozen=True)
class Batch:
    r"""Some samples of a call: checked tensors on the model's device.

    Attributes
    ----------
    x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
        Inputs.
    y : Tensor, int64, shape (n,)
        Explained classes; where each map has one of its own, those of the first.
    maps : Tensor, shape (m, n, \*sample) or with one channel
        Attributions of m explanations, normalised and absolute if requested.
    s : array or tensor, optional
        ``s_batch`` for these samples.
    clean : Tensor, shape (n, classes)
        The model's outputs for ``x``.
    index : Tensor, int64, shape (n,)
        Global sample indices.
    numbers : Tensor, int64, shape (n,)
        Sample numbers within the call.
    seed : int
    model : torch.nn.Module
        The explained model.
    explainers : tuple of Explainer
        One per map, to explain other models in the same way.
    features : Tensor, int64, shape (n or 1, \*spatial), or None
        The feature mask of the model's adapter; see :class:`quantus_ext.adapters.Adapter`.
    remade : tuple of callable
        One per map: applied to maps that a metric computes itself, to make them comparable; empty
        if not needed.
    targets : Tensor, int64, shape (n, m), or None
        The class of each map, where each has one of its own.
    spaces : Spaces or None
        How the outputs are read; None for as they are, without comparing maps with them.
    """

    x: Tensor
    y: Tensor
    maps: Tensor
    s: np.ndarray | Tensor | None
    clean: Tensor
    index: Tensor
    numbers: Tensor
    seed: int
    model: nn.Module
    explainers: tuple[Explainer, ...]
    features: Tensor | None
    remade: tuple[Remake, ...] = ()
    targets: Tensor | None = None
    spaces: Spaces | None = None

    @property
    def classes(self) -> Tensor:
        """The explained class of each map, (m, n), or of all maps, (1, n)."""
        return self.y.unsqueeze(0) if self.targets is None else self.targets.T

    def masked(self, forward: Forward, perturbation: Perturbation | None = None) -> MaskedModel:
        """Return the model as a function of changed elements of the samples.

        Parameters
        ----------
        forward : Forward
        perturbation : Perturbation, optional
            The replacement of elements, by default 0.
        """
        return MaskedModel(forward, self.x, self.y, perturbation, **self.known)

    @property
    def known(self) -> SampleArguments:
        """The other arguments of functions on the samples."""
        return {
            "seed": self.seed,
            "index": self.index,
            "clean": self.clean,
            "numbers": self.numbers,
            "spaces": self.spaces,
        }

    @property
    def counted(self) -> Tensor:
        """Which values are in an element (padding is not), bool, broadcasting to the maps."""
        if self.features is None:
            return torch.ones((), dtype=torch.bool, device=self.x.device)
        return counted(self.features, self.x)


def segmentations_of(s: Any) -> np.ndarray | Tensor | None:
    """Return segmentations as array or tensor; None for MetaQuantus's list of None."""
    if isinstance(s, (list, tuple)):
        missing = [i for i, each in enumerate(s) if each is None]
        if 0 < len(missing) < len(s):
            raise ValueError(
                f"s_batch must hold all segmentations or none, is None at {missing[0]}"
            )
        s = None if missing else s
    if s is None:
        return None
    numbers = numbers_of("s_batch", s)
    # In order, because torch takes no negative strides.
    return numbers if isinstance(numbers, Tensor) else np.ascontiguousarray(numbers)


def features_of(adapter: Adapter, x: Tensor) -> Tensor | None:
    """Return the adapter's feature mask of the inputs, with an element in each sample."""
    if adapter.feature_mask is None:
        return None
    features = adapter.feature_mask(x)
    spatial = tuple(x.shape[1:]) if x.ndim == 2 else tuple(x.shape[2:])
    if features.shape[1:] != spatial or len(features) not in (1, len(x)):
        raise ValueError(
            f"the adapter's feature mask must have shape {(len(x), *spatial)} or {(1, *spatial)}, "
            f"has {tuple(features.shape)}"
        )
    empty = ~(features >= 0).flatten(1).any(1)
    if bool(empty.any()):
        raise ValueError(
            "x_batch must hold something that can be removed, holds padding or special tokens "
            f"only in sample {int(empty.nonzero()[0, 0])}"
        )
    return features


def features_of_rows(features: Tensor | None, rows: slice) -> Tensor | None:
    """Return the feature mask of some samples; one for all stays."""
    return features if features is None or len(features) == 1 else features[rows]


def counted(features: Tensor, x: Tensor) -> Tensor:
    """Return which values of ``x`` are in an element, bool, broadcasting to attributions."""
    inside = features >= 0
    return inside if x.ndim == 2 else inside.unsqueeze(1)


def channels_are_first(x: Tensor | np.ndarray, model: nn.Module, name: str = "x_batch") -> bool:
    """Say that channels come first, where a call does not and nothing speaks against it.

    Raises
    ------
    ValueError
        If something does: images, volumes or videos of which another axis alone is as short as
        one of channels; volumes without an axis of channels, as a model for volumes tells; series
        with fewer than twice as many steps as channels, as grey images have, or with a model
        that works on images, or that has as many channels in its last axis as there are steps.
    """
    shape = tuple(x.shape)
    told = f"{name} of shape {shape} may be"
    choose = "pass channel_first=True for the first, channel_first=False for the second"
    # A scripted part keeps the name of what it was.
    kinds = {getattr(part, "original_name", type(part).__name__) for part in model.modules()}
    if len(shape) == 4 and shape[3] <= _MOST_CHANNELS < min(shape[1:3]):
        raise ValueError(f"{told} images (n, C, H, W), or (n, H, W, C): {choose}")
    if len(shape) == 4 and "Conv3d" in kinds:
        raise ValueError(
            f"{told} images (n, C, H, W), or volumes without an axis of channels, as the model has "
            f"nn.Conv3d: pass channel_first=True for images; volumes need an axis of one channel, "
            f"{name}[:, None]"
        )
    if len(shape) == 5 and shape[4] <= _MOST_CHANNELS < min(shape[1:4]):
        raise ValueError(f"{told} volumes (n, C, D, H, W), or (n, D, H, W, C): {choose}")
    if len(shape) == 5 and shape[2] <= _MOST_CHANNELS < min(shape[1], *shape[3:]):
        raise ValueError(
            f"{told} volumes (n, C, D, H, W), or videos (n, T, C, H, W): pass channel_first=True "
            f"for the first; of videos put the channels before time, np.moveaxis({name}, 2, 1), "
            "with a module around the model that puts them back"
        )
    if len(shape) != 3:
        return True
    channels, steps = shape[1:]
    grey = f"grey images need an axis of one channel, {name}[:, None]"
    if 1 < channels > steps / 2 or _reads_last_axis(model, channels, steps):
        raise ValueError(
            f"{told} series (n, C, T), or (n, T, C): {choose}; a model that takes (n, T, C) itself "
            f"goes into adapters.Series(model, time_first=True); {grey}"
        )
    if "Conv2d" in kinds:
        raise ValueError(
            f"{told} series (n, C, T), or grey images (n, H, W), as the model has nn.Conv2d: pass "
            f"channel_first=True for series; {grey}"
        )
    return True


_MOST_CHANNELS = 4
"""Of images: red, green, blue and transparency."""


def _reads_last_axis(model: nn.Module, channels: int, steps: int) -> bool:
    """Whether a model has parts that take (n, T, C) and as many channels as there are steps."""
    widths = {
        part.input_size if isinstance(part, nn.RNNBase) else part.embed_dim
        for part in model.modules()
        if isinstance(part, (nn.RNNBase, nn.MultiheadAttention)) and part.batch_first
    }
    return steps in widths and channels not in widths


def check_embedding_axis(a: Tensor, adapter: Adapter, x: Tensor) -> None:
    """Raise ValueError if attributions for token ids have a last axis that isn't the embedding's.

    Such an axis is summed, and over classes a sum means nothing.
    """
    if not adapter.takes_ids or a.ndim != 3 or a.shape[:2] != x.shape or a.shape[2] == 1:
        return
    embedded = adapter.over_embeddings()
    width = None if embedded is None else embedded.embed(x[:1]).shape[1]
    if a.shape[2] != width:
        over = "" if width is None else f", or {(*x.shape, width)} over embeddings"
        raise ValueError(
            f"a_batch must have shape {tuple(x.shape)}{over} for these inputs, has "
            f"{tuple(a.shape)}: of an axis of classes, axis 2, pick the explained class, "
            f"a_batch[np.arange({len(x)}), ..., y_batch]"
        )


def of_explained_class(a: Tensor, model: nn.Module, x: Tensor, y: np.ndarray) -> Tensor:
    """Return maps of tables that have an axis of classes, as SHAP values do, for one class each.

    Any other maps are returned as they are.

    Parameters
    ----------
    a : Tensor, shape (n, F, classes)
    model : nn.Module
        Asked about a row, for an axis as long as its outputs is one of classes.
    x : Tensor, shape (n, F)
    y : numpy.ndarray of int, shape (n,)
        Explained classes.
    """
    is_table = x.ndim == 2 and not adapter_of(model).takes_ids
    if not is_table or a.ndim != 3 or a.shape[:2] != x.shape or isinstance(model, NoModel):
        return a
    forward = Forward.of_module(model, x.device, softmax=None)
    classes = forward.clean(x[:1], torch.zeros(1, dtype=torch.int64, device=x.device)).shape[1]
    if a.shape[2] != classes:
        return a
    checks.labels_below(y, classes)
    return a[torch.arange(len(a)), :, torch.from_numpy(y)]


def tensor_of(name: str, values: object, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """Return an argument as a tensor; without a type in its own, integers in double precision.

    Raises
    ------
    TypeError, ValueError
        If it holds anything but real numbers, is sparse, or has masked or missing values.
    """
    tensor = tensor_from(name, values)
    if dtype == torch.int64:
        return checks.token_ids(tensor, name).to(device)
    if dtype is None:
        # Single precision does not represent every integer.
        dtype = tensor.dtype if tensor.is_floating_point() else torch.float64
    return tensor.to(device, dtype)
