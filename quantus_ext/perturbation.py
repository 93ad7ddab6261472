"""Quantus's perturbation functions on this engine, in one table."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from quantus.functions import perturb_func as quantus_functions

from quantus_ext import checks
from quantus_ext.engine import replacements
from quantus_ext.engine.bridges import Bridge, CaptumFunction, Convention, name_of
from quantus_ext.engine.perturb import Perturbation

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


def _replace(scope: replacements.Scope) -> Callable[[Keywords], Perturbation]:
    def native(keywords: Keywords) -> Perturbation:
        baseline = _required(keywords, "perturb_baseline")
        return replacements.replace_by(baseline, scope=scope, **_uniform_range(keywords))

    return native


def _shift(keywords: Keywords) -> Perturbation:
    return replacements.shift_by(_required(keywords, "input_shift"), **_uniform_range(keywords))


def _uniform_range(keywords: Keywords) -> dict[str, float]:
    return {name: keywords[name] for name in ("uniform_low", "uniform_high") if name in keywords}


def _required(keywords: Keywords, name: str) -> Any:
    if name not in keywords:
        raise ValueError(f"perturb_func_kwargs must hold {name!r}, holds {sorted(keywords)}")
    return keywords[name]


def _quantus_blur(keywords: Keywords) -> Perturbation:
    return replacements.blur(keywords.get("blur_kernel_size", 15), zeros_beyond=True)


def _blur(keywords: Keywords) -> Perturbation:
    return replacements.blur(keywords.get("blur_kernel_size", 15))


def _gaussian_blur(keywords: Keywords) -> Perturbation:
    return replacements.gaussian_blur(
        keywords.get("blur_kernel_size", 51), keywords.get("blur_sigma", 20.0)
    )


def _gaussian(keywords: Keywords) -> Perturbation:
    return replacements.gaussian_noise(
        keywords.get("perturb_mean", 0.0), keywords.get("perturb_std", 0.01)
    )


def _uniform(keywords: Keywords) -> Perturbation:
    lower = keywords.get("lower_bound", 0.02)
    upper = keywords.get("upper_bound")
    return (
        replacements.uniform_noise(-lower, lower)
        if upper is None
        else replacements.uniform_noise(lower, upper)
    )


def _background(keywords: Keywords) -> Perturbation:
    return replacements.draw_from(_required(keywords, "background"))


TABLE = (
    Entry("baseline_replacement_by_indices", "replace", _replace("channel")),
    Entry("batch_baseline_replacement_by_indices", "replace", _replace("sample")),
    Entry("baseline_replacement_by_mask", "replace", _replace("value")),
    Entry("baseline_replacement_by_shift", "shift", _shift),
    Entry("baseline_replacement_by_blur", "blur, with zeros beyond the borders", _quantus_blur),
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

    A perturbation function of Quantus's kind, for its metrics and those of this package; the latter
    draw the rows from their own seed, Quantus's from NumPy's global state. See
    :func:`quantus_ext.engine.replacements.draw_from`.

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


def blur_replacement_by_indices(
    arr: np.ndarray,
    indices: Sequence[int],
    indexed_axes: Sequence[int],
    blur_kernel_size: int | Sequence[int] = 15,
    **_: Any,
) -> np.ndarray:
    """Replace chosen positions by the mean over the part of a window around them that is inside.

    A perturbation function of Quantus's kind, for its metrics and those of this package. Quantus's
    own ``baseline_replacement_by_blur`` pads with zeros instead.

    Parameters
    ----------
    arr : array, shape (F,), (C, T) or (C, H, W)
    indices : sequence of int
        Positions in the flattened ``indexed_axes``.
    indexed_axes : sequence of int
        Those after the channels, or all.
    blur_kernel_size : int or sequence of int, default 15
        Sides of the window along the spatial axes.

    Returns
    -------
    array, shape of ``arr``

    Examples
    --------
    A constant stays what it is:

    >>> import numpy as np
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.perturbation import blur_replacement_by_indices
    >>> image = np.ones((1, 8, 8))
    >>> bool((blur_replacement_by_indices(image, [0, 9], [1, 2]) == 1).all())
    True
    >>> metric = Deletion(baseline="blur")  # is this function
    """
    return _replaced(replacements.blur(blur_kernel_size), arr, indices, indexed_axes)


def gaussian_blur_replacement_by_indices(
    arr: np.ndarray,
    indices: Sequence[int],
    indexed_axes: Sequence[int],
    blur_kernel_size: int | Sequence[int] = 51,
    blur_sigma: float = 20.0,
    **_: Any,
) -> np.ndarray:
    """Replace chosen positions by a Gaussian mean over the part of the kernel that is inside.

    A perturbation function of Quantus's kind, for its metrics and those of this package: the blur
    of RISE, 51 positions wide with a standard deviation of 20.

    Parameters
    ----------
    arr, indices, indexed_axes
        As for :func:`blur_replacement_by_indices`.
    blur_kernel_size : int or sequence of int, default 51
        Odd sides of the kernel along the spatial axes.
    blur_sigma : float, default 20.0
        In positions.

    Returns
    -------
    array, shape of ``arr``

    Examples
    --------
    >>> import numpy as np
    >>> from quantus_ext import Insertion
    >>> from quantus_ext.perturbation import gaussian_blur_replacement_by_indices
    >>> series = np.array([[0.0, 0, 1, 0, 0]])
    >>> gaussian_blur_replacement_by_indices(series, [2], [1], 3, 1.0).round(2)
    array([[0.  , 0.  , 0.45, 0.  , 0.  ]])
    >>> metric = Insertion(baseline="gaussian_blur")  # is this function
    """
    blurred = replacements.gaussian_blur(blur_kernel_size, blur_sigma)
    return _replaced(blurred, arr, indices, indexed_axes)


def _replaced(
    perturbation: Perturbation,
    arr: np.ndarray,
    indices: Sequence[int],
    indexed_axes: Sequence[int],
) -> np.ndarray:
    """Return a copy with chosen positions replaced, by a perturbation that is fixed."""
    fixed = perturbation.prepare(torch.from_numpy(np.array(arr)).unsqueeze(0)).fixed
    if fixed is None:
        raise NotImplementedError("a random perturbation has draws")
    mask = np.zeros([arr.shape[axis] for axis in indexed_axes], dtype=bool)
    mask.reshape(-1)[np.asarray(indices)] = True
    return np.where(mask, fixed[0].numpy(), arr)


def from_captum(perturb_func: Callable[..., Any]) -> CaptumFunction:
    r"""Turn a perturbation function for captum's ``infidelity`` into one for Infidelity.

    Its ``I`` is used as returned, so ``multiply_by_inputs`` and ``inputs_baseline`` do not apply,
    as in captum. A map with one channel for several is spread evenly over them.

    Parameters
    ----------
    perturb_func : callable
        Takes inputs, a tensor of shape (rows, \*sample), and returns ``(I, x - I)``; also a
        function with captum's ``infidelity_perturb_func_decorator``.

    Returns
    -------
    callable
        Called with one row at a time, with seeded random states for each.

    Raises
    ------
    TypeError
        If ``perturb_func`` is not callable.

    Examples
    --------
    >>> import torch
    >>> from quantus_ext import Infidelity
    >>> from quantus_ext.perturbation import from_captum
    >>> def noisy(inputs):
    ...     noise = 0.1 * torch.randn_like(inputs)
    ...     return noise, inputs - noise
    >>> model = torch.nn.Linear(6, 2).eval()
    >>> x, y = torch.ones(3, 6), torch.tensor([0, 1, 0])
    >>> metric = Infidelity(perturb_func=from_captum(noisy))
    >>> max(metric(model, x, y, model.weight.detach()[y])) < 1e-10
    True
    """
    checks.function("perturb_func", perturb_func)
    return CaptumFunction(perturb_func)


# By identity, for a function of the user's own need not be hashable.
_BY_FUNCTION = {id(getattr(quantus_functions, entry.name)): entry for entry in TABLE} | {
    id(function): Entry(function.__name__, does, native)
    for function, does, native in (
        (background_replacement_by_indices, "replace by rows of a background", _background),
        (blur_replacement_by_indices, "blur", _blur),
        (gaussian_blur_replacement_by_indices, "blur, Gaussian", _gaussian_blur),
    )
}


def bind(
    perturb_func: Callable[..., Any],
    perturb_baseline: object,
    keywords: Keywords | None,
    *,
    default_baseline: object,
) -> functools.partial[Any]:
    """Bind a perturbation function to its keyword arguments, as Quantus does, and check them.

    Parameters
    ----------
    perturb_func : callable
    perturb_baseline : float, str, array or None
        None for the default, which is bound only to functions that ask for a baseline.
    keywords : mapping, optional
    default_baseline : float or str
    """
    bound = checks.optional(checks.mapping, "perturb_func_kwargs", keywords) or {}
    if perturb_baseline is not None:
        bound.setdefault("perturb_baseline", perturb_baseline)
    elif _asks_for_baseline(perturb_func, bound):
        bound.setdefault("perturb_baseline", default_baseline)
    resolve(perturb_func, bound)
    return functools.partial(perturb_func, **bound)


def bound_argument(bound: functools.partial[Any], name: str) -> Any:
    """Return an argument of :func:`bind`, by the name that metrics give it.

    Parameters
    ----------
    bound : functools.partial
        What :func:`bind` returned.
    name : {"perturb_func", "perturb_baseline", "perturb_func_kwargs"}
    """
    if name == "perturb_func":
        return bound.func
    if name == "perturb_baseline":
        return bound.keywords.get(name)
    others = {key: value for key, value in bound.keywords.items() if key != "perturb_baseline"}
    return others or None


def resolve(
    perturb_func: Callable[..., Any], keywords: Keywords = MappingProxyType({})
) -> Perturbation:
    r"""Return the engine's perturbation for a function of Quantus's kind.

    Parameters
    ----------
    perturb_func : callable
        A function of Quantus, which takes its native path if ``TABLE`` has one, or any other, which
        is called row by row. Your own function is called with a ``mask`` if it has this parameter;
        with ``arr`` (\*sample), ``indices`` and ``indexed_axes`` if it has the latter; with ``arr``
        (1, values) and ``indices`` (1, count) if it has ``indices``, as in ``quantus.Infidelity``;
        otherwise with ``arr``.
    keywords : mapping
        Passed to it.

    Raises
    ------
    TypeError
        If ``perturb_func`` is not callable, or has no parameter ``arr``.
    ValueError
        If its keyword arguments do not fit.
    """
    checks.function("perturb_func", perturb_func)
    if isinstance(perturb_func, CaptumFunction):
        if keywords:
            raise ValueError(
                f"{', '.join(sorted(keywords))} must be left out with from_captum, whose function "
                "takes inputs alone: bind them with functools.partial"
            )
        return perturb_func
    if isinstance(perturb_func, functools.partial) and not perturb_func.args:
        return resolve(perturb_func.func, {**perturb_func.keywords, **keywords})
    if perturb_func is quantus_functions.perturb_batch:
        inner = {name: value for name, value in keywords.items() if name != "perturb_func"}
        return resolve(_required(keywords, "perturb_func"), inner)
    entry = _BY_FUNCTION.get(id(perturb_func))
    if entry is None:
        return Bridge(perturb_func, _convention(perturb_func, keywords), keywords)
    if entry.native is not None:
        return entry.native(keywords)
    if entry.convention is None:
        raise NotImplementedError(f"{entry.name} has neither a native path nor a convention")
    return Bridge(perturb_func, entry.convention, keywords, random=entry.is_random)


def _parameters(perturb_func: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(perturb_func).parameters
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"perturb_func must say what it takes, {perturb_func!r} does not ({error}): write a "
            "function of arr, and of mask or indices, that calls it"
        ) from error


_PASSED: dict[Convention, tuple[str, ...]] = {
    "mask": ("arr", "mask"),
    "sample": ("arr", "indices", "indexed_axes"),
    "flat": ("arr", "indices"),
    "whole": ("arr",),
}
"""What a function of the user's own is called with besides keywords: the first of these whose last
parameter it has."""


def _asks_for_baseline(perturb_func: Callable[..., Any], keywords: Keywords) -> bool:
    """Whether a function needs a ``perturb_baseline`` or takes any keyword."""
    asked: object = perturb_func
    if asked is quantus_functions.perturb_batch:
        asked = keywords.get("perturb_func", asked)
    if not callable(asked) or isinstance(asked, CaptumFunction):
        return False
    parameters = _parameters(asked)
    if "perturb_baseline" in parameters:
        return parameters["perturb_baseline"].default is inspect.Parameter.empty
    return any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def takes_indices(perturb_func: functools.partial[Any]) -> bool:
    """Whether a bound function can be called as ``quantus.Infidelity`` calls it."""
    try:
        inspect.signature(perturb_func).bind(arr=None, indices=None)
    except TypeError:
        return False
    return True


def _convention(perturb_func: Callable[..., Any], keywords: Keywords) -> Convention:
    parameters = _parameters(perturb_func)
    name = name_of(perturb_func)
    by_name = {
        parameter.name
        for parameter in parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if "arr" not in by_name and not takes_any:
        raise TypeError(
            f"perturb_func {name} must have a parameter 'arr', one sample as an array, which is "
            f"passed by name, has {list(parameters)}; a function of tensors that returns "
            "(I, x - I) goes into quantus_ext.perturbation.from_captum"
        )
    unknown = sorted(set(keywords) - by_name)
    if unknown and not takes_any:
        raise ValueError(
            f"perturb_func {name} takes no {', '.join(unknown)}, only {sorted(by_name)}: leave "
            "it out of perturb_baseline and perturb_func_kwargs"
        )
    convention: Convention = "whole"
    for each, its in _PASSED.items():
        if its[-1] in by_name:
            convention = each
            break
    passed = _PASSED[convention]
    missing = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        and parameter.name not in (*keywords, *passed)
    ]
    if missing:
        raise ValueError(
            f"perturb_func {name} needs {', '.join(missing)} besides {', '.join(passed)}: give it "
            "in perturb_func_kwargs"
        )
    return convention


def markdown_table() -> str:
    """Return the table of functions, paths and metrics in the documentation."""
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
