"""The base of every metric: Quantus's call in, checked tensors to the metric, floats out."""

from __future__ import annotations

import copy
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from quantus.functions.normalise_func import normalise_by_max
from quantus.helpers.enums import DataType, ModelType
from quantus.metrics.base import Metric
from torch import Tensor, nn
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter, adapter_of
from quantus_ext.batch import Batch, Call, Explainer, counted
from quantus_ext.draws import FEWEST, AutoDraws, Draws
from quantus_ext.engine import sampling, shared
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.modules import NoModel
from quantus_ext.engine.plan import Execution, ExecutionArguments, Plan
from quantus_ext.engine.spaces import SPACES, Space
from quantus_ext.engine.turns import asks_its_model
from quantus_ext.explanations import ExplainCall, Explanation, alike
from quantus_ext.flags import Cuts
from quantus_ext.functional.scores import Scores
from quantus_ext.map_scores import MapScores
from quantus_ext.samples import Samples
from quantus_ext.scoring import Scoring
from quantus_ext.shown import ShownByArguments
from quantus_ext.spaces import Fit

if TYPE_CHECKING:
    from quantus_ext.card import Card


class CommonArguments(ExecutionArguments, total=False):
    """Constructor arguments of every metric; see :class:`TorchMetric`."""

    abs: bool
    normalise: bool
    normalise_func: Callable[..., np.ndarray] | None
    normalise_func_kwargs: dict[str, Any] | None
    return_aggregate: bool
    aggregate_func: Callable[..., Any] | None
    default_plot_func: Callable[..., Any] | None
    disable_warnings: bool
    display_progressbar: bool
    seed: int | None


