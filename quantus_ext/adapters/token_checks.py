"""Whether a model of text does what metrics ask of it, found out on one text or two."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from quantus_ext.engine.keywords import part_of, plain

if TYPE_CHECKING:
    from quantus_ext.adapters.tokens import TokenIds

_Keywords = Mapping[str, Any]
_ERRORS = (AssertionError, IndexError, RuntimeError, ValueError)
"""What a model, or a program exported for one length, raises on ids or lengths it does not take."""


def check_text_model(model: TokenIds, x: Tensor, keywords: _Keywords) -> None:
    """Ask for one text in other words, and alone; raise ValueError if that makes a difference.

    Parameters
    ----------
    model : TokenIds
    x : Tensor of int64, shape (n, L)
    keywords : mapping
        Of the model's own call.

    Raises
    ------
    ValueError
        If the model reads more off the ids of words than their embeddings and is to be asked by
        embeddings; sees tokens that are not attended to and is to be asked so; or answers a text
        padded otherwise than alone, and the side or the id of the padding is why.

    Warns
    -----
    UserWarning
        If it answers so for another reason.
    """
    padding = x == model.pad_id
    # Before a last token, padding shifts; there are few texts with some there and more after.
    before = padding & ~padding.flip(1).cumprod(1).flip(1).bool()
    row = int((before.sum(1) * x.shape[1] + padding.sum(1)).argmax())
    with torch.no_grad():
        own = plain(part_of(keywords, slice(row, row + 1)))
        _check_words(model, x[row : row + 1], own)
        if model.removal == "delete":
            _check_deletion(model, x, keywords)
        if model.takes_attention:
            _check_alone(model, x, row, bool(before[row].any()), own)


def _check_words(model: TokenIds, ids: Tensor, keywords: _Keywords) -> None:
    """Raise ValueError unless the embeddings of words say all, where metrics ask by them."""
    if not model.by_embeddings:
        return
    found, cause = model.forward(ids, **keywords), None
    given = model.removable(ids)
    own = model.require_embedding()(ids.masked_fill(~given, model.pad_id))
    try:
        with NoCodes():
            again = model.ask_embeddings(own, ids, given, **keywords)
    except _ERRORS as error:
        again, cause = torch.full_like(found, torch.inf), error
    if not _alike(found, again) and _steady(model, ids, keywords):
        raise ValueError(
            f"removal={model.removal!r} needs a model that uses the ids of words for embeddings "
            "only; this one uses them otherwise (to find the end token, or in another embedding): "
            "name such ids in special_ids, or use removal='mask' with a separate mask token"
        ) from cause


class NoCodes(TorchFunctionMode):
    """Raises IndexError where an id below 0 is looked up, which would end a GPU's whole process."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do what was asked for, but for that."""
        ids = args[0] if func is nn.functional.embedding else None
        if isinstance(ids, Tensor) and bool((ids < 0).any()):
            raise IndexError("ids of tokens are looked up in another table")
        return func(*args, **(kwargs or {}))


def _check_deletion(model: TokenIds, x: Tensor, keywords: _Keywords) -> None:
    """Raise ValueError if what stands where a word was deleted makes a difference."""
    words = model.removable(x)
    row = int(words.sum(1).argmax())
    places = words[row].nonzero()[:, 0]
    # At the first or last word a model may be asked for its answer, which sees itself.
    if len(places) < 3:
        return
    ids, place = x[row : row + 1].clone(), places[len(places) // 2]
    keywords = plain(part_of(keywords, slice(row, row + 1)))
    text = ids != model.pad_id
    attended = text.clone()
    attended[:, place] = False
    again = model.ask(ids, text, attended, **keywords)
    ids[:, place] = model.REMOVED
    if not _alike(model.forward(ids, **keywords), again) and _steady(model, ids, keywords):
        raise ValueError(
            "removal='delete' needs a model that sees tokens only where attention_mask is 1; other "
            "tokens change the outputs of this one: use 'mask', 'pad' or 'zero'"
        )


def _check_alone(model: TokenIds, x: Tensor, row: int, before: bool, keywords: _Keywords) -> None:
    """Raise ValueError, or warn, if a text has another answer than without its padding."""
    ids, found = x[row : row + 1], model.forward(x[row : row + 1], **keywords)
    words = ids[ids != model.pad_id].unsqueeze(0)
    try:
        output = model.model(words, attention_mask=torch.ones_like(words), **keywords)
    except _ERRORS:
        return  # it takes texts of one length, of which padding is a part
    alone: Tensor = getattr(output, "logits", output)
    if _alike(found, alone) or not _steady(model, ids, keywords):
        return
    if not _alike(model.forward(words, **keywords), alone):
        raise ValueError(
            "model must give the same outputs without position_ids and with positions from "
            f"{model.first_position}, does not: wrap it in a module whose forward has no parameter "
            "position_ids"
        )
    config = getattr(model.model, "config", None)
    known = getattr(config, "pad_token_id", model.pad_id)
    if known != model.pad_id:
        raise ValueError(
            f"pad_id must be that of the model, whose config.pad_token_id is {known}, is "
            f"{model.pad_id}: the outputs for sample {row} depend on its padding; set "
            f"config.pad_token_id = {model.pad_id}"
        )
    other = "right" if before else "left"
    gap = ids.new_full((1, ids.shape[1] - words.shape[1]), model.pad_id)
    moved = torch.cat([words, gap] if before else [gap, words], 1)
    if model.padding_side is None and (before or _alike(model.forward(moved, **keywords), alone)):
        raise ValueError(
            f"padding_side must be {other!r} for this model and x_batch: with padding on the other "
            f"side, the outputs for sample {row} differ from those without"
        )
    warnings.warn(
        f"outputs for sample {row} depend on its padding, so scores depend on how far texts are "
        "padded: pass texts of equal length together",
        UserWarning,
        stacklevel=5,
    )


def _steady(model: TokenIds, ids: Tensor, keywords: _Keywords) -> bool:
    """Return whether there is no chance in the model, to which a difference would be due."""
    return _alike(model.forward(ids, **keywords), model.forward(ids, **keywords))


def _alike(found: Tensor, again: Tensor) -> bool:
    """Return whether outputs are equal but for rounding, which may be that of single precision."""
    exact = max(torch.finfo(found.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    size = float(again.nan_to_num(0.0, 0.0, 0.0).abs().max().clamp(min=1e-3))
    return torch.allclose(found, again, rtol=0.0, atol=exact * size, equal_nan=True)
