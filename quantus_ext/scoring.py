"""The loop over batches: from the samples and explanations of a call to their scores."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext import draws as draws_of
from quantus_ext.batch import Batch, counted, features_of_rows
from quantus_ext.draws import Draws
from quantus_ext.engine import influence, sampling
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.modules import are_probabilities, without_keywords
from quantus_ext.engine.progress import progress_bar
from quantus_ext.engine.resolved import Answered
from quantus_ext.engine.sampling import Purpose
from quantus_ext.engine.spaces import SPACES, Space, Spaces
from quantus_ext.explanations import Explanation, alike
from quantus_ext.flags import flags_of
from quantus_ext.map_scores import MapScores
from quantus_ext.samples import Samples

if TYPE_CHECKING:
    from quantus_ext.base import TorchMetric


_NO_LOGITS = (
    "the model's outputs are probabilities (none negative, each row sums to 1), whose logits are "
    "not known: output='logit' scores the probabilities; pass output='log_probability', or "
    "softmax=False in place of output if the probabilities are meant"
)


@dataclass(frozen=True)
class Scoring:
    """The samples of a call, and how the model is asked about them.

    Attributes
    ----------
    samples : Samples
    softmax : bool or None
        As in a call.
    batch_size : int
        Samples evaluated together.
    output : str or None
        As in a call.
    other : numpy.ndarray of int, shape (n,), or None
        What the explained classes are contrasted with; None for the most probable other ones.
    """

    samples: Samples
    softmax: bool | None
    batch_size: int
    output: Space | None = None
    other: NDArray[np.int64] | None = None

    def scores(self, metric: TorchMetric, explanations: Sequence[Explanation]) -> MapScores:
        """Score maps of any shapes and readings by a metric."""
        groups = alike(explanations)
        parts = []
        for places in groups:
            some = [explanations[place] for place in places]
            reading = metric.reading(some[0].carries_input)
            alike_in_class = replace(self, samples=self.samples.for_maps(places))
            parts.append(alike_in_class._scores_alike(reading, some))
        return MapScores.of_groups(parts, groups)

    def pilot(self, metric: TorchMetric, explanations: Sequence[Explanation]) -> Draws:
        """Return how many draws the samples need, from scoring some of them twice."""
        known = metric.known_draws()
        if known is not None:
            return known
        auto = metric.auto_draws
        assert auto is not None
        n_draws = draws_of.pilot_draws(metric.most_draws)
        few = metric.with_draws(n_draws)
        samples = self.samples
        if metric.trains:
            few = few.settled(samples.answering, samples.x, samples.labels())
        places = draws_of.pilot_samples(auto.n_pilot, len(samples.x))
        other = None if self.other is None else self.other[places]
        part = replace(self, samples=samples.part(places), other=other)
        maps = [each.part(places) for each in explanations]
        seed = _seed_of(metric)
        found = []
        for own in (seed, sampling.other_seed(seed, Purpose.PILOT)):
            replicate = copy.copy(few)
            replicate.seed = own
            found.append(part.scores(replicate, maps))
        rows = float(found[0].n_evaluations.mean()) / len(places) - 1
        return auto.decide(
            *(each.scores for each in found),
            most=metric.most_draws,
            rows_a_draw=rows / n_draws,
            fewest=metric.fewest_draws,
        )

    def _scores_alike(self, metric: TorchMetric, explanations: Sequence[Explanation]) -> MapScores:
        """Score maps that have one shape and are read alike, batch by batch."""
        samples = self.samples.over_embeddings() if metric.over_embeddings else self.samples
        given = [_checked(metric, samples, each) for each in explanations]
        n, expected = len(samples.x), metric.evaluations_a_sample
        scored = metric.scored_space(samples.adapter, self.softmax, self.output)
        probabilities = scored == "probability" and not samples.adapter.own_softmax

        def forward_of(module: nn.Module) -> Forward:
            return Forward.of_module(
                module,
                samples.device,
                softmax=probabilities,
                n_rows=None if expected is None else n * expected,
                **metric.execution.arguments(),
            )

        forward = forward_of(samples.answering)
        known, y = None, samples.y
        if y is None and not metric.reads_labels and all(a is not None for a in given):
            y = np.zeros(n, dtype=np.int64)
        if y is None:
            samples.require_predictions()
            known = forward.clean_answered(samples.x, samples.numbers)
            y = known.outputs.argmax(1).cpu().numpy()
        labels = torch.from_numpy(y).to(samples.device)
        classes = y if samples.targets is None else samples.targets
        targets = None
        if samples.targets is not None:
            targets = torch.from_numpy(samples.targets).to(samples.device)
        asked = metric.model_to_ask(samples.answering, samples.x, labels)
        if asked is not samples.answering:
            forward, known = forward_of(asked), None
        seed = _seed_of(metric)
        answers_by_chance = False
        results = []
        batches = range(0, n, self.batch_size)
        for start in progress_bar(batches, shown=metric.display_progressbar):
            rows = slice(start, min(start + self.batch_size, n))
            answered = _clean(metric, forward, samples, rows)
            if known is not None:
                answered = Answered(*(None if part is None else part[rows] for part in known))
            clean = answered.outputs
            if metric.clean_rows != 0:
                checks.labels_below(classes, clean.shape[1], index=samples.index)
                if start == 0 and metric.asks_model:
                    is_own = asked is samples.answering
                    known_as = samples.model if is_own else without_keywords(asked)
                    answers_by_chance = _answers_by_chance(known_as, forward, samples)
            checks.no_softmax_of_one(probabilities, clean.shape[1])
            maps = _maps(metric, samples, explanations, given, rows, labels[rows])
            own = labels[rows] if targets is None else targets[rows]
            spaces = self._spaces(
                metric,
                answered,
                own,
                rows,
                maps if asked is samples.answering else None,
                carry_inputs=explanations[0].carries_input is not False,
            )
            batch = Batch(
                x=samples.x[rows],
                y=labels[rows],
                maps=maps,
                s=None if samples.s is None else samples.s[rows],
                clean=clean,
                index=samples.index[rows],
                numbers=samples.numbers[rows],
                seed=seed,
                model=samples.model,
                explainers=tuple(each.explainer for each in explanations),
                features=features_of_rows(samples.features, rows),
                targets=None if targets is None else targets[rows],
                spaces=spaces,
            )
            before = forward.n_evaluations
            scores = metric.evaluate_batch(forward, batch)
            scores.details["flags"] = _flags(metric, batch, probabilities=scored == "probability")
            scores.details["space"] = _unexplained(batch)
            n_clean = len(clean) if clean.shape[1] else 0
            results.append((scores, n_clean, forward.n_evaluations - before))
        if metric.reads_values:
            forward.warn_of_second_softmax(stacklevel=6)
            if self.output == "logit" and bool(are_probabilities(clean)):
                warnings.warn(_NO_LOGITS, UserWarning, stacklevel=6)
        found = MapScores.of_batches(results, forward)
        if metric.asks_model and metric.reads_values:
            found = replace(found, scored=scored)
        # The draws do not show all randomness: the model is random too.
        return found.without_errors() if answers_by_chance else found

    def _spaces(
        self,
        metric: TorchMetric,
        answered: Answered,
        labels: Tensor,
        rows: slice,
        maps: Tensor | None,
        *,
        carry_inputs: bool,
    ) -> Spaces | None:
        """Return how the outputs of a batch are read, and which maps are compared with them.

        None where there are no two classes to tell, or the metric asks the model in its own way.
        """
        clean, adapter = answered.outputs, self.samples.adapter
        computed = self.output not in (None, "logit", "probability")
        several = len(clean) == len(labels) and clean.shape[1] > 1 and adapter.one_label
        if not several or not metric.computes_spaces:
            if computed and clean.shape[1]:
                raise ValueError(
                    f"output must be 'logit' or 'probability', is {self.output!r}: the model must "
                    "give an output for each of two classes or more that exclude each other"
                )
            return None
        others = None
        if self.other is not None:
            classes = labels.cpu().numpy()
            checks.others(classes, self.other[rows], clean.shape[1], self.samples.index[rows])
            others = torch.from_numpy(self.other[rows]).to(labels.device)
            others = others if labels.ndim == 1 else others.unsqueeze(1).expand_as(labels)
        # Maps of other units than the outputs' predict none.
        in_units = not metric.normalise and not metric.abs
        is_probability = adapter.own_softmax or answered.first is not None
        return Spaces(
            answered,
            labels,
            others=others,
            probabilities=True if is_probability else None,
            output=self.output,
            maps=maps if in_units else None,
            carry_inputs=carry_inputs,
        )


def _seed_of(metric: TorchMetric) -> int:
    """Return the seed of a call, a fresh one where the metric has none."""
    return sampling.fresh_seed() if metric.seed is None else metric.seed


def _checked(metric: TorchMetric, samples: Samples, explanation: Explanation) -> Tensor | None:
    """Return a map that is given, checked; None for one that is made batch by batch."""
    if explanation.map is None:
        return None
    laid_out = metric.at_positions(samples.laid_out(explanation.map), samples.x, samples.s)
    return metric.checked_maps(laid_out, samples.x, samples.features, index=samples.index)


def _clean(metric: TorchMetric, forward: Forward, samples: Samples, rows: slice) -> Answered:
    """Return the clean outputs of a batch, as many as the metric needs."""
    x, numbers = samples.x[rows], samples.numbers[rows]
    if metric.clean_rows == 0:
        return Answered(x.new_empty(len(x), 0))
    return forward.clean_answered(x[: metric.clean_rows], numbers[: metric.clean_rows])


def _unexplained(batch: Batch) -> Tensor:
    """Return what maps leave unexplained in each space, shape (m, n, 4), NaN if not known."""
    if batch.spaces is not None and batch.spaces.compares:
        return batch.spaces.unexplained()
    shape = (*batch.maps.shape[:2], len(SPACES))
    return torch.full(shape, torch.nan, dtype=torch.float64, device=batch.x.device)


def _maps(
    metric: TorchMetric,
    samples: Samples,
    explanations: Sequence[Explanation],
    given: Sequence[Tensor | None],
    rows: slice,
    labels: Tensor,
) -> Tensor:
    """Return the maps of a batch as the metric's formula sees them, shape (m, n, …)."""
    features = features_of_rows(samples.features, rows)
    maps: Tensor | None = None
    for place, (explanation, a) in enumerate(zip(explanations, given, strict=True)):
        if a is None:
            made = explanation.of_rows(samples, rows, labels)
            segments = None if samples.s is None else samples.s[rows]
            made = metric.at_positions(made, samples.x[rows], segments)
            one = metric.prepared_maps(made, samples.x[rows], features, index=samples.index[rows])
        else:
            one = metric.normalised_maps(a[rows], index=samples.index[rows])
        # One by one, so that only one map is copied at a time.
        if maps is None:
            maps = one.new_empty(len(given), *one.shape)
        maps[place] = metric.seen(one)
    assert maps is not None
    return maps


