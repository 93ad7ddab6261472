"""The one place through which every metric asks the model."""

from __future__ import annotations

import itertools
import re
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import Unpack

from quantus_ext.engine import compiled, shared
from quantus_ext.engine.answers import Answers
from quantus_ext.engine.modules import (
    weight_dtype,
    with_any_rows,
    with_keywords,
    without_keywords,
)
from quantus_ext.engine.plan import (
    Execution,
    ExecutionArguments,
    Layout,
    Plan,
    autocast_in_force,
    calibrate,
    keep_freed_memory,
    out_of_memory,
    rule,
)
from quantus_ext.engine.progress import rows_sent
from quantus_ext.engine.resolved import Answered, ResolvedModel
from quantus_ext.engine.rows import belonging_to
from quantus_ext.engine.spaces import Spaces
from quantus_ext.identity import (
    content_key,
    is_doubtful,
    probe_rows,
    same_answers,
)
from quantus_ext.memory import Memory

Predict = Callable[[Tensor], Tensor]

_OF_TYPES = re.compile("dtype|data ?type|scalar type|input type", re.IGNORECASE)
"""What torch's errors about types of numbers say, and those of ONNX Runtime."""

_FIRST_CHUNK = 64
"""Rows of the very first pass, before anything is known about the model."""


_measured: Memory[Plan] = Memory(lambda _: 0, most_entries=64, most_bytes=1)
"""Calibrated plans, so that the same call takes the same way throughout a process."""


_refused: weakref.WeakKeyDictionary[nn.Module, set[tuple[int, ...]]] = weakref.WeakKeyDictionary()
"""Shapes of images that a model takes in the plain layout only."""


