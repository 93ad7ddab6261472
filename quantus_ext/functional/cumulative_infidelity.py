"""The number that Quantus 0.6 calls Infidelity, for comparison with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from quantus_ext.engine import sampling
from quantus_ext.engine.answers import Asked
from quantus_ext.engine.forward import Forward
from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from quantus_ext.engine.masked import SampleArguments, known_of
from quantus_ext.engine.perturb import differing_bits
from quantus_ext.functional.infidelity_moments import Moments, power_sums
from quantus_ext.functional.scores import Scores, maps_of


def cumulative_infidelity(
    forward: Forward,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    *,
    perturb_func: Callable[..., Any],
    loss_func: Callable[..., Any],
    patch_sizes: Sequence[int] = (4,),
    n_repeats: int = 10,
    is_random: bool = False,
    **samples: Unpack[SampleArguments],
) -> Scores:
    """Compute the number that ``quantus.Infidelity`` 0.6 computes, for comparison with it.

    There the patches of a fixed grid are perturbed one after the other and stay perturbed, and
    the loss is averaged over them. Repeats of deterministic work are left out.

    Parameters
    ----------
    forward : Forward
        The model.
    x : Tensor, shape (n, C, H, W)
    a : Tensor, shape of ``x``, or with one channel, which then counts for each channel; or
        (m, n, …), m maps of each sample
    y : Tensor, int64, shape (n,)
    perturb_func : callable
        Takes ``arr`` (n, values) and ``indices`` (n, count), as Quantus calls it.
    loss_func : callable
        Takes ``a`` and ``b`` (n, patches) and ``batched=True``; gives n losses.
    patch_sizes : sequence of int
        Sides of the grid's patches; each must divide height and width.
    n_repeats : int
        Repeats that are averaged where ``perturb_func`` is random.
    is_random : bool
        Whether it is.
    **samples
        Seed and more; see :class:`quantus_ext.engine.masked.SampleArguments`.

    Returns
    -------
    Scores
        ``details`` as for :func:`quantus_ext.functional.infidelity`, over patches instead of draws.
    """
    maps = maps_of(a, x)
    m = len(maps)
    keys, numbers, clean = known_of(forward, x, samples)
    clean = clean.gather(1, y[:, None])
    repeats = n_repeats if is_random else 1
    # A random function is given one sample at a time, so that its numbers do not depend on which
    # other samples are in the batch; a deterministic one sees them all at once.
    groups = [slice(i, i + 1) for i in range(len(x))] if is_random else [slice(0, len(x))]
    losses, sums, asked = [], [], []
    with isolated_random_state():
        for rows in groups:
            repeated: list[Tensor] = []
            total = torch.zeros(())
            count = torch.zeros(len(x[rows]), dtype=torch.float64)
            for key in sampling.draw_keys(keys[rows][:1], 0, repeats)[0].tolist():
                seed_global_generators(key & (2**32 - 1))
                for size in patch_sizes:
                    predicted, changed, new = _cumulative_changes(
                        forward,
                        *(x[rows], maps[:, rows], y[rows], clean[rows], numbers[rows]),
                        perturb_func,
                        size,
                    )
                    loss = [
                        np.asarray(loss_func(a=changed.numpy(), b=each.numpy(), batched=True))
                        for each in predicted.unbind(1)
                    ]
                    repeated.append(torch.as_tensor(np.stack(loss), dtype=torch.float64))
                    total = total + power_sums(predicted, changed)
                    count += new
            # Maps, samples, repeats, sizes.
            losses.append(torch.stack(repeated, 2).unflatten(2, (repeats, len(patch_sizes))))
            sums.append(total)
            asked.append(count)
    patches = sum(_grid(x, size)[0] * _grid(x, size)[1] for size in patch_sizes)
    counts = torch.full((m, len(x)), float(repeats * patches), dtype=torch.float64)
    # Every patch is used.
    details = Moments(torch.cat(sums).transpose(0, 1), counts, sizes=counts).details()
    per_repeat = torch.cat(losses, 1).mean(3)
    score = per_repeat.mean(2)
    error = per_repeat.std(2) / repeats**0.5 if is_random else torch.zeros_like(score)
    scores = Scores(score, error, details, (Asked({"states": torch.cat(asked)}),) * m)
    return scores if a.ndim > x.ndim else scores.of_map(0)


def _cumulative_changes(
    forward: Forward,
    x: Tensor,
    a: Tensor,
    y: Tensor,
    clean: Tensor,
    numbers: Tensor,
    perturb_func: Callable[..., Any],
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what happens as patch after patch is perturbed.

    ``I·Φ`` of each map (n, m, patches), ``f(x) - f(x̃)`` (n, patches), and how many rows the model
    was asked about for each sample (n,).

    States that a patch leaves as they were are not evaluated again.
    """
    rows, columns = _grid(x, size)
    positions = np.arange(x[0].numel()).reshape(x.shape[1], rows, size, columns, size)
    original = x.detach().cpu().numpy().reshape(len(x), -1)
    phi = a.expand(-1, *x.shape).cpu().numpy().reshape(len(a), len(x), -1)
    state = original.copy()
    before = torch.tensor(original)
    buffer = forward.buffer(x, min(max(forward.chunk_size, len(x)), len(x) * rows * columns))
    labels, owners = (values.new_empty(len(buffer)) for values in (y, numbers))
    # The known answers, and the index of each state among them.
    answers, place, places = [clean], torch.arange(len(x), device=x.device), []
    waiting, known = 0, len(x)
    predicted: list[Tensor] = []
    asked = torch.zeros(len(x), dtype=torch.float64)

    def ask() -> None:
        outputs = forward(buffer[:waiting], owners[:waiting])
        answers.append(outputs.gather(1, labels[:waiting, None]))

    for row, column in np.ndindex(rows, columns):
        indices = np.tile(positions[:, row, :, column].ravel(), (len(x), 1))
        state = np.asarray(perturb_func(arr=state, indices=indices))
        predicted.append(torch.from_numpy(np.einsum("mnv,nv->nm", phi, original - state)))
        # A copy, because the function may work in place.
        given = torch.tensor(state, dtype=x.dtype)
        new = differing_bits(given, before).any(1).nonzero().squeeze(1)
        before = given
        asked[new] += 1
        if waiting + len(new) > len(buffer):
            ask()
            waiting = 0
        slots = slice(waiting, waiting + len(new))
        buffer[slots] = given[new].reshape(-1, *x.shape[1:]).to(x.device)
        which = new.to(x.device)
        labels[slots], owners[slots] = y[which], numbers[which]
        place = place.index_copy(0, which, torch.arange(known, known + len(new)).to(place))
        places.append(place)
        waiting, known = waiting + len(new), known + len(new)
    if waiting:
        ask()
    changed = clean - torch.cat(answers)[torch.stack(places, 1), 0]
    return torch.stack(predicted, 2), changed.cpu(), asked


def _grid(x: Tensor, size: int) -> tuple[int, int]:
    return x.shape[2] // size, x.shape[3] // size