def _flags(metric: TorchMetric, batch: Batch, *, probabilities: bool) -> Tensor:
    """Return what makes the scores of a batch arbitrary, shape (m, n)."""
    asks = metric.asks_model and metric.clean_rows != 0
    return flags_of(
        batch,
        metric.cuts(batch),
        probabilities=asks and metric.reads_values and probabilities,
        labels=asks and not metric.reads_values,
    )


def _answers_by_chance(model: nn.Module, forward: Forward, samples: Samples) -> bool:
    """Return whether a model does, and warn if so or if its outputs depend on what they should not.

    Parameters
    ----------
    model : torch.nn.Module
        As the caller knows it.
    forward : Forward
        Asks it, or a view of it; its plan is known.
    samples : Samples
        All of the call.
    """
    x, features = samples.x, samples.features
    if not all(getattr(module, "check_rows", True) for module in model.modules()):
        return False
    try:
        found = influence.examine(
            model,
            forward.probe,
            x,
            together=forward.chunk_size,
            precision=forward.execution.autocast_dtype(x.device),
            gone=None if features is None else x[:1].masked_fill(counted(features, x)[:1], 0),
            # Black boxes have no weights, and their calls may cost money.
            ask_recorded=partial(forward.probe, are_recorded=True)
            if next(model.parameters(), None) is not None
            else None,
        )
    except Exception as error:
        # A model may take batches of one size alone, and all that it is asked for scores have it.
        warnings.warn(
            f"could not check whether rows influence each other: model fails for a few: {error}",
            UserWarning,
            stacklevel=3,
        )
        return False
    for message in found.warnings(model):
        warnings.warn(message, UserWarning, stacklevel=3)
    return found.is_random
