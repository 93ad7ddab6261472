"""The one training loop: corrupted inputs, cross-entropy on logits, a held-out checkpoint."""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import adapter_of, input_dtype
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.global_state import seeded
from quantus_ext.engine.modules import are_probabilities, may_draw, resolve_softmax
from quantus_ext.engine.outputs import ScoresOf
from quantus_ext.engine.plan import Execution, Precision
from quantus_ext.engine.progress import progress_bar
from quantus_ext.engine.turns import turns
from quantus_ext.identity import PROBES, copied

Corrupt = Callable[[Tensor, int, Tensor], Tensor]
"""(inputs, draw, indices of the samples) -> inputs to train on; a function of its arguments."""

_VALIDATION_ROWS, _VALIDATION_DRAWS = 1024, 8
"""Small held-out sets are corrupted more than once, up to so many rows or draws."""


@dataclass(frozen=True)
class Settings:
    """How to train; see :class:`quantus_ext.FineTuner`."""

    epochs: int
    lr: float
    optimiser: Callable[..., torch.optim.Optimizer]
    batch_size: int
    validation_fraction: float
    patience: int
    seed: int
    precision: Precision = "float32"
    compile: bool = False


@dataclass(frozen=True)
class TuningReport:
    """How a tuned model was got.

    Attributes
    ----------
    epochs : int
        Epochs trained.
    kept_epoch : int
        The epoch whose weights were kept.
    accuracy_before, accuracy : float
        On held-out masked training data, of the original and of the kept weights.
    seconds : float
        That the training took, then, if the model came from the cache.
    cache_hit : bool
        Whether it did.
    """

    epochs: int
    kept_epoch: int
    accuracy_before: float
    accuracy: float
    seconds: float
    cache_hit: bool = False


class Trained(NamedTuple):
    """Parameters and buffers of the chosen checkpoint by name, on the processor; and what the
    models that it was made from answered, and the masks made of their inputs.
    """  # noqa: D205 - one sentence

    state: dict[str, Tensor]
    report: TuningReport
    answers: tuple[Tensor, ...] = ()


@contextmanager
def isolated_training(device: torch.device, seed: int, *, draws: bool = True) -> Iterator[None]:
    """Record gradients in full precision, whatever the caller does, with seeded generators that
    are put back, one thread at a time. These are left alone where nothing draws from them.
    """  # noqa: D205 - one sentence
    with (
        seeded(seed % 2**32, device) if draws else nullcontext(),
        torch.inference_mode(False),  # records gradients under no_grad, too
        torch.autocast(device.type, enabled=False),
    ):
        yield


def draws_itself(*code: object) -> bool:
    """Whether there is code that is not known to draw from no global random state.

    Masks of this package have keys, and torch's optimisers draw nothing.
    """
    parts = (*code, *(each.perturbation for each in code if hasattr(each, "perturbation")))
    known = ("torch.optim.", "quantus_ext.")
    return not all(str(getattr(part, "__module__", "")).startswith(known) for part in parts)


def copy_model(model: nn.Module) -> nn.Module:
    """Return a deep copy, which shares locks, sessions and their like; or say why there is none."""
    try:
        with turns.asking(model):
            return copied(model)
    except Exception as error:
        raise ValueError(
            f"model cannot be copied, so pass a tuned model as fine_tune: {error}"
        ) from error


