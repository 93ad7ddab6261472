"""Quantus's perturbation functions: one table from each to its path on this engine."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from quantus.functions import perturb_func as quantus_functions

from quantus_ext.engine import perturb
from quantus_ext.engine.perturb import Bridge, Convention, Perturbation

Keywords = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """How one function of Quantus runs here.

    Attributes
    ----------
    name : str
        In ``quantus.functions.perturb_func``.
    does : str
        What it does to chosen elements, for the table in the docs.
    native : callable, optional
        From its keywords to a perturbation on whole batches of draws.
    convention : Convention, optional
        How the bridge calls it, where there is no native path.
    is_random : bool
        For the bridge: whether two calls on the same elements differ.
    """

    name: str
    does: str
    native: Callable[[Keywords], Perturbation] | None = None
    convention: Convention | None = None
    is_random: bool = False


def _replace(scope: perturb.Scope) -> Callable[[Keywords], Perturbation]:
    def native(keywords: Keywords) -> Perturbation:
        baseline = _required(keywords, "perturb_baseline")
        return perturb.replace_by(baseline, scope=scope, **_uniform_range(keywords))

    return native


def _shift(keywords: Keywords) -> Perturbation:
    return perturb.shift_by(_required(keywords, "input_shift"), **_uniform_range(keywords))


def _uniform_range(keywords: Keywords) -> dict[str, float]:
    return {name: keywords[name] for name in ("uniform_low", "uniform_high") if name in keywords}


def _required(keywords: Keywords, name: str) -> Any:
    if name not in keywords:
        raise ValueError(f"perturb_func_kwargs must hold {name!r}, holds {sorted(keywords)}")
    return keywords[name]


def _blur(keywords: Keywords) -> Perturbation:
    return perturb.blur(keywords.get("blur_kernel_size", 15))


def _gaussian(keywords: Keywords) -> Perturbation:
    return perturb.gaussian_noise(
        keywords.get("perturb_mean", 0.0), keywords.get("perturb_std", 0.01)
    )


def _uniform(keywords: Keywords) -> Perturbation:
    lower = keywords.get("lower_bound", 0.02)
    upper = keywords.get("upper_bound")
    return (
        perturb.uniform_noise(-lower, lower)
        if upper is None
        else perturb.uniform_noise(lower, upper)
    )


def _background(keywords: Keywords) -> Perturbation:
    return perturb.draw_from(_required(keywords, "background"))


TABLE = (
    Entry("baseline_replacement_by_indices", "replace", _replace("channel")),
    Entry("batch_baseline_replacement_by_indices", "replace", _replace("sample")),
    Entry("baseline_replacement_by_mask", "replace", _replace("value")),
    Entry("baseline_replacement_by_shift", "shift", _shift),
    Entry("baseline_replacement_by_blur", "blur", _blur),
    Entry("gaussian_noise", "add Gaussian noise", _gaussian),
    Entry("batch_gaussian_noise", "add Gaussian noise", _gaussian),
    Entry("uniform_noise", "add uniform noise", _uniform),
    Entry("batch_uniform_noise", "add uniform noise", _uniform),
    Entry(
        "noisy_linear_imputation",
        "impute from neighbours, with noise",
        convention="pixels",
        is_random=True,
    ),
    Entry("rotation", "rotate the whole input", convention="whole"),
    Entry("translation_x_direction", "translate the whole input", convention="whole"),
    Entry("translation_y_direction", "translate the whole input", convention="whole"),
    Entry("batched_translation", "translate the whole input", convention="whole_batch"),
    Entry("no_perturbation", "leave as it is", convention="whole"),
    Entry("perturb_batch", "whatever its own `perturb_func` keyword does"),
)


def background_replacement_by_indices(
    arr: np.ndarray, indices: np.ndarray, background: np.ndarray, **_: Any
) -> np.ndarray:
    """Replace chosen values by those of random rows of a background set.

    A perturbation function as Quantus has them, for its metrics and ours; ours draw the rows
    from their own seed, Quantus's from NumPy's global state. See
    :func:`quantus_ext.engine.perturb.draw_from`.

    Parameters
    ----------
    arr : array, shape (n, values)
    indices : array of int, shape (n, count)
        The values to replace in each row.
    background : array, shape (m, ...) of ``values`` values each

    Returns
    -------
    array, shape (n, values)

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext import Fidelity
    >>> from quantus_ext.perturbation import background_replacement_by_indices
    >>> background = np.array([[7.0, 8, 9]])
    >>> background_replacement_by_indices(np.zeros((1, 3)), np.array([[0, 2]]), background)
    array([[7., 0., 9.]])
    >>> metric = Fidelity(
    ...     perturb_func=background_replacement_by_indices,
    ...     perturb_func_kwargs={"background": background},
    ... )
    """
    rows = np.asarray(background).reshape(len(background), -1)
    drawn = rows[np.random.randint(len(rows), size=len(arr))]  # noqa: NPY002 - as Quantus does
    changed = np.array(arr)
    np.put_along_axis(changed, indices, np.take_along_axis(drawn, indices, 1), 1)
    return changed


# By identity, for a function of the user's own need not be hashable.
_BY_FUNCTION = {id(getattr(quantus_functions, entry.name)): entry for entry in TABLE} | {
    id(background_replacement_by_indices): Entry(
        "background_replacement_by_indices", "replace by rows of a background", _background
    )
}


def bind(
    perturb_func: Callable[..., Any], perturb_baseline: object, keywords: Keywords | None
) -> functools.partial[Any]:
    """Bind a perturbation function to its keywords, as Quantus does; errors come at once."""
    bound = {"perturb_baseline": perturb_baseline, **(keywords or {})}
    resolve(perturb_func, bound)
    return functools.partial(perturb_func, **bound)


def resolve(
    perturb_func: Callable[..., Any], keywords: Keywords = MappingProxyType({})
) -> Perturbation:
    """Return the perturbation that a function of Quantus's kind makes on this engine.

    Parameters
    ----------
    perturb_func : callable
        One of Quantus's functions, which take their native path where ``TABLE`` has one, or
        any other, which is called row by row. A function of the user's own is called with a
        ``mask`` if it has such a parameter; with ``arr`` (\\*sample), ``indices`` and
        ``indexed_axes`` if it has the latter; with ``arr`` (1, values) and ``indices``
        (1, count) if it has ``indices``, as ``quantus.Infidelity`` calls it; else with ``arr``.
    keywords : mapping
        Passed to it.

    Raises
    ------
    TypeError
        If ``perturb_func`` is not callable.
    ValueError
        If its keywords do not fit.
    """
    if not callable(perturb_func):
        raise TypeError(f"perturb_func must be callable, is {perturb_func!r}")
    if isinstance(perturb_func, functools.partial) and not perturb_func.args:
        return resolve(perturb_func.func, {**perturb_func.keywords, **keywords})
    if perturb_func is quantus_functions.perturb_batch:
        inner = {name: value for name, value in keywords.items() if name != "perturb_func"}
        return resolve(_required(keywords, "perturb_func"), inner)
    entry = _BY_FUNCTION.get(id(perturb_func))
    if entry is None:
        return Bridge(perturb_func, _convention(perturb_func), keywords)
    if entry.native is not None:
        return entry.native(keywords)
    if entry.convention is None:
        raise NotImplementedError(f"{entry.name} has neither a native path nor a convention")
    return Bridge(perturb_func, entry.convention, keywords, random=entry.is_random)


def _convention(perturb_func: Callable[..., Any]) -> Convention:
    parameters = inspect.signature(perturb_func).parameters
    if "mask" in parameters:
        return "mask"
    if "indexed_axes" in parameters:
        return "sample"
    return "flat" if "indices" in parameters else "whole"


def markdown_table() -> str:
    """Return the table of functions, paths and metrics as it stands in the docs."""
    rows = ["| Quantus function | what it does | path | metrics |", "|---|---|---|---|"]
    for entry in TABLE:
        if entry.native is not None:
            path = "native, whole batches on the device"
        elif entry.convention is not None:
            path = "bridge, row by row"
        else:
            path = "that of the inner function"
        # What moves the whole input removes no chosen element, so only Infidelity can use it.
        whole = entry.convention in ("whole", "whole_batch")
        metrics = "Infidelity" if whole else "all that perturb"
        rows.append(f"| `{entry.name}` | {entry.does} | {path} | {metrics} |")
    return "\n".join(rows)
