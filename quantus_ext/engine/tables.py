"""Small tensors from numbers on the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def table(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of some numbers on a device without waiting for pending operations.

    An ordinary copy from the host waits until the device is idle, and then the device waits for the
    next operation.

    Parameters
    ----------
    values : nested sequences of numbers, or numpy.ndarray
    device : torch.device
    dtype : torch.dtype, optional
        By default that of the numbers.
    """
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
