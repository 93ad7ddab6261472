"""What ``evaluate`` says at its end: failures, spaces, constant maps, and where it was stopped."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantus_ext.evaluation.explainers import CONSTANT, named
from quantus_ext.evaluation.failure import Failure
from quantus_ext.evaluation.plan import Plan
from quantus_ext.evaluation.result import Evaluation
from quantus_ext.flags import Flag
from quantus_ext.spaces import NAMES

_MOST_TOLD = 20
"""Different errors that a warning holds."""


def warn_of_spaces(evaluation: Evaluation) -> None:
    """Say which maps clearly explain another space than one that is scored."""
    found = evaluation.spaces()
    told = [
        f"{row.explainer} by {row.metric} ({getattr(row, row.space):.2g} of the change of the "
        f"{NAMES[row.space]} unexplained, {getattr(row, row.scored):.2g} of that of the "
        f"{NAMES[row.scored]}, which is scored)"
        for row in found[found.warning].itertuples()
    ]
    if told:
        warnings.warn(
            f"maps fit another output better than what is scored: {_listed(told)}. Pass output=, "
            "or maps of what is scored; see evaluation.spaces()",
            UserWarning,
            stacklevel=3,
        )


def interrupted(store: str | Path | None) -> str:
    """Say what is left of an interrupted call, and how to go on."""
    if store is None:
        return "nothing is kept, as there is no store; with store= a call goes on where it was"
    return f"finished shards are kept in {store}, and the same call goes on from them"


def constant_maps(plan: Plan, evaluation: Evaluation) -> Iterator[str]:
    """Say of which explainers maps have one value everywhere, and why if that is known."""
    constant = (evaluation.flags & int(Flag.ZERO_MAP | Flag.CONSTANT_MAP)) > 0
    for method, count in zip(plan.methods, constant.any(1).sum(1).tolist(), strict=True):
        if count:
            why = CONSTANT.get(named(method.function, method.keywords) or "")
            yield (
                f"maps of {method.name} have the same value everywhere for {count} of "
                f"{constant.shape[2]} samples, so their scores are arbitrary, see "
                f"evaluation.flagged()" + (f": {why}" if why else "")
            )


def warn_of(failures: Sequence[Failure]) -> None:
    """Say which cells failed, and why."""
    cells: dict[tuple[str, str], dict[str, None]] = {}
    for failure in failures:
        cells.setdefault((failure.explainer, failure.error), {})[failure.metric] = None
    if not cells:
        return
    told = [
        f"{explainer} by {', '.join(metrics)} ({error})"
        for (explainer, error), metrics in cells.items()
    ]
    warnings.warn(
        "some scores are NaN, and without a rank, because of errors: "
        f"{_listed(told)}. All are in evaluation.failures, with their "
        "tracebacks",
        RuntimeWarning,
        stacklevel=3,
    )


def _listed(told: Sequence[str]) -> str:
    more = f"; and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    return f"{'; '.join(told[:_MOST_TOLD])}{more}"
