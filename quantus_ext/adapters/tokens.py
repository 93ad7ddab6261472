"""Models of text: rows of token ids in, class scores out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.engine.modules import with_submodule

Removal = Literal["mask", "pad", "delete", "zero"]

REMOVED = -1
"""The id that stands for a removed token in the rows that metrics make."""


@dataclass(frozen=True)
class RemovableTokens:
    """The feature mask of token ids: every token by itself, but padding and special tokens."""

    pad_id: int
    special_ids: tuple[int, ...]

    def __call__(self, ids: Tensor) -> Tensor:
        """Return positions, shape (n, L), -1 where a token is never removed."""
        kept = ids.unsqueeze(-1) == torch.tensor((self.pad_id, *self.special_ids)).to(ids)
        return torch.arange(ids.shape[1], device=ids.device).where(~kept.any(-1), -1)


class TokenIds(Adapter):
    r"""A model over token ids, shape (n, L), as every metric takes it.

    Ids stay integers. An element is a token; padding and special tokens are never removed or
    counted. Attributions have the shape (n, L), or (n, L, D) over embeddings.

    By default metrics remove tokens as ``removal`` says. A ``perturb_func`` or
    ``perturb_baseline`` of one's own (noise, a blur, a mean) acts on the embeddings, as does
    Infidelity unless its attributions carry the input factor (``multiply_by_inputs=True``);
    Infidelity on embeddings needs attributions over them. In Quantus's own metrics, which know
    no tokens, ``perturb_baseline=TokenIds.REMOVED`` removes as here.

    Parameters
    ----------
    model : torch.nn.Module
        From ids (n, L), and a mask of the tokens to attend to where its ``forward`` has a
        parameter ``attention_mask``, to scores (n, classes), or something with ``logits``.
    mask_id : int or None
        The mask token's id; None only with another ``removal`` than "mask".
    pad_id : int
        The padding's id.
    special_ids : sequence of int
        Other ids that are never removed, as those of start and end tokens.
    removal : {"mask", "pad", "delete", "zero"}, default "mask"
        A removed token becomes the mask token; the padding token, but is attended to; is not
        attended to, as padding; or has a zero embedding.
    embedding : torch.nn.Embedding, optional
        The part of ``model`` that embeds tokens; by default what its ``get_input_embeddings``
        returns, or else its only ``nn.Embedding``.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules, or the model must be asked without attention
        to padding or by embeddings and cannot.

    Examples
    --------
    A model that counts tokens of id 3 or more:

    >>> import numpy as np
    >>> import torch
    >>> from quantus_ext import Fidelity
    >>> from quantus_ext.adapters import TokenIds
    >>> class Counts(torch.nn.Module):
    ...     def forward(self, ids):
    ...         count = (ids >= 3).sum(1).float()
    ...         return torch.stack([2.5 - count, count - 2.5], 1)
    >>> model = TokenIds(Counts().eval(), mask_id=1, pad_id=0, special_ids=[2])
    >>> ids = np.array([[2, 5, 4, 3, 2, 0, 0]])
    >>> a = np.array([[9.0, 3, 2, 1, 9, 9, 9]])
    >>> metric = Fidelity([0.4])  # one of three tokens
    >>> metric(model, ids, np.array([1]), a), metric.details["size"].tolist()
    ([1.0], [[1]])
    """

    REMOVED = REMOVED

    def __init__(
        self,
        model: nn.Module,
        mask_id: int | None,
        pad_id: int,
        special_ids: Sequence[int] = (),
        *,
        removal: Removal = "mask",
        embedding: nn.Embedding | None = None,
    ) -> None:
        super().__init__(model)
        self.takes_ids, self.removed = True, REMOVED
        checks.one_of("removal", removal, ("mask", "pad", "delete", "zero"))
        if removal == "mask" and mask_id is None:
            raise ValueError("mask_id must be an id with removal='mask', is None")
        self.mask_id = None if mask_id is None else checks.natural("mask_id", mask_id)
        self.pad_id = checks.natural("pad_id", pad_id)
        self.special_ids = tuple(checks.natural("special_ids", each) for each in special_ids)
        self.removal = removal
        self.takes_attention = "attention_mask" in _parameters(model)
        if removal == "delete" and not self.takes_attention:
            raise ValueError(
                "removal='delete' needs a model whose forward has a parameter attention_mask"
            )
        self.embedding_name = _embedding_name(model, embedding)
        if removal == "zero":
            self.require_embedding()
        for name in ("mask_id", "pad_id"):
            value = getattr(self, name)
            if None not in (value, self.vocabulary) and value >= self.vocabulary:
                raise ValueError(
                    f"{name} must be below {self.vocabulary}, the embedding's number of tokens, "
                    f"is {value}"
                )
        self.feature_mask = RemovableTokens(self.pad_id, self.special_ids)
        self.padding_mask = _marked  # of rows of embeddings

    def check_inputs(self, x: Tensor) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_inputs`."""
        known = self.vocabulary
        if known is not None and bool((x >= known).any()):
            sample = int((x >= known).any(1).nonzero()[0, 0])
            raise ValueError(
                f"ids must be below {known}, the embedding's number of tokens; sample {sample} "
                f"holds {int(x[sample].max())}"
            )

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the model embeds, None where that is not known."""
        if self.embedding_name is None:
            return None
        known: int | None = getattr(self.require_embedding(), "num_embeddings", None)
        return known

    def forward(self, ids: Tensor, **keywords: Any) -> Tensor:
        """Return the scores, shape (n, classes).

        Parameters
        ----------
        ids : Tensor, shape (n, L)
            Also as floating-point numbers, as Quantus's own metrics send them.
        **keywords
            Passed to the model.
        """
        ids = ids.round().long() if ids.is_floating_point() else ids
        removed = ids == REMOVED
        attended = ids != self.pad_id
        if self.removal == "delete":
            attended = attended & ~removed
        stand_in = self.pad_id
        if self.removal == "mask" and self.mask_id is not None:
            stand_in = self.mask_id
        tokens = ids.masked_fill(removed, stand_in)
        if self.removal == "zero":
            embeddings = self.require_embedding()(tokens).masked_fill(removed.unsqueeze(-1), 0.0)
            return self.ask(tokens, attended, embeddings, **keywords)
        return self.ask(tokens, attended, **keywords)

    def ask(
        self,
        tokens: Tensor,
        attended: Tensor,
        embeddings: Tensor | None = None,
        **keywords: Any,
    ) -> Tensor:
        """Ask the model, with other embeddings (n, L, D) in place of the tokens' own if given."""
        model: nn.Module = self.model
        if embeddings is not None:
            # A shallow twin, so that nothing hangs on the caller's model, in any thread.
            part = self.require_embedding()
            given = _Given(part, embeddings)
            for name, each in self.model.named_modules(remove_duplicate=False):
                if each is part:
                    model = with_submodule(model, name.split("."), given)
        if self.takes_attention:
            keywords = {**keywords, "attention_mask": attended.long()}
        output = model(tokens, **keywords)
        scores: Tensor = getattr(output, "logits", output)
        return scores

    def over_embeddings(self) -> EmbeddedTokens:
        """Return the same model over embeddings.

        Raises
        ------
        ValueError
            If it is not known which part of the model embeds tokens.
        """
        return EmbeddedTokens(self)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings of ids (n, L), shape (n, D, L)."""
        return self.over_embeddings().embed(x)

    def require_embedding(self) -> nn.Module:
        """Return the part of the model that embeds tokens, or raise ValueError."""
        if self.embedding_name is None:
            raise ValueError(
                "embedding must name the part of the model that embeds tokens: it has neither "
                "get_input_embeddings nor exactly one nn.Embedding"
            )
        return self.model.get_submodule(self.embedding_name)


class EmbeddedTokens(Adapter):
    """A model over token ids as one over their embeddings, laid out as a series of D channels.

    Parameters
    ----------
    tokens : TokenIds

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from quantus_ext.adapters import TokenIds
    >>> class Mean(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)
    ...
    ...     def forward(self, ids):
    ...         return self.head(self.embedding(ids).mean(1))
    >>> model = TokenIds(Mean().eval(), mask_id=1, pad_id=0)
    >>> ids = torch.tensor([[5, 4, 3, 0]])
    >>> embedded = model.over_embeddings()
    >>> embedded.embed(ids).shape
    torch.Size([1, 4, 4])
    >>> torch.allclose(embedded(embedded.embed(ids)), model(ids))
    True
    """

    def __init__(self, tokens: TokenIds) -> None:
        super().__init__()
        tokens.require_embedding()
        self.tokens = tokens
        self.training = tokens.training
        self.padding_mask = _marked

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings of ids (n, L), shape (n, D, L), with padding marked."""
        with torch.no_grad():
            embeddings: Tensor = self.tokens.require_embedding()(x)
        padding = (x == self.tokens.pad_id).unsqueeze(-1)
        # No embedding, and as good as 0 in every sum.
        return embeddings.masked_fill(padding, _mark(embeddings)).movedim(-1, 1).contiguous()

    def forward(self, rows: Tensor, **keywords: Any) -> Tensor:
        """Return the scores of embeddings (n, D, L), shape (n, classes)."""
        tokens = self.tokens
        padding = _marked(rows)
        ids = torch.full_like(padding, 0 if tokens.pad_id else 1, dtype=torch.int64)
        ids = ids.masked_fill(padding, tokens.pad_id)
        pad = tokens.require_embedding()(ids.new_tensor([tokens.pad_id])).to(rows.dtype)
        embeddings = torch.where(padding.unsqueeze(-1), pad, rows.movedim(1, -1))
        return tokens.ask(ids, ~padding, embeddings, **keywords)


