"""Perturbation functions of other packages, called sample by sample as they expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from quantus_ext.engine import sampling
from quantus_ext.engine.elements import Rows
from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from quantus_ext.engine.perturb import Prepared
from quantus_ext.engine.sampling import Purpose

Convention = Literal["flat", "sample", "pixels", "mask", "whole", "whole_batch"]
"""How a function of Quantus's kind wants to be called:

flat
    ``arr`` (1, values) and ``indices`` (1, count) over all values, as Infidelity and
    Pixel-Flipping call it;
sample
    ``arr`` (\\*sample), a list of indices into the flattened ``indexed_axes``;
pixels
    ``arr`` (\\*sample) and a list of flat positions, all channels, as ROAD calls it;
mask
    ``arr`` (\\*sample) and a boolean ``mask`` of its shape;
whole, whole_batch
    ``arr`` (\\*sample) or (1, \\*sample), nothing chosen.
"""


@dataclass(frozen=True)
class Bridge:
    """Any perturbation function, called row by row as Quantus calls it.

    The global random states of Python, numpy and torch are seeded for each (sample, draw) and
    restored afterwards.

    Parameters
    ----------
    function : callable
        Takes and returns numpy arrays.
    convention : Convention
        How to call it.
    keywords : mapping
        Passed with each call.
    random, replaces : bool
        See :class:`~quantus_ext.engine.perturb.Perturbation`.
    """

    function: Callable[..., Any]
    convention: Convention
    keywords: Mapping[str, Any] = field(default_factory=dict)
    random: bool = True
    replaces: bool = False

    @property
    def uses_mask(self) -> bool:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        return self.convention not in ("whole", "whole_batch")

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        arrays = x.detach().cpu().numpy()

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            chosen = mask.expand(*keys.shape, *mask.shape[2:]).cpu().numpy()
            seeds = _seeds(keys)
            rows = arrays[samples if isinstance(samples, slice) else samples.cpu().numpy()]
            with isolated_random_state():
                for row, draw in np.ndindex(*keys.shape):
                    seed_global_generators(int(seeds[row, draw]))
                    perturbed = self._call(rows[row].copy(), chosen[row, draw])
                    buffer[row, draw] = torch.from_numpy(perturbed)
            return buffer

        return Prepared(apply, None)

    def _call(self, arr: np.ndarray, mask: np.ndarray) -> np.ndarray:
        arguments = self._arguments(arr, mask)
        name = name_of(self.function)
        try:
            result = np.asarray(self.function(**arguments))
        except Exception as error:
            raise ValueError(
                f"perturb_func {name} failed on a sample of shape {arr.shape}: {error}"
            ) from error
        # Compare shapes, not sizes: a transposed image would be scrambled by reshaping.
        if result.shape != arguments["arr"].shape:
            raise ValueError(
                f"perturb_func {name} must keep the shape {arguments['arr'].shape}, "
                f"returned {result.shape}"
            )
        if not np.isfinite(result).all():
            raise ValueError(f"perturb_func {name} must return finite values, returned {result}")
        # torch does not accept reversed views.
        return np.ascontiguousarray(result.reshape(arr.shape), dtype=arr.dtype)

    def _arguments(self, arr: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        full = np.broadcast_to(mask, arr.shape)
        channelled = arr.ndim > 1
        each_channel = channelled and len(mask) == len(arr)
        match self.convention:
            case "flat":
                chosen: dict[str, Any] = {"indices": np.flatnonzero(full)[None]}
                arr = arr.reshape(1, -1)
            case "sample":
                axes = range(1, arr.ndim) if channelled and not each_channel else range(arr.ndim)
                chosen = {
                    "indices": np.flatnonzero(full if full.ndim == len(axes) else full[0]).tolist(),
                    "indexed_axes": np.array(axes),
                }
            case "pixels":
                chosen = {"indices": np.flatnonzero(full.any(0) if channelled else full)}
            case "mask":
                chosen = {"mask": full}
            case "whole_batch":
                chosen = {}
                arr = arr[None]
            case "whole":
                chosen = {}
        return {**self.keywords, "arr": arr, **chosen}


@dataclass(frozen=True)
class CaptumFunction:
    """A function of tensors that returns ``(I, x - I)``, as captum's infidelity takes them.

    It is called for one row at a time. As for :class:`Bridge`, the global random states, including
    that of the row's device, are seeded for each (sample, draw), so draws do not depend on the
    number of rows per forward pass.

    Parameters
    ----------
    function : callable
        Inputs (1, \\*sample), on their device -> ``I`` and perturbed inputs of the same shape.
    """

    function: Callable[..., Any]
    random: bool = field(default=True, init=False)
    replaces: bool = field(default=False, init=False)
    uses_mask: bool = field(default=False, init=False)

    def __call__(self, inputs: Tensor, *others: Any, **keywords: Any) -> Any:
        """Call the function, so that captum takes this object too."""
        return self.function(inputs, *others, **keywords)

    def prepare(self, x: Tensor) -> Prepared:
        """See :class:`~quantus_ext.engine.perturb.Perturbation`."""
        made: list[Tensor] = []

        def apply(samples: Rows, mask: Tensor, keys: Tensor, buffer: Tensor) -> Tensor:
            seeds = _seeds(keys)
            interpretation = torch.empty(buffer.shape, dtype=x.dtype, device=x.device)
            with isolated_random_state(x.device):
                for row, draw in np.ndindex(*keys.shape):
                    seed_global_generators(int(seeds[row, draw]), x.device)
                    pair = self._call(x[samples][row : row + 1].clone())
                    interpretation[row, draw], buffer[row, draw] = (part[0] for part in pair)
            made[:] = [interpretation]
            return buffer

        return Prepared(apply, None, lambda: made[0])

    def _call(self, row: Tensor) -> list[Tensor]:
        name = name_of(self.function)
        try:
            returned = self.function(row)
        except Exception as error:
            raise ValueError(
                f"perturb_func {name} failed on inputs of shape {tuple(row.shape)}: {error}"
            ) from error
        if not isinstance(returned, (tuple, list)) or len(returned) != 2:
            raise ValueError(
                f"perturb_func {name} must return (I, x - I), returned {type(returned).__name__}"
            )
        # captum's decorator wraps each in a tuple of one.
        pair = [
            part[0] if isinstance(part, (tuple, list)) and len(part) == 1 else part
            for part in returned
        ]
        for part in pair:
            if not isinstance(part, Tensor) or part.shape != row.shape:
                found = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(
                    f"perturb_func {name} must return two tensors of shape {tuple(row.shape)}, "
                    f"one is {found}"
                )
            if not bool(part.isfinite().all()):
                raise ValueError(f"perturb_func {name} must return finite values, returned {part}")
        return pair


def _seeds(keys: Tensor) -> np.ndarray:
    """Return a seed of the global generators for each draw, shape of ``keys``."""
    bits: np.ndarray = sampling.bits(keys, 1, Purpose.BRIDGE).squeeze(-1).cpu().numpy()
    return bits & (2**32 - 1)


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function for error messages."""
    return str(getattr(function, "__name__", repr(function)))
