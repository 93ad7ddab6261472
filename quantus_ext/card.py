"""What a metric's number means, as one record: for people, for programs and for reports."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from itertools import pairwise
from math import inf, isinf
from typing import Any, Literal

import pandas as pd
from quantus.metrics.base import Metric

from quantus_ext import checks, metrics
from quantus_ext.base import TorchMetric
from quantus_ext.facts import FACTS, UNKNOWN, Facts, LinearScores, Neighbour, Paper
from quantus_ext.foreign import Foreign
from quantus_ext.metrics.qge import better_scores
from quantus_ext.metrics.removal import RemovalMetric
from quantus_ext.metrics.removal_curves import STEPS
from quantus_ext.perturbation import resolve
from quantus_ext.shown import short

AnyMetric = Metric[Any] | type[Metric[Any]]
"""A metric, or the class of one with its default arguments."""

Space = Literal["logit", "probability", "label", "nothing", "not verified"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Card(Facts):
    """What is known of a metric: the facts, and what the metric says itself.

    Printed, it is a text; in a notebook, a table. What nobody has checked is "not verified", or
    None. Scores on the linear model, ties, evaluations and modalities are those of the default
    arguments; direction, range, space and input factor are the metric's own.

    Attributes
    ----------
    name : str
        The metric's class.
    settings : str
        The metric with the arguments that differ from the defaults.
    direction : {"higher", "lower", "not verified"}
        Which scores are better.
    score_range : (float, float) or None
        Between which scores lie; of metrics that read values where these are probabilities.
    space : {"logit", "probability", "label", "nothing", "not verified"}
        What it reads of the model's output, by default: ``softmax=`` makes logits of probabilities
        and the other way round. ``"nothing"``: a score does not depend on the output.
    **facts
        See :class:`quantus_ext.facts.Facts`.
    """

    name: str
    settings: str
    direction: str
    score_range: tuple[float, float] | None
    space: Space

    def __repr__(self) -> str:
        return "\n".join([self.settings, *(f"  {label}: {text}" for label, text in self.rows())])

    def _repr_html_(self) -> str:
        return f"<b>{escape(self.settings)}</b>{self.to_html()}"

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and texts, of which some hold code in backticks."""
        source = UNKNOWN
        if self.paper is not None:
            paper = f"{self.paper.authors}: {self.paper.title}, {self.paper.venue}"
            source = ", ".join(filter(None, [paper, self.equation]))
        return [
            ("question", self.question),
            ("a score of 0.3 says", self.reading),
            ("better", self.direction),
            ("range", f"{_interval(self.score_range)}; unit: {self.unit}"),
            ("on a linear test model, by default", _of_linear(self.linear)),
            ("formula", self.formula),
            ("source", source),
            ("differs from the source", self.departures or "no"),
            ("reads", f"{self.space} of the explained class" if self._reads else self.space),
            ("a removed element becomes, by default", self.removed),
            ("ties", self.ties),
            ("random", _of_draws(self)),
            ("evaluations per sample", _of_evaluations(self)),
            ("works with", ", ".join(self.modalities) or UNKNOWN),
            ("expects maps", _of_map(self)),
            (
                "same question elsewhere",
                "; ".join(f"`{n.name}`: {n.how}" for n in self.neighbours)
                or "none in Quantus or captum; for other libraries see docs/coming_from.md",
            ),
            ("limits", self.limits),
        ]

    @property
    def _reads(self) -> bool:
        return self.space in ("logit", "probability")

    def summary(self) -> str:
        """Return the most important of it in Markdown, on one line."""
        told = [
            *([self.question] if self.question != UNKNOWN else []),
            f"Better: {self.direction}; range: {_interval(self.score_range)}.",
        ]
        if self.linear is not None:
            told.append(
                f"On a linear model, by default, the exact map scores {bound(self.linear.exact)}, "
                f"a constant one {bound(self.linear.constant)}."
            )
        if self.limits != UNKNOWN:
            told.append(self.limits)
        return _marked(" ".join(told))

    def to_html(self) -> str:
        """Return a table."""
        cells = "".join(
            f"<tr><th>{escape(label)}</th><td>{_code(escape(text))}</td></tr>"
            for label, text in self.rows()
        )
        return f'<table class="card tex2jax_ignore"><tbody>{cells}</tbody></table>'

    def to_markdown(self) -> str:
        """Return a list under a heading."""
        lines = [f"- {_marked(f'{label}: {text}')}" for label, text in self.rows()]
        return "\n".join([f"### `{self.settings}`", "", *lines, ""])

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can hold; a bound that there is not is None."""
        found = asdict(self)
        if self.score_range is not None:
            found["score_range"] = [None if isinf(end) else end for end in self.score_range]
        return found

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_plain(), ensure_ascii=False)

    @classmethod
    def of_plain(cls, content: Mapping[str, Any]) -> Card:
        """Return the card that :meth:`to_plain` made this of, also after JSON."""
        known = {each.name for each in fields(cls)}
        given = {name: _tuples(value) for name, value in content.items() if name in known}
        if given["paper"] is not None:
            given["paper"] = Paper(**given["paper"])
        if given["linear"] is not None:
            given["linear"] = LinearScores(*given["linear"])
        if given["score_range"] is not None:
            low, high = given["score_range"]
            given["score_range"] = (-inf if low is None else low, inf if high is None else high)
        given["neighbours"] = tuple(Neighbour(*each) for each in given["neighbours"])
        return cls(**given)


def card_of(metric: AnyMetric) -> Card:
    """Return the card of a metric of this or any other package, or of a class of this one.

    Of other packages' metrics only the direction is known, and what their class says of itself.

    Parameters
    ----------
    metric : quantus.metrics.base.Metric or type

    Examples
    --------
    >>> import quantus
    >>> from quantus_ext import Infidelity
    >>> from quantus_ext.card import card_of
    >>> card = card_of(Infidelity(multiply_by_inputs=True))
    >>> card.direction, card.score_range, card.space, card.carries_input, card.linear.exact
    ('lower', (0.0, inf), 'logit', True, 0.0)
    >>> card_of(quantus.Sufficiency()).direction, card_of(quantus.Sufficiency()).score_range
    ('higher', None)
    """
    given = _checked("metric", metric)
    if isinstance(given, Foreign):
        return card_of(given.metric)
    cls = given if isinstance(given, type) else type(given)
    facts, space = _facts_of(cls), _space(given)
    if facts.around:
        inner = card_of(getattr(metrics, facts.around) if given is cls else given.metric)
        facts, space = _around(facts, inner), inner.space
    if isinstance(given, TorchMetric) and given.evaluations_a_sample is None:
        # With these arguments the number follows from the data; a constant one does not.
        known = facts.evaluations if facts.evaluations.isdigit() else UNKNOWN
        facts = replace(facts, evaluations=known)
    if isinstance(given, RemovalMetric) and resolve(given.perturb_func).random:
        facts = replace(facts, draws=True)
        if getattr(given, "n_samples", 1) > 1 and "n_samples" not in facts.evaluations:
            facts = replace(facts, evaluations=UNKNOWN)
    by_inputs = _argument(given, "multiply_by_inputs")
    if isinstance(by_inputs, bool):
        facts = replace(facts, carries_input=by_inputs)
    return Card(
        **{each.name: getattr(facts, each.name) for each in fields(Facts)},
        name=cls.__name__,
        settings=_settings(given, facts),
        direction=_direction(given),
        score_range=given.score_range if _is_own(given) else None,
        space=space,
    )


def cards(of: Iterable[AnyMetric] | None = None) -> pd.DataFrame:
    """Return what metrics mean as a table, one a row.

    Parameters
    ----------
    of : sequence of Metric, optional
        By default all metrics of this package, with their default arguments.

    Examples
    --------
    >>> import quantus_ext
    >>> table = quantus_ext.cards()
    >>> table.loc["Infidelity", ["direction", "space", "evaluations"]].tolist()
    ['lower', 'logit', '1 + n_perturb_samples']
    """
    known = [getattr(metrics, name) for name in FACTS] if of is None else checks.items("of", of)
    found = [card_of(_checked("of", metric)) for metric in known]
    names = [each.name for each in fields(Card)]
    table = pd.DataFrame([[getattr(card, name) for name in names] for card in found], columns=names)
    first = ["name", "settings", "direction", "score_range", "space"]
    return table[[*first, *(name for name in names if name not in first)]].set_index("name")


def shown_name(name: str) -> str:
    """Return the name of a metric as shown in documents; a wrapper with its inner metric."""
    around = FACTS[name].around
    return f"{name}({around}())" if around else name


def cost(name: str, **arguments: int) -> int:
    """Return a metric's evaluations per sample.

    Parameters
    ----------
    name : str
        The name of its class.
    **arguments : int
        Values of names in its card's expression that differ from the defaults. By default all
        sparsities and all steps are distinct.

    Examples
    --------
    >>> from quantus_ext.card import cost
    >>> from quantus_ext.facts import FACTS
    >>> FACTS["RFidelity"].evaluations
    '1 + 2 * sizes * n_samples'
    >>> cost("RFidelity"), cost("RFidelity", n_samples=10)
    (1901, 381)
    """
    facts = FACTS[name]
    parameters = inspect.signature(getattr(metrics, facts.around or name)).parameters
    given = {parameter.name: parameter.default for parameter in parameters.values()}
    if "sparsity" in given:
        given["sizes"] = len(given["sparsity"])
    if "steps" in given:
        given["steps"] = STEPS
    # `eval`, so that the documents print the very expression that is tested.
    return int(eval(facts.evaluations, {"__builtins__": {}}, {**given, **arguments}))


def _checked(name: str, value: object) -> Any:
    if isinstance(value, Metric) or (isinstance(value, type) and issubclass(value, Metric)):
        return value
    raise TypeError(
        f"{name} must be a Quantus metric or the class of one, is {checks.shown(value)}"
    )


def _facts_of(cls: type) -> Facts:
    """Return what is known of a class; of one of somebody else, what it says of itself."""
    if getattr(metrics, cls.__name__, None) is cls:
        return FACTS[cls.__name__]
    said = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return Facts(question=f"{' '.join(said.split())} (its own words)") if said else Facts()


def _around(facts: Facts, inner: Card) -> Facts:
    """Return what is known of a wrapper around a metric."""
    found = replace(
        facts,
        removed=inner.removed,
        draws=inner.draws,
        modalities=inner.modalities,
        carries_input=inner.carries_input,
    )
    if inner.name == facts.around:
        return found
    return replace(found, linear=None, evaluations=UNKNOWN, counted=UNKNOWN)


def _is_own(metric: object) -> bool:
    cls = metric if isinstance(metric, type) else type(metric)
    return issubclass(cls, TorchMetric)


def _space(metric: Any) -> Space:
    if not _is_own(metric):
        return UNKNOWN
    if not metric.asks_model or metric.clean_rows == 0:
        return "nothing"
    if not metric.reads_values:
        return "label"
    return "probability" if metric.default_softmax else "logit"


def _argument(metric: AnyMetric, name: str) -> object:
    """Return the value of an argument, of a class its default; None for no such argument."""
    if not isinstance(metric, type):
        return getattr(metric, name, None)
    parameter = inspect.signature(metric).parameters.get(name)
    return None if parameter is None else parameter.default


def _settings(metric: object, facts: Facts) -> str:
    if isinstance(metric, type):
        return f"{metric.__name__}({f'{facts.around}()' if facts.around else ''})"
    return short(metric)


def _direction(metric: Any) -> str:
    if _is_own(metric):
        return str(metric.score_direction.value)
    try:
        return better_scores(metric, None).value
    except ValueError:
        return UNKNOWN


def _interval(ends: tuple[float, float] | None) -> str:
    return UNKNOWN if ends is None else " to ".join(map(bound, ends))


def bound(value: float) -> str:
    """Return a bound of scores as text."""
    size = "∞" if isinf(value) else f"{abs(value):g}"
    return f"−{size}" if value < 0 else size


def _of_linear(scores: LinearScores | None) -> str:
    if scores is None:
        return UNKNOWN
    return ", ".join(
        f"{bound(value)} for {what}"
        for value, what in zip(
            scores, ("the exact map", "its negative", "a constant map", "noise"), strict=True
        )
    )


def _of_draws(card: Card) -> str:
    if card.draws is None:
        return UNKNOWN
    fixed = [
        *(["the draws"] if card.draws else []),
        *(["the order of ties"] if card.ties == "at random" else []),
    ]
    return f"the seed fixes {' and '.join(fixed)}" if fixed else "nothing, by default"


def _of_evaluations(card: Card) -> str:
    if card.evaluations == UNKNOWN:
        return UNKNOWN
    return " + ".join(filter(None, [f"`{card.evaluations}`", card.besides]))


def _of_map(card: Card) -> str:
    if card.carries_input is None:
        return "of any form" if card.modalities else UNKNOWN
    if card.carries_input:
        return "with the input as a factor, as of Integrated Gradients and SHAP"
    return (
        "without the input as a factor, as gradients; for those of Integrated Gradients or SHAP "
        "pass `multiply_by_inputs=True`"
    )


_CODE = re.compile(r"`([^`]+)`")


def _code(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", text)


def _marked(text: str) -> str:
    """Return text for Markdown, plain but for code in backticks."""
    from quantus_ext.evaluation.tables import plain

    parts = _CODE.split(text)
    shown = [f"`{part}`" if place % 2 else plain(part) for place, part in enumerate(parts)]
    between = [
        " " if part[-1:] == " " or later[:1] == " " else "" for part, later in pairwise(parts)
    ]
    return "".join(f"{part}{space}" for part, space in zip(shown, [*between, ""], strict=True))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