def refuse_embeddings(model: nn.Module, metric: str) -> None:
    """Raise ValueError if a model that a metric trains takes embeddings in place of ids."""
    if any(isinstance(part, EmbeddedTokens) for part in model.modules()):
        raise ValueError(
            f"{metric} trains a model of token ids on ids: leave perturb_func and "
            "perturb_baseline out, the adapter says what removed tokens become"
        )


class TextClassifier(TokenIds):
    """A Hugging Face sequence classifier with its tokenizer.

    Parameters
    ----------
    model : torch.nn.Module
        See :class:`TokenIds`.
    tokenizer : transformers.PreTrainedTokenizerBase
        Names the ids of mask, padding and special tokens. An unknown word counts as a word.
    removal : {"mask", "pad", "delete", "zero"}, default "mask"
        See :class:`TokenIds`.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token, or no mask token with ``removal="mask"``.
    """

    # Encoding texts leaves traces in it.
    unread: ClassVar[frozenset[str]] = frozenset({"tokenizer"})

    def __init__(self, model: nn.Module, tokenizer: Any, *, removal: Removal = "mask") -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError("tokenizer must have a padding token: set its pad_token")
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.pad_token_id}
        super().__init__(
            model,
            tokenizer.mask_token_id,
            tokenizer.pad_token_id,
            sorted(special),
            removal=removal,
        )
        self.tokenizer = tokenizer

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> np.ndarray:
        """Return token ids, int64, shape (n, L), padded to the longest text.

        Parameters
        ----------
        texts : sequence of str
        max_length : int, optional
            Longer texts are cut.
        """
        return np.asarray(self._encoded(texts, max_length)["input_ids"], dtype=np.int64)

    def words(self, texts: Sequence[str], max_length: int | None = None) -> np.ndarray:
        """Return the word of each token, int64, shape (n, L), -1 where it is in none.

        As ``s_batch`` with ``element="segment"`` it makes words the elements.

        Parameters
        ----------
        texts, max_length
            As for :meth:`encode`.

        Raises
        ------
        ValueError
            If the tokenizer does not know the words of its tokens.
        """
        encoded = self._encoded(texts, max_length)
        if not encoded.is_fast:
            raise ValueError("tokenizer must know the words of its tokens, as fast tokenizers do")
        rows = [encoded.word_ids(row) for row in range(len(texts))]
        return np.array([[-1 if word is None else word for word in row] for row in rows])

    def tokens(self, ids: np.ndarray) -> list[list[str]]:
        """Return the tokens' texts, for figures."""
        return [list(self.tokenizer.convert_ids_to_tokens(row)) for row in np.asarray(ids).tolist()]

    def _encoded(self, texts: Sequence[str], max_length: int | None) -> Any:
        cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
        return self.tokenizer(list(texts), padding=True, **cut)


