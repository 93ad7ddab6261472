"""The base of every metric: Quantus's call in, checked tensors to the metric, floats out."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib import pyplot as plt
from quantus.helpers.enums import DataType, ModelType
from quantus.metrics.base import Metric
from torch import Tensor, nn
from tqdm.auto import tqdm
from typing_extensions import Unpack

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of, input_dtype
from quantus_ext.adapters.token_checks import NoCodes
from quantus_ext.batch import (
    Batch,
    Explainer,
    channels_are_first,
    check_embedding_axis,
    counted,
    features_of,
    features_of_rows,
    laid_out,
    segmentations_of,
    tensor_of,
)
from quantus_ext.engine import influence, sampling
from quantus_ext.engine.elements import Elements, elements_of
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.keywords import check_shared
from quantus_ext.engine.modules import NoModel, parts_with_mode, with_keywords, without_keywords
from quantus_ext.engine.plan import Execution, ExecutionArguments, Plan
from quantus_ext.functional.scores import Scores
from quantus_ext.plotting import figures


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


class TorchMetric(Metric[list[float]]):
    """A Quantus metric that runs on whole batches of draws, on the device of the model.

    Parameters
    ----------
    abs : bool, default False
        Take absolute attributions.
    normalise : bool, optional
        Normalise the attributions, each sample by itself, before ``abs``; a map of zeros stays.
        By default only where it is said how, by one of the next two.
    normalise_func : callable, optional
        Quantus's ``normalise_by_max`` by default.
    normalise_func_kwargs : dict, optional
        Its keywords.
    return_aggregate : bool, default False
        Return one aggregated score in place of one a sample.
    aggregate_func : callable, optional
        ``numpy.mean`` by default.
    default_plot_func : callable, optional
        Used by ``plot``.
    disable_warnings, display_progressbar : bool, default False
        As in Quantus.
    seed : int or None, default 0
        Every draw is a function of the seed and of the sample's index. None: fresh randomness.
    chunk_size : int, optional
        Rows a forward pass. By default chosen from the widest activation of the model.
    plan : Plan or "calibrate", optional
        How many rows a forward pass takes and in which layout: a
        :class:`~quantus_ext.engine.plan.Plan`, or measured once for each model and shape of inputs,
        which takes a few seconds. The rule used by default does not look at the clock, so that the
        same call gives the same bits.
    precision : {"float32", "bfloat16", "float16", "auto"}, default "float32"
        Of the forward passes, by autocast; auto is bfloat16 where the device computes in it.
        Scores then differ by its rounding, also with the number of rows a pass.
    compile : bool, default False
        Compile the model, its weights frozen, for long runs; a warning says beforehand where it
        will not pay. Needs a C++ compiler on a processor.

    Attributes
    ----------
    standard_errors : numpy.ndarray, shape (n,)
        After a call: the Monte-Carlo standard error of each score, 0 where nothing is random, NaN
        where the model itself is.
    details : dict of numpy.ndarray
        After a call: what else the same evaluations gave.
    n_evaluations : int
        After a call: rows sent through the model for the scores.
    plan : Plan or None
        After a call: how many rows a forward pass took at most, and in which layout; to be stored
        and given again.
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
    reads_labels: ClassVar[bool] = True
    """Whether scores depend on the explained classes."""
    over_embeddings: bool = False
    """Whether a model of token ids is asked about their embeddings."""
    nan_reason: ClassVar[str] = "the model's outputs for them are not all finite"

    def __init__(self, **common: Unpack[CommonArguments]) -> None:
        settings = dict(common)
        self.seed = checks.seed(settings.pop("seed", 0))
        execution = {name: settings.pop(name) for name in _EXECUTION & settings.keys()}
        self.execution = Execution(**execution)  # type: ignore[arg-type]
        unknown = sorted(set(settings) - set(_QUANTUS_DEFAULTS))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}")
        # Who says how to normalise wants it, as with Quantus's own default.
        says_how = {"normalise_func", "normalise_func_kwargs"} & settings.keys()
        settings.setdefault("normalise", any(settings[name] is not None for name in says_how))
        super().__init__(**{**_QUANTUS_DEFAULTS, **settings})
        self.standard_errors: np.ndarray = np.empty(0)
        self.details: dict[str, np.ndarray] = {}
        self.n_evaluations = 0
        self.plan: Plan | None = None

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
    ) -> list[float]:
        """Score explanations.

        Parameters
        ----------
        model : torch.nn.Module
            In evaluation mode, at the latest when ``explain_func`` has made the first
            attributions; its output has shape (n, classes). See :mod:`quantus_ext.adapters` for
            other models. None where neither the metric nor the rest of the call asks one.
        x_batch : array, tensor, data frame or list, shape (n, F), (n, C, T) or (n, C, H, W)
            Inputs; or token ids (n, L) of a :class:`quantus_ext.adapters.TokenIds`.
        y_batch : array or tensor of int, shape (n,) or (n, 1)
            Explained classes, whole floats as well; None for the model's predictions.
        a_batch : array or tensor, optional
            Attributions, of ``x_batch``'s shape or with one channel or none.
        s_batch : array or tensor, optional
            Segmentations, for the metrics that use them.
        channel_first : bool, optional
            False for (n, H, W, C) and (n, T, C). True by default; shapes that look otherwise are
            an error then, see the page on modalities.
        explain_func : callable, optional
            Makes the attributions, batch by batch, where ``a_batch`` is None.
        explain_func_kwargs, model_predict_kwargs : mapping, optional
            Keywords of ``explain_func`` and of the model; the latter shared by all samples.
        softmax : bool, optional
            Probabilities rather than logits; the metric's own default if None.
        device : str or torch.device, optional
            Must be the model's.
        batch_size : int, default 64
            Samples evaluated together. No draw depends on it.
        custom_batch : array of int, optional
            Another name of ``index_batch``, for Quantus's own batching.
        index_batch : array of int, shape (n,), optional
            Global indices of the samples, by default 0, …, n - 1. A part of a data set scores
            as within the whole when it is given its indices there.

        Returns
        -------
        list of float
            n scores, or one with ``return_aggregate``.

        Raises
        ------
        ValueError, TypeError
            If an argument breaks a rule; the metric's last results stay.
        """
        if model is None and self.clean_rows == 0:
            if a_batch is None:
                raise TypeError("a_batch must hold attributions where model is None, is None")
            model = NoModel(self.name)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, is {type(model).__name__}")
        # Functions that explain may call eval() themselves, as Quantus's own do.
        may_be_told = a_batch is None and y_batch is not None and callable(explain_func)
        is_told = may_be_told and any(part.training for _, part in parts_with_mode(model))
        if not is_told:
            checks.evaluation_mode(model)
        torch_device = checks.resolve_device(model, device)
        batch_size = checks.positive_integer("batch_size", batch_size)
        checks.on_device("x_batch", x_batch, torch_device)
        adapter = adapter_of(model)
        inputs = tensor_of("x_batch", x_batch, torch_device, input_dtype(model))
        checks.inputs(inputs)
        if channel_first is None:
            channel_first = adapter.channel_first
        if channel_first is None:
            channel_first = channels_are_first(inputs, model)
        x = inputs if channel_first or inputs.ndim == 2 else inputs.movedim(-1, 1)
        n = len(x)
        adapter.check_inputs(x)
        features = features_of(adapter, x)
        embedded = adapter.over_embeddings() if self.over_embeddings else None
        # What is explained stays x; what is perturbed may be its embeddings.
        scored = x if embedded is None else embedded.embed(x)
        y = None if y_batch is None else checks.labels(y_batch, n)
        if index_batch is not None and custom_batch is not None:
            raise ValueError("index_batch and custom_batch are one argument, both are given")
        given = next((i for i in (index_batch, custom_batch) if i is not None), np.arange(n))
        index = torch.from_numpy(checks.sample_indices(given, n)).to(torch_device)
        a = None
        if a_batch is not None:
            checks.on_device("a_batch", a_batch, torch_device)
            a = tensor_of("a_batch", a_batch, torch_device, None)
            if not channel_first and a.ndim == inputs.ndim and a.shape[:-1] == inputs.shape[:-1]:
                a = a.movedim(-1, 1)
            check_embedding_axis(a, adapter, x)
            a = self._prepared(laid_out(a, embedded), scored, features=features)
        segments = segmentations_of(s_batch)
        explain = Explainer.of_call(explain_func, explain_func_kwargs, device)
        if a is None:
            # Before anything is trained or evaluated.
            explain.require()
        first_maps = None
        if is_told and y is not None:
            labels = torch.from_numpy(y[:batch_size]).to(torch_device)
            first_maps = explain(model, x[:batch_size], labels)
            checks.evaluation_mode(model)

        probabilities = self.default_softmax and not adapter.own_softmax
        if softmax is not None:
            probabilities = softmax
        if probabilities and adapter.own_softmax:
            raise ValueError(
                f"softmax must be False for a {type(adapter).__name__} that gives probabilities"
            )

        expected = self.evaluations_a_sample

        def forward_of(module: nn.Module) -> Forward:
            return Forward.of_module(
                module,
                torch_device,
                softmax=probabilities,
                n_rows=None if expected is None else len(scored) * expected,
                **self.execution.arguments(),
            )

        # What is tuned or trained in its place takes the same keywords.
        check_shared(model, model_predict_kwargs, x, sizes=(batch_size,))
        answering = with_keywords(embedded or model, model_predict_kwargs)
        forward = forward_of(answering)
        adapter.check_answers(x, model_predict_kwargs or {})
        if embedded is not None:
            _check_embedded(with_keywords(model, model_predict_kwargs), answering, x, scored)
        known = None
        if y is None and a is not None and not self.reads_labels:
            y = np.zeros(n, dtype=np.int64)
        if y is None:
            known = forward.clean(scored)
            y = known.argmax(1).cpu().numpy()
        asked = self.model_to_ask(answering, scored, torch.from_numpy(y).to(torch_device))
        if asked is not answering:
            forward, known = forward_of(asked), None
        seed = sampling.fresh_seed() if self.seed is None else self.seed
        batches: list[Scores] = []
        answers_by_chance = False
        for start in tqdm(range(0, n, batch_size), disable=not self.display_progressbar):
            rows = slice(start, start + batch_size)
            if known is not None:
                clean = known[rows]
            elif self.clean_rows == 0:
                clean = scored.new_empty(len(scored[rows]), 0)
            else:
                clean = forward.clean(scored[rows][: self.clean_rows])
            if self.clean_rows != 0:
                checks.labels_below(y, clean.shape[1])
                if start == 0 and self.asks_model:
                    known_as = model if asked is answering else without_keywords(asked)
                    answers_by_chance = _answers_by_chance(known_as, forward, scored)
            checks.no_softmax_of_one(probabilities, clean.shape[1])
            labels = torch.from_numpy(y[rows]).to(torch_device)
            if a is None:
                made = explain(model, x[rows], labels) if first_maps is None else first_maps
                first_maps = None
            batch = Batch(
                x=scored[rows],
                y=labels,
                a=(
                    self._prepared(
                        laid_out(made, embedded),
                        scored[rows],
                        first=start,
                        features=features_of_rows(features, rows),
                    )
                    if a is None
                    else a[rows]
                ),
                s=None if segments is None else segments[rows],
                clean=clean,
                index=index[rows],
                seed=seed,
                model=model,
                explain=explain,
                features=features_of_rows(features, rows),
            )
            batches.append(self.evaluate_batch(forward, batch))
        return self._finish(batches, forward, answers_by_chance)

    def plot(
        self,
        plot_func: Callable[..., Any] | None = None,
        show: bool = True,
        path_to_save: str | os.PathLike[str] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Draw, save and show a figure, in this order, so that no file is blank.

        Parameters
        ----------
        plot_func : callable, optional
            Draws it: on pyplot's current figure, or on one of its own whose axes it returns, as
            those of :mod:`quantus_ext.plotting`. By default the metric's ``default_plot_func``.
        show : bool, default True
            Show it in a window or notebook; otherwise nothing is shown.
        path_to_save : str or path, optional
            Where it is saved, at 400 dots an inch.
        *args, **kwargs
            Of ``plot_func``.

        Raises
        ------
        ValueError
            If there is no ``plot_func``, or nothing was drawn.

        Examples
        --------
        >>> import tempfile
        >>> from quantus_ext import RFidelity, plotting
        >>> metric = RFidelity(default_plot_func=plotting.plot_scores)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     metric.plot(
        ...         show=False,
        ...         path_to_save=f"{folder}/scores.png",
        ...         names=["A"],
        ...         scores=[0.9],
        ...         errors=[0.1],
        ...         label="faithfulness",
        ...     )
        """
        chosen = self.default_plot_func if plot_func is None else plot_func
        if not callable(chosen):
            raise ValueError(f"plot_func must be callable, is {chosen!r}")
        drawn = (figures.on_pyplot(chosen) if show else chosen)(*args, **kwargs)
        figure = figures.figure_of(drawn)
        if path_to_save is not None:
            figures.save_figure(figure, path_to_save, dpi=400)
        if show:
            plt.show()

    def model_to_ask(self, model: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
        """Return the model that answers the perturbed inputs, by default the explained one.

        Parameters
        ----------
        model : torch.nn.Module
            The explained model, with the call's ``model_predict_kwargs`` filled in.
        x : Tensor, shape (n, F), (n, C, T) or (n, C, H, W)
            All inputs of the call.
        y : Tensor, int64, shape (n,)
            Explained classes.
        """
        return model

    @property
    def evaluations_a_sample(self) -> int | None:
        """Rows through the model for a sample's score, at most; None if that is not known."""
        return None

    @property
    def trains(self) -> bool:
        """Whether a call has a model trained that it asks in place of the explained one."""
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

    def elements(self, batch: Batch) -> Elements:
        """Return what the metric compares as one variable; QGE's references exchange their values.

        By default every value of a map by itself, as far as maps have one for each of the
        inputs' values; the columns that make one feature of a table are one.

        Parameters
        ----------
        batch : Batch
        """
        by_value = batch.x.ndim > 2 and batch.a.shape[1] == batch.x.shape[1]
        element = "channel_value" if by_value else "position"
        return elements_of(batch.x, element, features=batch.features)

    @abstractmethod
    def evaluate_batch(self, forward: Forward, batch: Batch) -> Scores:
        """Score one batch.

        Parameters
        ----------
        forward : Forward
            The model that answers.
        batch : Batch
            The samples and their explanations.
        """

    def _prepared(
        self, a: Tensor, x: Tensor, first: int = 0, features: Tensor | None = None
    ) -> Tensor:
        """Return checked attributions with a channel axis, normalised and absolute if asked.

        In double precision, whatever the model computes in: maps are ranked and summed, and what
        differs in its last digits differs.

        ``first`` is the index of the first sample, for errors. What ``features`` leaves out of
        every element becomes 0, so that no normalisation looks at it.
        """
        a = checks.attributions(
            a, x, first=first, counted=None if features is None else counted(features, x)
        ).double()
        if self.normalise and self.normalise_func is not None:
            # One sample at a time: Quantus's functions divide by the maximum of what they get.
            maps = a.cpu().numpy()
            normalised = [
                self.normalise_func(maps[i : i + 1].copy()) if maps[i].any() else maps[i : i + 1]
                for i in range(len(maps))
            ]
            a = torch.from_numpy(np.concatenate(normalised)).to(a)
            checks.all_finite("a_batch after normalise_func", a, first)
        return a.abs() if self.abs else a

    def _finish(
        self, batches: list[Scores], forward: Forward, answers_by_chance: bool
    ) -> list[float]:
        score, standard_error = (
            torch.cat(parts).cpu().numpy()
            for parts in zip(*((b.score, b.standard_error) for b in batches), strict=True)
        )
        self.standard_errors = standard_error
        self.details = {
            name: torch.cat([batch.details[name] for batch in batches]).cpu().numpy()
            for name in batches[0].details
        }
        if answers_by_chance:
            # What draws tell of is not all that is random.
            self.standard_errors[:] = np.nan
            for name, values in self.details.items():
                if "error" in name:
                    values[:] = np.nan
        self.n_evaluations = forward.n_evaluations
        self.plan = forward.plan
        if self.reads_values:
            forward.warn_of_second_softmax(stacklevel=3)
        unknown = np.flatnonzero(~np.isfinite(score))
        if len(unknown):
            warnings.warn(
                f"scores of samples {unknown.tolist()} are not finite: {self.nan_reason}",
                RuntimeWarning,
                stacklevel=3,
            )
        scores = [float(value) for value in score]
        if self.return_aggregate:
            scores = [self.aggregate_func(scores)]
        self.evaluation_scores = scores
        self.all_evaluation_scores.extend(scores)
        return scores


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


def _answers_by_chance(model: nn.Module, forward: Forward, x: Tensor) -> bool:
    """Return whether a model does, and warn if so or if rows influence each other.

    Parameters
    ----------
    model : torch.nn.Module
        As the caller knows it.
    forward : Forward
        Asks it, or a view of it; its plan is known.
    x : Tensor, shape (n, \\*sample)
        All inputs of the call.
    """
    if not all(getattr(module, "check_rows", True) for module in model.modules()):
        return False
    try:
        found = influence.examine(
            model,
            forward.probe,
            x,
            together=forward.chunk_size,
            precision=forward.execution.autocast_dtype(x.device),
        )
    except Exception as error:
        # A model may take batches of one size alone, and all that it is asked for scores have it.
        warnings.warn(
            f"whether rows influence each other in model is not known: it fails for a few: {error}",
            UserWarning,
            stacklevel=3,
        )
        return False
    message = found.warning(model)
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=3)
    return found.is_random


def _check_embedded(model: nn.Module, embedded: nn.Module, x: Tensor, rows: Tensor) -> None:
    """Raise ValueError unless a model answers over embeddings as it does over ids."""
    cause = None
    with torch.no_grad():
        expected = model(x[:2])
        try:
            with NoCodes():
                found = embedded(rows[:2])
        except (IndexError, RuntimeError, ValueError) as error:
            found, cause = torch.full_like(expected, torch.inf), error
    if not torch.allclose(
        expected, found, rtol=1e-2, atol=torch.finfo(expected.dtype).eps ** 0.5, equal_nan=True
    ):
        raise ValueError(
            "model must answer over embeddings as over ids, does not: it embeds tokens elsewhere "
            "than in what `embedding` names, or looks at ids besides (an end token's, say), so "
            "only perturbations of ids are possible"
        ) from cause