def as_input(x: Tensor, model: nn.Module, device: torch.device) -> Tensor:
    """Return rows on the model's device, in the type of its weights or as ids."""
    plain = x.dtype if x.is_floating_point() else torch.float64
    return x.to(device, input_dtype(model) or plain)


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    corrupt: Corrupt,
    settings: Settings,
    *,
    description: str,
    display_progressbar: bool,
) -> Trained:
    """Train a copy of a model on corrupted inputs, and choose the checkpoint on held-out ones.

    The latest epoch is kept whose accuracy on held-out corrupted data is within a standard error
    of the best. The model as it came is no candidate, and earlier epochs are not preferred: what
    is held out here was not from the training of the model that is tuned, so the fewer the steps
    the more its memory flatters it. Training stops after ``patience`` epochs without a higher
    accuracy or a lower loss.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode. It is not changed.
    x : Tensor, shape (n, \\*sample)
    y : Tensor, int64, shape (n,)
    corrupt : callable
        See :data:`Corrupt`; draw ``e`` in epoch e, from 1.
    settings : Settings
    description : str
        Of the progress bar.
    display_progressbar : bool

    Raises
    ------
    ValueError
        If inputs or labels don't fit the model, or the optimiser needs a closure.
    TypeError
        If ``settings.optimiser`` takes no learning rate or makes no optimiser.
    RuntimeError
        If the loss becomes NaN or infinite.
    """
    started = time.perf_counter()
    adapter = adapter_of(model)
    if not adapter.one_softmax:
        raise ValueError(
            "model must give scores of classes of which one is right to be trained by "
            f"cross-entropy, a {type(adapter).__name__} gives others: pass a function (model, "
            "masks) -> model that trains it, or a trained model, as fine_tune"
        )
    device = checks.resolve_device(model, None)
    draws = draws_itself(corrupt, settings.optimiser) or may_draw(model, trained=True)
    with isolated_training(device, settings.seed, draws=draws):
        work = copy_model(model)
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in work.parameters()):
            # Half precision would lose steps of a few thousandths of a weight.
            work = work.float()
        parameters = [p for p in work.parameters() if p.is_floating_point()]
        if not parameters:
            raise ValueError("model must have floating-point weights to be tuned, has none")
        for parameter in parameters:
            parameter.requires_grad_(True)
        run = _Run(work, x, y, corrupt, settings, device)
        optimiser = _optimiser(settings, parameters)
        before = run.held_out()
        if not math.isfinite(before.loss):
            raise ValueError(
                "model must give finite outputs on masked inputs, gives NaN or infinity"
            )
        best_accuracy, lowest_loss, waited = -math.inf, math.inf, 0
        epochs = range(1, settings.epochs + 1)
        with progress_bar(epochs, shown=display_progressbar, desc=description) as bar:
            for epoch in bar:
                loss = run.epoch(optimiser, epoch)
                now = run.held_out() if math.isfinite(loss) else None
                if now is None or not math.isfinite(now.loss):
                    raise RuntimeError(
                        f"training diverged: the loss is not finite in epoch {epoch} with "
                        f"lr={settings.lr}; a smaller lr may help"
                    )
                bar.set_postfix(accuracy=f"{now.accuracy:.3f}")
                # A falling loss announces gains in accuracy that a few hundred rows do not show.
                better = now.accuracy > best_accuracy or now.loss < lowest_loss
                waited = 0 if better else waited + 1
                best_accuracy = max(best_accuracy, now.accuracy)
                lowest_loss = min(lowest_loss, now.loss)
                error = _standard_error(best_accuracy, len(run.validation))
                if now.accuracy >= best_accuracy - error:
                    kept, kept_epoch, state = now, epoch, _snapshot(work)
                if waited >= settings.patience:
                    break
    if before.accuracy - kept.accuracy > error:
        warnings.warn(
            f"training lowered the accuracy on held-out masked data from {before.accuracy:.3f} to "
            f"{kept.accuracy:.3f}; a smaller lr than {settings.lr} may help",
            RuntimeWarning,
            stacklevel=4,
        )
    seconds = time.perf_counter() - started
    report = TuningReport(epoch, kept_epoch, before.accuracy, kept.accuracy, seconds)
    return Trained(state, report)


def _standard_error(accuracy: float, rows: int) -> float:
    """Return the standard error of a share of few rows, which is not 0 where all were right."""
    smoothed = (accuracy * rows + 1) / (rows + 2)
    return math.sqrt(smoothed * (1 - smoothed) / rows)


