"""What belongs to the process: random states and settings that other people's code may change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from quantus_ext.engine.modules import may_draw
from quantus_ext.engine.turns import turns


@contextmanager
def isolated_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Put the random states of Python, numpy and torch back on leaving, one thread at a time.

    Those of the processor, and of the GPU that ``device`` is, if it is one.
    """
    with turns.alone(), turns.undoing(_random_states(device)):
        yield


def _random_states(device: torch.device | None) -> Callable[[], None]:
    """Return what puts the random states back."""
    python = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 - the state that Quantus's functions use
    cpu = torch.get_rng_state()
    gpus = [device] if device is not None and device.type == "cuda" else []
    on_gpus = [torch.cuda.get_rng_state(gpu) for gpu in gpus]

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        for gpu, state in zip(gpus, on_gpus, strict=True):
            torch.cuda.set_rng_state(state, gpu)

    return put_back


def seed_global_generators(seed: int, device: torch.device | None = None) -> None:
    """Seed the generators of Python, numpy and torch; ``seed`` is below 2**32.

    Those of the processor, and of the GPU that ``device`` is, if it is one.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    seed_gpu(seed, device)


def seed_gpu(seed: int, device: torch.device | None) -> None:
    """Seed the generator of a GPU, if ``device`` is one."""
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global random states, one thread at a time, and put them back on leaving."""
    with isolated_random_state(device):
        seed_global_generators(seed, device)
        yield


@contextmanager
def isolated_where_drawn(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put the random states back on leaving, if a model in evaluation mode may draw from them.

    Those are every thread's, so they are left alone for models that draw nothing.
    """
    with isolated_random_state(device) if may_draw(model) else nullcontext():
        yield


class Setting(NamedTuple):
    """Something that torch or numpy keep for a process or a thread."""

    get: Callable[[], Any]
    put: Callable[[Any], object]


def _attribute(owner: Any, name: str) -> Setting:
    return Setting(partial(getattr, owner, name), partial(setattr, owner, name))


def _of_all_modules(name: str) -> Setting:
    """Return one of the dictionaries of hooks that all modules have in common."""
    hooks = getattr(torch.nn.modules.module, name)

    def put(kept: Any) -> None:
        hooks.clear()
        hooks.update(kept)

    return Setting(lambda: dict(hooks) if hooks else {}, put)


def _put_deterministic(kept: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(kept[0], warn_only=kept[1])


def _put_autocast(kept: tuple[bool, torch.dtype, bool, torch.dtype]) -> None:
    for device, enabled, dtype in zip(("cpu", "cuda"), kept[::2], kept[1::2], strict=True):
        torch.set_autocast_enabled(device, bool(enabled))
        torch.set_autocast_dtype(device, dtype)


_SETTINGS = {
    "the default dtype": Setting(torch.get_default_dtype, torch.set_default_dtype),
    "the default device": Setting(
        lambda: torch.get_default_device() if torch._C._len_torch_function_stack() else None,
        torch.set_default_device,
    ),
    "whether gradients are recorded": Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's threads": Setting(torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": Setting(
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _put_deterministic,
    ),
    "autocast": Setting(
        lambda: tuple(
            get(device)
            for device in ("cpu", "cuda")
            for get in (torch.is_autocast_enabled, torch.get_autocast_dtype)
        ),
        _put_autocast,
    ),
    "the precision of matrix products": Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "numpy's handling of errors": Setting(np.geterr, lambda kept: np.seterr(**kept)),
    **{
        f"cudnn.{name}": _attribute(torch.backends.cudnn, name)
        for name in ("enabled", "benchmark", "deterministic")
    },
    "mkldnn.enabled": _attribute(torch.backends.mkldnn, "enabled"),
    "hooks of all modules": _of_all_modules("_global_forward_hooks"),
    "pre-hooks of all modules": _of_all_modules("_global_forward_pre_hooks"),
    "backward hooks of all modules": _of_all_modules("_global_backward_hooks"),
    "backward pre-hooks of all modules": _of_all_modules("_global_backward_pre_hooks"),
}


class Settings:
    """The process's settings, as they are when this is made."""

    def __init__(self) -> None:
        self._kept = {name: setting.get() for name, setting in _SETTINGS.items()}

    def put_back(self) -> list[str]:
        """Put back what has changed, and return its names."""
        changed = [name for name, kept in self._kept.items() if _SETTINGS[name].get() != kept]
        for name in changed:
            _SETTINGS[name].put(self._kept[name])
        return changed