class TorchMetric(ShownByArguments, Metric[list[float]]):
    """A Quantus metric that evaluates whole batches of draws on the model's device.

    Threads may share a metric: each call returns its own scores. The attributes set by calls are
    those of the call that ended last.

    Parameters
    ----------
    abs : bool, default False
        Take absolute attributions.
    normalise : bool, optional
        Normalise the attributions of each sample separately, before ``abs``; a map of zeros stays.
        By default only if one of the next two is given.
    normalise_func : callable, optional
        Quantus's ``normalise_by_max`` by default.
    normalise_func_kwargs : dict, optional
        Keyword arguments for ``normalise_func``.
    return_aggregate : bool, default False
        Return one aggregated score instead of one per sample.
    aggregate_func : callable, optional
        ``numpy.mean`` by default.
    default_plot_func : callable, optional
        Used by ``plot``.
    disable_warnings, display_progressbar : bool, default False
        As in Quantus.
    seed : int or None, default 0
        Every draw is a function of the seed and the sample's index. None draws anew in each call.
    chunk_size : int, optional
        Rows per forward pass. By default chosen from the widest activation of the model.
    plan : Plan or "calibrate", optional
        Rows per forward pass and memory layout: a :class:`~quantus_ext.engine.plan.Plan`, or
        measured once per model and input shape, in a few seconds. The default rule does not measure
        time, so the same call gives the same bits.
    precision : {"float32", "bfloat16", "float16", "auto"}, default "float32"
        Precision of the forward passes, by autocast; ``"auto"`` is bfloat16 if the device computes
        in it. In low precision, scores differ by rounding, also with the number of rows per pass.
    compile : bool, default False
        Compile the model with frozen weights, for long runs; a warning says if it does not pay.
        Needs a C++ compiler on a CPU.

    Attributes
    ----------
    standard_errors : numpy.ndarray, shape (n,)
        After a call: the Monte-Carlo standard error of each score; 0 if nothing is random, NaN if
        the model itself is.
    details : dict of numpy.ndarray
        After a call: further results of the same evaluations.
    n_evaluations : int
        After a call: rows sent through the model for the scores. For k classes of each sample an
        array (k,): the rows of each class, as if it were asked alone.
    plan : Plan or None
        After a call: the rows per forward pass and the layout that were used, to be stored and
        passed again.
    draws : Draws or None
        After a call: how many draws a pilot found to be enough, and why, if it was asked for.
    """

    data_applicability = set(DataType)  # noqa: RUF012 - as Quantus declares it
    model_applicability = {ModelType.TORCH}  # noqa: RUF012
    default_softmax: ClassVar[bool] = False
    clean_rows: ClassVar[int | None] = None
    """How many of a batch's clean outputs ``evaluate_batch`` needs, None for all. With 0 a call
    needs no model, unless the metric asks it by itself."""
    asks_model: ClassVar[bool] = True
    """Whether scores depend on what the model answers."""
    reads_values: bool = True
    """Whether scores depend on the outputs' values, not only on which of them is the largest."""
    score_range: tuple[float, float] = (-inf, inf)
    """Between which scores lie; of metrics that read values where these are probabilities."""
    max_difference: float = inf
    """How far apart the scores of two maps of one sample can be, in that range, where that is less
    than its width: what the scores have in common does not differ."""
    draws_argument: ClassVar[str] = "n_samples"
    """The attribute that says how many draws a sample has."""
    auto_draws: AutoDraws | None = None
    """How a pilot finds the number of draws; None where the caller gives it."""
    reads_labels: ClassVar[bool] = True
    """Whether scores depend on the explained classes."""
    custom_is_index: bool = True
    """Whether ``custom_batch`` is another name of ``index_batch``."""
    computes_spaces: bool = True
    """Whether scores can read log-probabilities and contrasts."""
    over_embeddings: bool = False
    """Whether a model of token ids is asked about their embeddings."""
    carries_entries: ClassVar[bool] = True
    """Whether what a model's keywords have for each sample goes along with its rows."""
    nan_reason: ClassVar[str] = "the model's outputs for them are not all finite"
    _shown_defaults: ClassVar[Mapping[str, Any]] = {
        **asdict(Execution()),
        "seed": 0,
        "abs": False,
        "normalise": False,
        "normalise_func": normalise_by_max,
        "normalise_func_kwargs": {},
        "return_aggregate": False,
        "aggregate_func": np.mean,
        "default_plot_func": None,
        "display_progressbar": False,
    }

    def __init__(self, **common: Unpack[CommonArguments]) -> None:
        settings = dict(common)
        self.seed = checks.seed(settings.pop("seed", 0))
        execution = {name: settings.pop(name) for name in _EXECUTION & settings.keys()}
        self.execution = Execution(**execution)  # type: ignore[arg-type]
        unknown = sorted(set(settings) - set(_QUANTUS_DEFAULTS))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}")
        _check_common(settings)
        # A normalise_func implies normalise=True, as in Quantus.
        says_how = {"normalise_func", "normalise_func_kwargs"} & settings.keys()
        settings.setdefault("normalise", any(settings[name] is not None for name in says_how))
        super().__init__(**{**_QUANTUS_DEFAULTS, **settings})
        self.standard_errors: np.ndarray = np.empty(0)
        self.details: dict[str, np.ndarray] = {}
        self.n_evaluations: int | np.ndarray = 0
        self.plan: Plan | None = None
        self.draws: Draws | None = None

    def _shown_argument(self, name: str) -> Any:
        if name == self.draws_argument and self.auto_draws is not None:
            return "auto" if self.auto_draws == AutoDraws() else self.auto_draws
        return getattr(self.execution if name in _EXECUTION else self, name)

    def __call__(
        self,
        model: nn.Module | None,
        x_batch: np.ndarray | Tensor,
        y_batch: np.ndarray | Tensor | None,
        a_batch: np.ndarray | Tensor | None = None,
        s_batch: np.ndarray | Tensor | None = None,
        channel_first: bool | None = None,
        explain_func: Callable[..., Any] | None = None,
        explain_func_kwargs: Mapping[str, Any] | None = None,
        model_predict_kwargs: Mapping[str, Any] | None = None,
        softmax: bool | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        custom_batch: np.ndarray | None = None,
        index_batch: np.ndarray | Tensor | None = None,
        *,
        output: Space | None = None,
        other_class: int | np.ndarray | Tensor | None = None,
    ) -> list[float]:
        """Score explanations.

        Parameters
        ----------
        model : torch.nn.Module
            Returns outputs of shape (n, classes); see :mod:`quantus_ext.adapters` for other models.
            It must be in evaluation mode, at the latest when ``explain_func`` has computed the
            first attributions. None if neither the metric nor the rest of the call evaluates it.
        x_batch : array, tensor, data frame or list
            Inputs, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W); or token ids (n, L)
            for a :class:`quantus_ext.adapters.TokenIds`.
        y_batch : array or tensor of int, shape (n,), (n, 1) or (n, k)
            Explained classes, also as whole-number floats; None for the model's predictions. With
            k different classes of each sample, ``a_batch`` has their maps.
        a_batch : array or tensor, optional
            Attributions, in the shape of ``x_batch`` or with one channel or none; for k classes of
            each sample (n, k, …), with an axis of channels where ``x_batch`` has one.
        s_batch : array or tensor, optional
            Segmentations, for metrics that use them.
        channel_first : bool, optional
            False for (n, H, W, C) and (n, T, C). By default True, and ambiguous shapes are an
            error; see the page on modalities.
        explain_func : callable, optional
            Computes the attributions, batch by batch, if ``a_batch`` is None.
        explain_func_kwargs, model_predict_kwargs : mapping, optional
            Keyword arguments of ``explain_func`` and of the model. Those of the model are shared by
            all samples, or have one entry per sample along the first axis; see
            :class:`quantus_ext.adapters.PerSample`.
        softmax : bool, optional
            Use probabilities instead of logits; None for the metric's default.
        device : str or torch.device, optional
            Must be the model's.
        batch_size : int, default 64
            Samples evaluated together. No draw depends on it.
        custom_batch : array of int, optional
            Another name of ``index_batch``, for Quantus's batching.
        index_batch : array of int, shape (n,), optional
            Global indices of the samples, by default 0, …, n - 1. With its indices, a part of a
            data set gets the same scores as in the whole.
        output : {"logit", "probability", "log_probability", "contrast"}, optional
            What of the explained class is scored; ``"contrast"`` is the difference of its logit
            and that of another class. By default as ``softmax`` says. A warning says if the maps
            clearly explain another of these; see ``details["space"]``.
        other_class : int, or array of int, shape (n,), optional
            The other class of ``"contrast"``; by default the one with the largest output besides.

        Returns
        -------
        list of float
            n scores, or one with ``return_aggregate``. For k classes n lists of k scores, each the
            score of its class asked alone, or k aggregates; ``standard_errors`` and ``details``
            have the shape (n, k, …). Infidelity asks one set of rows for all classes.

        Raises
        ------
        ValueError, TypeError
            If an argument is invalid; the results of the previous call stay.
        """
        k = checks.n_classes(x_batch, y_batch, a_batch)
        if k is not None:
            self.refuse_several_classes("y_batch")
            adapter = adapter_of(checks.module("model", self._model(model, [a_batch])))
            classes = checks.targets(adapter.encoded_labels(y_batch), len(x_batch), k)
        maps = [a_batch] if k is None else [a_batch[:, place] for place in range(k)]  # type: ignore[index]

        explainer = (explain_func, explain_func_kwargs)
        # Not a function of its own: warnings name the line of this call.
        score = partial(
            self.score_maps,
            model,
            x_batch,
            s_batch=s_batch,
            channel_first=channel_first,
            model_predict_kwargs=model_predict_kwargs,
            softmax=softmax,
            device=device,
            batch_size=batch_size,
            custom_batch=custom_batch,
            index_batch=index_batch,
            output=output,
            other_class=other_class,
        )
        if k is None or self.takes_classes:
            explainers = [explainer] * len(maps)
            found = score(y_batch, maps, explainers=explainers, by_class=k is not None)
        else:
            parts = [
                score(y, [a], explainers=[explainer]) for y, a in zip(classes.T, maps, strict=True)
            ]
            found = MapScores.of_groups(parts, [[place] for place in range(k)])

        def of_samples(values: np.ndarray) -> np.ndarray:
            return values[0] if k is None else np.moveaxis(values, 0, 1)

        self.standard_errors = of_samples(found.standard_errors)
        self.details = {name: of_samples(values) for name, values in found.details.items()}
        counts = found.n_evaluations
        self.n_evaluations = int(counts[0]) if k is None else counts
        self.plan = found.plan
        self.draws = found.draws
        if found.scored is not None and not self._disable_warnings:
            _warn_of_spaces(found.details["space"], found.scored, by_class=k is not None)
        scores: list[Any] = of_samples(found.scores).tolist()
        if self.return_aggregate:
            scores = [self.aggregate_func(each.tolist()) for each in found.scores]
        self.evaluation_scores = scores
        self.all_evaluation_scores.extend(scores)
        return scores

    @asks_its_model
    def score_maps(
        self,
        model: nn.Module | None,
        x_batch: Any,
        y_batch: Any,
        maps: Sequence[np.ndarray | Tensor | None],
        s_batch: np.ndarray | Tensor | None = None,
        *,
        channel_first: bool | None = None,
        explainers: Sequence[ExplainCall] | None = None,
        carry_inputs: Sequence[bool | None] | None = None,
        model_predict_kwargs: Mapping[str, Any] | None = None,
        softmax: bool | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 64,
        custom_batch: Any = None,
        index_batch: np.ndarray | Tensor | None = None,
        by_class: bool = False,
        output: Space | None = None,
        other_class: int | np.ndarray | Tensor | None = None,
    ) -> MapScores:
        """Score several explanations of the same predictions with shared evaluations.

        Each gets the same scores as in a call of its own: all use the same draws, and outputs of
        the model are reused.

        Parameters
        ----------
        model, x_batch, y_batch, s_batch, channel_first, model_predict_kwargs, softmax, device, \
        batch_size, custom_batch, index_batch, output, other_class
            As in a call; there is no warning of maps that explain something else.
        maps : sequence of array or None
            Attributions, each as ``a_batch``; None if an explainer computes them.
        explainers : sequence of (callable or None, mapping or None), optional
            The ``explain_func`` and ``explain_func_kwargs`` of each map.
        carry_inputs : sequence of bool or None, optional
            Whether each map includes the input as a factor, as for Integrated Gradients and SHAP,
            for metrics with ``multiply_by_inputs``; None for the metric's setting.
        by_class : bool, default False
            Whether ``y_batch`` has a column for each map, its class; for Infidelity.

        Returns
        -------
        MapScores
            Nothing is stored on the metric.

        Raises
        ------
        ValueError, TypeError
            If an argument is invalid.

        Examples
        --------
        >>> import torch
        >>> from quantus_ext import Infidelity
        >>> model, x = torch.nn.Linear(6, 2).eval(), torch.rand(3, 6)
        >>> gradient = model.weight.detach()[[0, 0, 0]]
        >>> metric, y = Infidelity(perturb_baseline=0.0), torch.tensor([0, 0, 0])
        >>> found = metric.score_maps(model, x, y, [gradient, 2 * gradient, -gradient])
        >>> found.scores.shape, bool((found.scores[0] < found.scores[1:]).all())
        ((3, 3), True)
        """
        batch_size = checks.positive_integer("batch_size", batch_size)
        channel_first = checks.optional(checks.flag, "channel_first", channel_first)
        softmax = checks.optional(checks.flag, "softmax", softmax)
        softmax = self._checked_output(softmax, output, other_class)
        model_predict_kwargs = checks.optional(
            checks.mapping, "model_predict_kwargs", model_predict_kwargs
        )
        if len(maps) == 0:
            raise ValueError("maps must hold at least one explanation of the samples, is empty")
        if checks.flag("by_class", by_class) and not self.takes_classes:
            raise ValueError(
                f"by_class must be False for {self}, which scores maps of one class at a time: "
                "call it for each class"
            )
        model = self._model(model, maps)
        adapter = adapter_of(model)
        maps = [a if a is None else adapter.in_order("a_batch", a, x_batch) for a in maps]
        seed = sampling.fresh_seed() if self.seed is None else self.seed
        made_by = [
            Explainer.of_call(*each, device, seed)
            for each in explainers or [(None, None)] * len(maps)
        ]
        metric = self.for_call(
            Call(
                model=model,
                model_predict_kwargs=model_predict_kwargs,
                softmax=softmax,
                output=output,
                device=device,
                custom_batch=custom_batch,
                has_attributions=all(a is not None for a in maps),
                is_part=index_batch is not None,
            )
        )
        if custom_batch is not None and metric.custom_is_index:
            if index_batch is not None:
                raise ValueError("index_batch and custom_batch mean the same: pass one of them")
            index_batch = custom_batch
        samples = Samples.of_call(
            model,
            x_batch,
            y_batch,
            s_batch,
            channel_first=channel_first,
            model_predict_kwargs=model_predict_kwargs,
            device=device,
            index_batch=index_batch,
            # Explanation functions may call eval() themselves, like those of Quantus.
            may_be_told=y_batch is not None
            and any(
                a is None and callable(explain.function)
                for a, explain in zip(maps, made_by, strict=True)
            ),
            n_classes=len(maps) if by_class else None,
        )
        if not metric.custom_is_index:
            checks.rows_for_samples("custom_batch", custom_batch, len(samples.x))
        explanations = Explanation.of_call(maps, made_by, carry_inputs, samples, batch_size)
        samples = samples.with_keywords_read(batch_size, carries_entries=metric.carries_entries)
        draws = None
        scoring = Scoring(
            samples,
            softmax,
            batch_size,
            output,
            None if other_class is None else checks.other_classes(other_class, len(samples.x)),
        )
        alone = len(alike(explanations)) == 1 and metric.auto_draws is None
        with nullcontext() if alone or shared.current() else shared.answers_shared():
            if metric.auto_draws is not None:
                draws = scoring.pilot(metric, explanations)
                metric = metric.with_draws(draws.n)
            found = scoring.scores(metric, explanations)
        self.keep_of(metric)
        unknown = np.flatnonzero(~np.isfinite(found.scores).all(0))
        if len(unknown):
            warnings.warn(
                f"scores of samples {samples.index[unknown].tolist()} are not finite: "
                f"{self.nan_reason}",
                RuntimeWarning,
                stacklevel=4,
            )
        return replace(found, draws=draws)

    def refuse_several_classes(self, argument: str) -> None:
        """Raise ValueError where several classes of each sample would be learnt as labels."""
        if self.learns_labels:
            raise ValueError(
                f"{argument} must have one class of each sample for {self}, which trains a model "
                "with the explained classes as labels: give it data to train with, such as "
                "fine_tune=FineTuner(x_train, y_train)"
            )

    def _model(self, model: nn.Module | None, maps: Sequence[object]) -> nn.Module:
        """Return the model of a call, or what stands for it where none is needed."""
        if model is None and self.clean_rows == 0:
            if any(a is None for a in maps):
                raise TypeError("a_batch must hold attributions where model is None, is None")
            return NoModel(self.name)
        return checks.module("model", model)

    def _checked_output(
        self, softmax: bool | None, output: Space | None, other_class: object
    ) -> bool | None:
        """Return ``softmax`` as ``output`` says; raise ValueError where they don't go together."""
        if other_class is not None and output != "contrast":
            raise ValueError(
                f'other_class needs output="contrast", output is {output!r}: leave other_class out'
            )
        if output is None:
            return softmax
        checks.one_of("output", output, SPACES)
        if softmax is not None and softmax != (output == "probability"):
            raise ValueError(f"softmax={softmax} contradicts output={output!r}: leave softmax out")
        if not self.computes_spaces and output not in ("logit", "probability"):
            raise ValueError(
                f"output must be 'logit' or 'probability' for {self}, which asks the model in its "
                f"own way, is {output!r}"
            )
        return output == "probability"

    def scored_space(
        self, adapter: Adapter, softmax: bool | None, output: Space | None = None
    ) -> Space:
        """Return the space in which the output is read.

        Parameters
        ----------
        adapter : Adapter
            The model's.
        softmax, output
            As in a call.
        """
        if output is not None:
            if output == "logit" and adapter.own_softmax:
                raise ValueError(
                    f"output must not be 'logit' for a {type(adapter).__name__} that gives "
                    "probabilities, of which logits are not known"
                )
            if output == "probability" and not (adapter.own_softmax or adapter.one_softmax):
                raise ValueError(
                    f"output must be 'logit' for a {type(adapter).__name__} whose outputs are not "
                    "scores of classes of which one is right"
                )
            return output
        is_taken = self.takes_softmax(adapter, softmax)
        return "probability" if is_taken or adapter.own_softmax else "logit"

    def takes_softmax(self, adapter: Adapter, softmax: bool | None) -> bool:
        """Return whether probabilities are asked for."""
        can_be_taken = adapter.one_softmax and not adapter.own_softmax
        if softmax is None:
            return self.default_softmax and can_be_taken
        if softmax and not can_be_taken:
            why = (
                "that gives probabilities"
                if adapter.own_softmax
                else "whose outputs are not scores of classes of which one is right"
            )
            raise ValueError(f"softmax must be False for a {type(adapter).__name__} {why}")
        return softmax

    def bounds(
        self, adapter: Adapter, softmax: bool | None, output: Space | None = None
    ) -> tuple[float, float] | None:
        """Return between which scores of a model lie, whatever its inputs; None for no bounds.

        Parameters
        ----------
        adapter : Adapter
            The model's.
        softmax, output
            As in a call.
        """
        space = self.scored_space(adapter, softmax, output)
        known = not self.reads_values or space == "probability"
        return self.score_range if known and all(map(isfinite, self.score_range)) else None

    @property
    def most_draws(self) -> int:
        """The draws of a sample, or the most of them."""
        return int(getattr(self, self.draws_argument))

    @property
    def fewest_draws(self) -> int:
        """The fewest draws of a sample from which a standard error is known."""
        return FEWEST

    def known_draws(self) -> Draws | None:
        """Return how many draws are enough, where that is known without a pilot."""
        rows = self.evaluations_a_sample
        if self.auto_draws is None:
            return None
        rows_a_draw = None if rows is None else (rows - 1) / self.most_draws
        return self.auto_draws.without_pilot(rows_a_draw, fewest=self.fewest_draws)

    def with_draws(self, n: int) -> TorchMetric:
        """Return a copy that makes so many draws, in place of asking a pilot."""
        other = copy.copy(self)
        setattr(other, self.draws_argument, n)
        other.auto_draws = None
        return other

    def with_auto_draws(self, auto: AutoDraws) -> TorchMetric:
        """Return a copy whose number of draws is found so."""
        other = copy.copy(self)
        other.auto_draws = auto
        return other

    def for_call(self, call: Call) -> TorchMetric:
        """Return the metric that scores a call, by default a copy.

        What it keeps of the call is on the copy, so that a call in another thread neither sees nor
        spoils it.

        Parameters
        ----------
        call : Call
            What the call is given beside samples and maps.
        """
        return copy.copy(self)

    def keep_of(self, scored: Any) -> None:
        """Keep what a call has left on the metric that scored it; by default nothing.

        Parameters
        ----------
        scored : TorchMetric
            What :meth:`for_call` returned.
        """

    def reading(self, carry_inputs: bool | None) -> TorchMetric:
        """Return the metric that reads maps as carrying the input factor, or as not.

        By default a metric does not care, and is returned itself.

        Parameters
        ----------
        carry_inputs : bool or None
            None for what the metric says.
        """
        return self

    def plot(
        self,
        plot_func: Callable[..., Any] | None = None,
        show: bool = True,
        path_to_save: str | os.PathLike[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw, save and show a figure of the last call, in this order, so that no file is blank.

        Parameters
        ----------
        plot_func : callable, optional
            Draws it: on pyplot's current figure, or on one of its own whose axes it returns, as
            those of :mod:`quantus_ext.plotting`, which get the metric itself. By default the
            metric's ``default_plot_func``, or :func:`quantus_ext.plotting.plot_metric`.
        show : bool, default True
            Show it in a window or notebook; otherwise nothing is shown.
        path_to_save : str or path, optional
            Where it is saved, at 400 dots an inch.
        *args, **kwargs
            Of ``plot_func``.

        Raises
        ------
        ValueError
            If the metric has not been called, or nothing was drawn.

        Examples
        --------
        >>> import tempfile, torch
        >>> from quantus_ext import MoRF
        >>> model, x = torch.nn.Linear(4, 2).eval(), torch.rand(3, 4)
        >>> metric = MoRF(4)
        >>> scores = metric(model, x, torch.tensor([0, 1, 0]), x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     metric.plot(show=False, path_to_save=f"{folder}/curve.png")
        """
        from quantus_ext.plotting import figures, plot_metric

        chosen = plot_func or self.default_plot_func or plot_metric
        if not args and figures.takes_metric(chosen):
            kwargs.setdefault("metric", self)
        figures.draw(chosen, *args, show=show, path_to_save=path_to_save, **kwargs)

    def to_frame(self) -> pd.DataFrame:
        """Return the last call as a table with one row per sample.

        Its columns are ``score``, ``standard_error``, and of ``details`` those with one value per
        sample; a ``score`` among these is called ``details_score``.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ValueError
            If the metric has not been called, or only has an aggregated score.

        Examples
        --------
        >>> import torch
        >>> from quantus_ext import MoRF
        >>> model, x = torch.nn.Linear(4, 2).eval(), torch.rand(3, 4)
        >>> metric = MoRF(4)
        >>> scores = metric(model, x, torch.tensor([0, 1, 0]), x)
        >>> metric.to_frame().columns.tolist()[:2]
        ['score', 'standard_error']
        """
        scores, n = self.evaluation_scores, len(self.standard_errors)
        if n == 0 or len(scores) != n:
            raise ValueError(
                f"{self.name} has no score for each sample: call it, with return_aggregate=False"
            )
        columns = {"score": np.array(scores), "standard_error": self.standard_errors}
        for name, values in self.details.items():
            if values.shape == (n,):
                # The details of a comparison have a score too, that of the explanation alone.
                columns[f"details_{name}" if name in columns else name] = values
        return pd.DataFrame(columns, index=pd.RangeIndex(n, name="sample"))

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return the model that evaluates the perturbed inputs, by default the explained one.

        Parameters
        ----------
        model : torch.nn.Module
            The explained model, with ``model_predict_kwargs`` filled in.
        x : Tensor, shape (n, F), (n, C, T), (n, C, H, W) or (n, C, D, H, W)
            All inputs of the call.
        y : Tensor, int64, shape (n,)
            Explained classes.
        """
        return model

    def card(self) -> Card:
        """Return what the metric's numbers mean: direction, range, unit, limits and so on.

        Examples
        --------
        >>> from quantus_ext import RFidelity
        >>> card = RFidelity(score="minus").card()
        >>> card.direction, card.score_range, card.space, card.linear.exact
        ('lower', (-1.0, 1.0), 'label', 0.28)
        """
        from quantus_ext.card import card_of

        return card_of(self)

    @property
    def evaluations_a_sample(self) -> int | None:
        """Rows through the model for a sample's score, at most; None if that is not known."""
        return None

    @property
    def takes_classes(self) -> bool:
        """Whether maps of different classes are scored on one set of evaluations."""
        return False

    @property
    def trains(self) -> bool:
        """Whether a call has a model trained that it asks in place of the explained one."""
        return False

    @property
    def learns_labels(self) -> bool:
        """Whether a model is trained with the explained classes as labels."""
        return False

    def settled(self, model: nn.Module, x: Tensor, y: Tensor, *, train: bool = True) -> TorchMetric:
        """Return the metric to call on parts of a data set so that it scores as on the whole.

        What it trains is trained here, once; by default it trains nothing and is returned itself.

        Parameters
        ----------
        model, x, y
            As in :meth:`model_to_ask`, for the whole set.
        train : bool, default True
            False: an untrained model stands in, for estimates of what a call costs.
        """
        return self

    def elements(self, batch: Batch) -> Elements | None:
        """Return what the metric compares as one variable; QGE's references exchange their values.

        By default every value of a map by itself, as far as maps have one for each of the
        inputs' values; the columns that make one feature of a table are one. None for every value
        of a map, whatever the inputs.

        Parameters
        ----------
        batch : Batch
        """
        by_value = batch.x.ndim > 2 and batch.maps.shape[2] == batch.x.shape[1]
        element = "channel_value" if by_value else "position"
        return elements_of(batch.x, element, features=batch.features)

    def cuts(self, batch: Batch) -> Cuts | None:
        """Return where scores cut the rankings of maps; None, as by default, if they rank none.

        Parameters
        ----------
        batch : Batch
        """
        return None

    def at_positions(self, a: Tensor, x: Tensor, s: np.ndarray | Tensor | None) -> Tensor:
        """Return maps that have one value an element with a value at each position.

        By default as they are: only a metric that removes elements knows what these are.

        Parameters
        ----------
        a : Tensor
            Attributions, not checked yet.
        x : Tensor, shape (n, \\*sample)
        s : array or tensor, optional
            Segmentations.
        """
        return a

    def seen(self, a: Tensor) -> Tensor:
        """Return the maps of a batch as the metric's formula sees them; as they are, by default.

        For what depends on the whole batch, as Quantus's normalisation does.
        """
        return a

    @abstractmethod
    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """Score one batch.

        Parameters
        ----------
        forward : Forward
            The model that answers.
        batch : Batch
            The samples and m explanations of each.

        Returns
        -------
        Scores
            Of each explanation, shape (m, n).
        """

    def checked_maps(
        self,
        a: Tensor,
        x: Tensor,
        features: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> Tensor:
        """Return checked attributions with a channel axis.

        ``index`` has the samples' numbers, for errors. What ``features`` leaves out of
        every element becomes 0, so that no normalisation looks at it.
        """
        has_element = None if features is None else counted(features, x)
        return checks.attributions(a, x, index=index, counted=has_element)

    def prepared_maps(
        self,
        a: Tensor,
        x: Tensor,
        features: Tensor | None = None,
        *,
        index: Tensor | None = None,
    ) -> Tensor:
        """Return attributions that are checked, and normalised and absolute if asked."""
        return self.normalised_maps(self.checked_maps(a, x, features, index=index), index=index)

    def normalised_maps(self, a: Tensor, *, index: Tensor | None = None) -> Tensor:
        """Return checked attributions, normalised and absolute if asked.

        In double precision, whatever the model computes in: maps are ranked and summed, and what
        differs in its last digits differs.
        """
        a = a.double()
        if self.normalise and self.normalise_func is not None:
            # One sample at a time: Quantus's functions divide by the maximum of what they get.
            maps = a.cpu().numpy()
            normalised = [
                self.normalise_func(maps[i : i + 1].copy()) if maps[i].any() else maps[i : i + 1]
                for i in range(len(maps))
            ]
            a = torch.from_numpy(np.concatenate(normalised)).to(a)
            checks.all_finite("a_batch after normalise_func", a, index)
        return a.abs() if self.abs else a


def _warn_of_spaces(shares: np.ndarray, scored: Space, *, by_class: bool) -> None:
    """Warn, of the first map that fits another space clearly better, from shares (m, n, 4)."""
    for place, own in enumerate(shares):
        fit = Fit.of(own)
        if fit.better_than(scored):
            which = f"a_batch[:, {place}]" if by_class else "a_batch"
            warnings.warn(f"{which} {fit.warning(scored)}", UserWarning, stacklevel=3)
            return


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("abs", "normalise", "return_aggregate"), checks.flag),
    **dict.fromkeys(("disable_warnings", "display_progressbar"), checks.flag),
}
_OPTIONAL: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("normalise_func", "aggregate_func", "default_plot_func"), checks.function),
    "normalise_func_kwargs": checks.mapping,
}


def _check_common(settings: dict[str, Any]) -> None:
    """Check the arguments of Quantus's own, in place."""
    for name in settings:
        if name in _CHECKS:
            settings[name] = _CHECKS[name](name, settings[name])
        elif name in _OPTIONAL:
            settings[name] = checks.optional(_OPTIONAL[name], name, settings[name])


_EXECUTION = frozenset(ExecutionArguments.__annotations__)
_QUANTUS_DEFAULTS: dict[str, Any] = {
    "abs": False,
    "normalise": False,
    "normalise_func": None,
    "normalise_func_kwargs": None,
    "return_aggregate": False,
    "aggregate_func": None,
    "default_plot_func": None,
    "disable_warnings": False,
    "display_progressbar": False,
}