def with_weights(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of ``model`` with other weights and its own types, flags and device."""
    with torch.inference_mode(False), torch.no_grad():
        tuned = copy_model(model)
        for name, tensor in _tensors(tuned):
            tensor.copy_(state[name])
    return tuned.eval()


def predictions(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Return the model's answers, int64 on the processor."""
    forward = Forward.of_module(model, device, softmax=None)
    with turns.asking(model), torch.autocast(device.type, enabled=False):
        parts = [forward.clean(as_input(part, model, device)) for part in x.split(256)]
    return torch.cat([part.argmax(1).cpu() for part in parts])


def first_outputs(model: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Return the outputs for the first few training inputs, or say that these do not fit."""
    first = as_input(x[:PROBES], model, device)
    try:
        return Forward(ScoresOf(model)).clean(first)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"x must hold inputs of the model, samples of shape {tuple(first.shape[1:])} do "
            f"not go through it: {error}"
        ) from error


def check_labels(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise ValueError for labels of a call's samples that the model does not have.

    Before anything is trained.
    """
    checks.labels_below(y.cpu().numpy(), classes_of(model, x))


def classes_of(model: nn.Module, x: Tensor, name: str = "x_batch") -> int:
    """Return how many outputs a model has; ValueError if the first sample of x is none of its."""
    first = torch.zeros(1, dtype=torch.int64, device=x.device)
    try:
        return Forward.of_module(model, x.device, softmax=None).clean(x[:1], first).shape[1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"{name} must hold inputs of the model, a sample of shape {tuple(x.shape[1:])} does "
            f"not go through it: {error}"
        ) from error


def _optimiser(settings: Settings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    try:
        optimiser = settings.optimiser(parameters, lr=settings.lr)
    except TypeError as error:
        raise TypeError(
            f"optimiser must take parameters and lr=, as torch.optim.Adam does: {error}"
        ) from error
    if not isinstance(optimiser, torch.optim.Optimizer):
        raise TypeError(f"optimiser must return a torch.optim.Optimizer, returned {optimiser!r}")
    if isinstance(optimiser, torch.optim.LBFGS):
        raise ValueError("optimiser must take steps without a closure, which LBFGS cannot")
    return optimiser


class _HeldOut(NamedTuple):
    accuracy: float
    loss: float


class _Run:
    """A model with its data: one epoch of training, and the measure on held-out data."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        corrupt: Corrupt,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.model, self.x, self.corrupt, self.device = model, x, corrupt, device
        self.y = y.to(device)
        self.batch_size = settings.batch_size
        self.generator = torch.Generator().manual_seed(settings.seed % 2**63)
        order = torch.randperm(len(x), generator=self.generator)
        held_out = min(max(round(settings.validation_fraction * len(x)), 1), len(x) - 2)
        self.validation, self.training = order[:held_out], order[held_out:]
        # A model without its softmax is a shallow copy with a mode of its own.
        self.resolved = resolve_softmax(ScoresOf(model), False, as_input(x[:2], model, device))
        outputs = first_outputs(self.resolved, x, device)
        self.autocast_dtype = Execution(precision=settings.precision).autocast_dtype(device)
        self.forward = torch.compile(self.resolved) if settings.compile else self.resolved
        checks.labels_below(y.cpu().numpy(), outputs.shape[1], "y")
        self.gives_probabilities = bool(are_probabilities(outputs))

    def epoch(self, optimiser: torch.optim.Optimizer, draw: int) -> float:
        """Take one step a batch and return the sum of losses."""
        n = len(self.training)
        order = self.training[torch.randperm(n, generator=self.generator)]
        self.resolved.train()
        total = torch.zeros((), device=self.device)
        # Batches of near-equal size: batch norm cannot take one of a single row.
        for rows in order.tensor_split(min(-(-n // self.batch_size), n // 2)):
            optimiser.zero_grad()
            loss = F.cross_entropy(self._logits(rows, draw), self.y[rows])
            loss.backward()
            optimiser.step()
            total += loss.detach()
        return float(total)

    def held_out(self) -> _HeldOut:
        """Measure on held-out data, corrupted the same way every time."""
        self.resolved.eval()
        n = len(self.validation)
        draws = max(min(_VALIDATION_ROWS // n, _VALIDATION_DRAWS), 1)
        correct, loss = (torch.zeros((), dtype=torch.float64, device=self.device) for _ in "ab")
        with torch.no_grad():
            for rows in self.validation.split(self.batch_size):
                y = self.y[rows]
                for draw in range(draws):
                    logits = self._logits(rows, draw)
                    correct += (logits.argmax(1) == y).sum()
                    loss += F.cross_entropy(logits, y, reduction="sum")
        return _HeldOut(float(correct) / (n * draws), float(loss) / (n * draws))

    def _logits(self, rows: Tensor, draw: int) -> Tensor:
        x = self.corrupt(as_input(self.x[rows], self.model, self.device), draw, rows)
        with torch.autocast(
            self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        ):
            outputs: Tensor = self.forward(x)
        # Losses are computed in single precision at least.
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if self.gives_probabilities:
            # Probabilities from a softmax that is not a module: their logarithms are logits.
            return outputs.clamp(min=torch.finfo(outputs.dtype).tiny).log()
        return outputs


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name parameters and buffers, those included that a state dict leaves out."""
    return itertools.chain(model.named_parameters(), model.named_buffers())


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in _tensors(model)}