class _WidestTensor(TorchFunctionMode):
    """Notes the largest tensor, in bytes, that torch's functions return while the mode is on.

    A mode for dispatch would see inside functions too, and import the compiler, which takes
    seconds.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


class Forward:
    """A model as the metrics see it: rows in, ``(rows, classes)`` out, in bounded chunks.

    Gradients are off by ``torch.no_grad``: inference mode would leave tensors that autograd
    refuses in models which cache some (rotary embeddings, say), so the caller's model would change.

    Parameters
    ----------
    predict : callable
        From a tensor of rows to a tensor of shape (rows, classes).
    channels_last : bool, default False
        Try rows in channels-last layout, and go back to the plain one if the model refuses
        (``view`` on activations does).
    n_rows : int, optional
        About how many rows there will be, to tell whether compiling pays.
    **execution
        See :class:`quantus_ext.engine.plan.Execution`.

    Attributes
    ----------
    n_evaluations : int
        Rows sent through the model so far, those of calibration and compilation left out.
    plan : Plan or None
        Known after the first pass.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        channels_last: bool = False,
        n_rows: int | None = None,
        **execution: Unpack[ExecutionArguments],
    ) -> None:
        self.predict = predict
        self.n_evaluations = 0
        self.plan: Plan | None = None
        self.execution = Execution(**execution)
        self._channels_last = channels_last
        self._n_rows = n_rows
        self._writes_to_input = False
        self._asked: ResolvedModel | None = None
        self._compiled: Predict | None = None

    @classmethod
    def of_module(
        cls,
        model: nn.Module,
        device: torch.device,
        *,
        softmax: bool | None = False,
        predict_kwargs: Mapping[str, Any] | None = None,
        n_rows: int | None = None,
        **execution: Unpack[ExecutionArguments],
    ) -> Forward:
        """Make the forward pass of a torch module, its softmax resolved once.

        Parameters
        ----------
        model : nn.Module
            In evaluation mode, on ``device``. It is not changed.
        device : torch.device
            Where rows will be.
        softmax : bool, optional
            True for probabilities, False for logits, None for the output as it is; see
            :func:`quantus_ext.engine.modules.resolve_softmax`.
        predict_kwargs : mapping, optional
            Keywords of the model's own call.
        n_rows, **execution
            See the class.
        """
        asked = ResolvedModel(with_any_rows(with_keywords(model, predict_kwargs)), softmax)
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        forward = cls(
            asked, channels_last=convolves and device.type == "cpu", n_rows=n_rows, **execution
        )
        forward._asked = asked
        return forward

    def clean(self, x: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Return the outputs of unperturbed inputs and settle the plan on the first call.

        Parameters
        ----------
        x : Tensor, shape (n, \\*sample)
        numbers : Tensor, int64, shape (n,), optional
            Which samples of a call these are, where they are some.

        Returns
        -------
        Tensor, shape (n, classes)

        Raises
        ------
        ValueError
            If the model's output is not a tensor of shape (rows, classes), the plan does not
            fit the inputs, or the model cannot be compiled.
        """
        outputs: Tensor = self.clean_answered(x, numbers).outputs
        return outputs

    def clean_answered(self, x: Tensor, numbers: Tensor | None = None) -> Answered:
        """Return what :meth:`clean` does, with what else is known of the answers."""
        sharing, key = shared.current(), self._key(x, numbers)
        if sharing is None or key is None or self._asked is None:
            return self._clean(x, numbers)
        known = sharing.clean.get(key)
        if known is not None:
            self._writes_to_input |= known.writes_to_input
            if self.plan is None:
                self.plan = known.plan
                self._compile(x[:_FIRST_CHUNK])
            closed = sharing.by_identity or self._asked.content.closed
            if closed or self._gave(known.answered.outputs, x, numbers):
                return known.answered._replace(outputs=known.answered.outputs.clone())
        answered = self._clean(x, numbers)
        held = [self._asked.model, *self._asked.hooks] if sharing.by_identity else []
        plan = self._require_plan()
        sharing.clean.put(
            key, shared.Remembered(answered, plan, self._writes_to_input, held, uuid4().hex)
        )
        return answered._replace(outputs=answered.outputs.clone())

    def _gave(self, outputs: Tensor, x: Tensor, numbers: Tensor | None) -> bool:
        """Whether the model gives these outputs still, as a few rows say."""
        rows, before = probe_rows(len(x)), self.n_evaluations
        now = self._in_chunks(x[rows], None if numbers is None else numbers[rows])
        self.n_evaluations = before
        return same_answers(now.outputs, outputs[rows])

    def answers(
        self,
        x: Tensor,
        y: Tensor,
        fixed: Tensor | None,
        numbers: Tensor | None = None,
        *,
        spaces: Spaces | None = None,
    ) -> Answers | None:
        """Return what the model has answered about samples without some of their elements.

        Parameters
        ----------
        x : Tensor, shape (n, \\*sample)
        y : Tensor, int64, shape (n,)
            Explained classes.
        fixed : Tensor or None
            What elements become.
        numbers : Tensor, int64, shape (n,), optional
            Which samples of the call these are.
        spaces : Spaces, optional
            In which answers are kept, too.

        Returns
        -------
        Answers or None
            None where calls share nothing, or it is not known what elements become.
        """
        sharing, key = shared.current(), self._key(x, numbers)
        clean = None if sharing is None or key is None else sharing.clean.get(key)
        if sharing is None or clean is None or fixed is None:
            return None
        # Keyed by the outputs: a model with different outputs is evaluated again.
        read = None if spaces is None else (spaces.others, spaces.column)
        key = content_key(clean.token, y, fixed, read)
        answers = sharing.answers.get(key)
        if answers is None:
            answers = Answers(keeps_draws=True)
            sharing.answers.put(key, answers)
        return answers

    def _key(self, x: Tensor, numbers: Tensor | None) -> str | None:
        """Return what the model, as it is asked, and some samples are known by to other calls.

        None where nothing is shared, or a model holds what can't be told by its content.
        """
        sharing, asked = shared.current(), self._asked
        if sharing is None or asked is None:
            return None
        if sharing.by_identity:
            model = content_key(id(asked.model), list(map(id, asked.hooks)))
        elif is_doubtful(asked.model, asked.content):
            return None
        else:
            model = asked.content.key
        surroundings = str(x.device), autocast_in_force(x.device)
        return content_key(model, asked.softmax, self.execution, surroundings, x, numbers)

    def _clean(self, x: Tensor, numbers: Tensor | None) -> Answered:
        if self.plan is not None:
            return self._in_chunks(x, numbers)
        first = min(len(x), _FIRST_CHUNK, self.execution.chunk_size or _FIRST_CHUNK)
        with _of_samples(numbers, slice(first)):
            answered = self._settle(x[:first])
        if answered is None:
            return self._in_chunks(x, numbers)
        if first == len(x):
            return answered
        rest = None if numbers is None else numbers[first:]
        return Answered.cat([answered, self._in_chunks(x[first:], rest)])

    def __call__(self, rows: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Return the outputs, shape (rows, classes), of some rows, chunk by chunk.

        When memory runs out the chunk is halved, for this call and the following ones.

        Parameters
        ----------
        rows : Tensor, shape (rows, \\*sample)
        numbers : Tensor, int64, shape (rows,), optional
            Which sample of the call each row belongs to.
        """
        outputs: Tensor = self.answered(rows, numbers).outputs
        return outputs

    def answered(self, rows: Tensor, numbers: Tensor | None = None) -> Answered:
        """Return the outputs of some rows, with what else is known of the answers."""
        with _of_samples(numbers):
            if self.plan is not None and len(rows) > self.plan.chunk_size:
                parts = -(-len(rows) // self.plan.chunk_size)
                # Of nearly equal size, because a short last chunk costs as much as a long one.
                return Answered.cat(
                    [self.answered(*part) for part in _evenly(rows, numbers, parts)]
                )
            try:
                answered = self._checked(rows)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error) or len(rows) == 1:
                    raise
            else:
                self.n_evaluations += len(rows)
                rows_sent(len(rows))
                return answered
        # Outside the handler, so that the failed pass's traceback no longer holds its tensors.
        half = (len(rows) + 1) // 2
        if self.plan is not None:
            self.plan = replace(self.plan, chunk_size=min(self.plan.chunk_size, half))
        warnings.warn(
            f"memory ran out at {len(rows)} rows per forward pass; continuing with {half}",
            ResourceWarning,
            stacklevel=2,
        )
        return Answered.cat([self.answered(*part) for part in _evenly(rows, numbers, 2)])

    def settle(self, x: Tensor, numbers: Tensor | None = None) -> None:
        """Settle the plan on some samples, where :meth:`clean` has not been called."""
        if self.plan is None:
            before = self.n_evaluations
            self._clean(x[:_FIRST_CHUNK], None if numbers is None else numbers[:_FIRST_CHUNK])
            self.n_evaluations = before

    def probe(self, rows: Tensor, numbers: Tensor, *, are_recorded: bool = False) -> Tensor:
        """Return the outputs of a few rows, which are not counted and go through in one pass.

        With ``are_recorded`` while gradients of rows and weights are.
        """
        rows = self._require_plan().laid_out(rows)
        if are_recorded:
            rows = rows.detach().clone().requires_grad_(rows.is_floating_point())
        with belonging_to(numbers):
            outputs: Tensor = self._checked(rows, are_recorded=are_recorded).outputs
        return outputs.detach()

    def warn_of_second_softmax(self, stacklevel: int = 2) -> None:
        """Warn if a softmax was taken of what are probabilities already.

        It reads from the model's device, so it is for when other results are read, too.
        """
        had = None if self._asked is None else self._asked.had_probabilities
        if had is not None and bool(had):
            warnings.warn(
                "the model's outputs are probabilities already (none negative, each row sums to 1),"
                " and a softmax of them, which softmax=True or the metric's default asks for, is "
                "nearly flat: pass softmax=False",
                UserWarning,
                stacklevel=stacklevel + 1,
            )

    @property
    def model(self) -> nn.Module | None:
        """The torch module that is asked, its keywords filled in; None for a function."""
        return None if self._asked is None else self._asked.model

    @property
    def chunk_size(self) -> int:
        """Rows a forward pass, as planned on the first one."""
        return self._require_plan().chunk_size

    def buffer(self, like: Tensor, rows: int) -> Tensor:
        """Return an uninitialised tensor of ``rows`` samples shaped like ``like``'s, laid out
        as the plan says.
        """  # noqa: D205 - one sentence
        return self._require_plan().empty(like, rows)

    def _require_plan(self) -> Plan:
        if self.plan is None:
            raise RuntimeError("call clean() or settle() first: they settle the chunk plan")
        return self.plan

    def _in_chunks(self, x: Tensor, numbers: Tensor | None) -> Answered:
        plan = self._require_plan()
        parts = _parts(x, numbers, lambda values: values.split(plan.chunk_size))
        return Answered.cat([self.answered(plan.laid_out(part), own) for part, own in parts])

    def _settle(self, x: Tensor) -> Answered | None:
        """Settle how rows go through the model on a few of them.

        Their outputs are returned if they went that way already.
        """
        if x.device.type == "cpu":
            keep_freed_memory()
        given = self.execution.plan
        if isinstance(given, Plan):
            if given.memory_format == "channels_last" and x.ndim != 4:
                raise ValueError(
                    "plan.memory_format must be 'contiguous' for inputs that are not images, is "
                    f"'channels_last' for samples of shape {tuple(x.shape[1:])}"
                )
            self.plan = given
            self._compile(x)
            return None
        before = self.n_evaluations
        answered, plan = self._observed(x)
        if given == "calibrate":
            plan = self._calibrated(x, plan)
        self.plan = plan
        self._compile(x)
        if given is None and self._compiled is None:
            return answered
        self.n_evaluations = before
        return None

    def _observed(self, x: Tensor) -> tuple[Answered, Plan]:
        """Return answers and the rule's plan, channels last where the model takes it."""
        if not self._channels_last or x.ndim != 4:
            return self._observe(x, "contiguous")
        model = None if self._asked is None else without_keywords(self._asked.model)
        refused = set() if model is None else _refused.setdefault(model, set())
        shape = tuple(x.shape[1:])
        if shape not in refused:
            # Code that views its activations needs the plain layout. A model that fails for
            # another reason fails again below, and that error reaches the caller.
            with suppress(RuntimeError):
                return self._observe(x, "channels_last")
        found = self._observe(x, "contiguous")
        refused.add(shape)
        return found

    def _observe(self, x: Tensor, layout: Layout) -> tuple[Answered, Plan]:
        rows = Plan(len(x), layout).laid_out(x)
        with _WidestTensor() as widest:
            answered = self.answered(rows)
        bytes_a_row = max(widest.bytes, rows.numel() * rows.element_size()) // len(rows)
        return answered, rule(bytes_a_row, rows.device, layout, self.execution.chunk_size)

    def _calibrated(self, x: Tensor, start: Plan) -> Plan:
        layouts: list[Layout] = ["contiguous"]
        if start.memory_format == "channels_last":
            layouts.append("channels_last")
        if self._asked is None:
            return calibrate(self._outputs, x, start, layouts)
        # Speed depends on shapes, not on weights.
        key = content_key(
            [(name, str(type(part))) for name, part in self._asked.model.named_modules()],
            [tuple(weight.shape) for weight in self._asked.model.parameters()],
            *(tuple(x.shape[1:]), x.dtype, str(x.device), torch.get_num_threads()),
            *(start, self.execution),
        )
        plan = _measured.get(key)
        if plan is None:
            plan = calibrate(self._outputs, x, start, layouts)
            _measured.put(key, plan)
        return plan

    def _compile(self, x: Tensor) -> None:
        """Compile the model where that is asked for, and say so before if it will not pay."""
        if not self.execution.compile:
            return
        if self._asked is None:
            raise ValueError("compile must be False for a model that is no torch.nn.Module")
        rows = self._require_plan().laid_out(x[: self.chunk_size])
        with self._precision(rows):
            model = self._asked.resolved(rows)
            key, self._compiled = compiled.find(model, rows)
            if self._compiled is not None:
                return
            before, begin = self.n_evaluations, time.perf_counter()
            self(rows)
            seconds = (time.perf_counter() - begin) / len(rows) * (self._n_rows or 0)
            self.n_evaluations, rows = before, rows[: self.chunk_size]
            if self._n_rows is not None and seconds < 2 * compiled.SECONDS_OF_COMPILING:
                warnings.warn(
                    f"compile=True will not pay: without it all {self._n_rows:,} evaluations take "
                    f"about {seconds:.1f} s, and compiling takes about "
                    f"{compiled.SECONDS_OF_COMPILING:.0f} s",
                    UserWarning,
                    stacklevel=2,
                )
            self._compiled = compiled.compile_frozen(model, rows, key)

    def _precision(self, rows: Tensor) -> torch.autocast | nullcontext[None]:
        dtype = self.execution.autocast_dtype(rows.device)
        # Without one, the caller's autocast stays on.
        return nullcontext() if dtype is None else torch.autocast(rows.device.type, dtype)

    @contextmanager
    def _types_named(self, dtype: torch.dtype) -> Iterator[None]:
        """Say what to do about a type that a model does not take, where its weights don't tell."""
        try:
            yield
        except RuntimeError as error:
            known = self._asked is None or weight_dtype(self._asked.model) is not None
            if known or not _OF_TYPES.search(str(error)):
                raise
            raise TypeError(
                f"x_batch must have the type that the model takes, which has no floating-point "
                f"weights to tell it: pass another than {dtype}, as x_batch.astype('float32'); the "
                f"model says: {error}"
            ) from error

    def _outputs(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self._checked(rows).outputs
        return outputs

    def _checked(self, rows: Tensor, *, are_recorded: bool = False) -> Answered:
        # In inference mode, tensors have no version counter.
        self._writes_to_input |= rows.is_inference()
        version = 0 if self._writes_to_input else rows._version
        # Explainers ask the model as it is.
        compiled = None if are_recorded else self._compiled
        with (
            torch.set_grad_enabled(are_recorded),
            self._precision(rows),
            self._types_named(rows.dtype),
        ):
            given = rows.clone() if self._writes_to_input else rows
            outputs, first = self._asked_about(given, compiled)
        # The rows are compared with the inputs afterwards, so a model that works in place (a
        # first ReLU, a normalisation) gets copies. The first pass, on a copy anyway, finds it out.
        self._writes_to_input = self._writes_to_input or rows._version != version
        if not isinstance(outputs, Tensor):
            raise TypeError(f"model must return a tensor, returned {type(outputs).__name__}")
        if outputs.layout != torch.strided:
            raise TypeError(
                f"model's output must be dense, is {outputs.layout}: give its to_dense()"
            )
        if outputs.ndim != 2 or len(outputs) != len(rows) or not outputs.shape[1]:
            raise ValueError(
                f"model's output must have shape (rows, classes), here ({len(rows)}, classes), "
                f"has {tuple(outputs.shape)}"
            )
        if outputs.is_complex():
            raise TypeError(
                f"model's output must hold real numbers, holds {outputs.dtype}: give real or "
                "absolute values"
            )
        if not outputs.is_floating_point():
            if self._asked is not None and self._asked.softmax:
                raise TypeError(
                    "model's output must hold floating-point numbers for a softmax, holds "
                    f"{outputs.dtype}: pass softmax=False, or give scores as floats"
                )
            return Answered(outputs.double())
        if self.execution.precision == "float32":
            return Answered(outputs, first)
        # At least single precision, because differences of outputs lose digits.
        return Answered(outputs.to(torch.promote_types(outputs.dtype, torch.float32)), first)

    def _asked_about(self, rows: Tensor, compiled: Callable[..., Any] | None) -> Answered:
        if compiled is None and self._asked is not None:
            return self._asked.answered(rows)
        return Answered((compiled or self.predict)(rows))


def _of_samples(numbers: Tensor | None, part: slice = slice(None)) -> AbstractContextManager[None]:
    """Say which samples rows are, where that is known."""
    return nullcontext() if numbers is None else belonging_to(numbers[part])


def _parts(
    rows: Tensor, numbers: Tensor | None, cut: Callable[[Tensor], Sequence[Tensor]]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield parts of rows, and of the samples they belong to where these are known."""
    own = itertools.repeat(None) if numbers is None else cut(numbers)
    return zip(cut(rows), own, strict=False)


def _evenly(
    rows: Tensor, numbers: Tensor | None, count: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    return _parts(rows, numbers, lambda values: values.tensor_split(count))