class _Given(nn.Module):
    """Stands where a model embeds tokens and gives what it was given."""

    def __init__(self, embedding: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.__dict__["embedding"] = embedding  # no submodule
        self.embeddings = embeddings
        self.eval()

    def __getattr__(self, name: str) -> Any:
        # Tied weights, a padding index: what a model reads off its embedding.
        return getattr(self.__dict__["embedding"], name)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embeddings


def _mark(rows: Tensor) -> float:
    # Far above the smallest number, so that a path from 0 to it keeps what it is.
    tiny = torch.finfo(rows.dtype).tiny
    return tiny if rows.dtype == torch.float16 else tiny * 2.0**20


def _marked(rows: Tensor) -> Tensor:
    """Return where embeddings (n, D, L) are padding, bool, shape (n, L): the mark or a part."""
    first = rows[:, :1]
    return ((rows == first) & (first > 0) & (first <= _mark(rows))).all(1)


def _embedding_name(model: nn.Module, embedding: nn.Embedding | None) -> str | None:
    """Return the path of the part that embeds tokens, None where it is not known."""
    if embedding is None:
        get = getattr(model, "get_input_embeddings", None)
        found = [get()] if callable(get) else []
        found = found or [part for part in model.modules() if isinstance(part, nn.Embedding)]
        if len(found) != 1:
            return None
        embedding = found[0]
    names: list[str] = [name for name, part in model.named_modules() if part is embedding]
    if not names:
        raise ValueError("embedding must be a part of model")
    return names[0]


def _parameters(model: nn.Module) -> list[str]:
    """Name the parameters of a model's forward; adapters pass theirs on."""
    while isinstance(model, Adapter) and isinstance(
        inner := model._modules.get("model"), nn.Module
    ):
        model = inner
    return list(inspect.signature(model.forward).parameters)
