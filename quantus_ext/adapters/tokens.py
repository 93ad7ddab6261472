"""Models of text: rows of token ids in, class scores out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.adapters.token_checks import check_text_model
from quantus_ext.engine.modules import with_any_rows, with_submodule

Removal = Literal["mask", "pad", "delete", "zero"]

REMOVED = -1
"""The id that stands for a removed token in the rows that metrics make."""

_FIRST_CODE = -1000
"""Ids from here downwards stand for embeddings that are given. Nothing else has them: libraries
mean something by -1 and -100."""


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
    r"""A model over token ids, shape (n, L).

    Ids stay integers. An element is a token; padding and special tokens are never removed or
    counted. Attributions have the shape (n, L), or (n, L, D) over embeddings.

    By default, metrics remove tokens as ``removal`` says. Your own ``perturb_func`` or
    ``perturb_baseline`` (noise, blur, a mean) applies to the embeddings, and so does Infidelity
    unless its attributions include the input (``multiply_by_inputs=True``); on embeddings, it needs
    attributions over them. With Quantus's own metrics, which know no tokens,
    ``perturb_baseline=TokenIds.REMOVED`` removes in the same way.

    Everything that a model derives from ids, other than embeddings, comes from the complete text: a
    removed token keeps its position, and a decoder classifies at the end of the complete text,
    padded left or right. Metrics first send one or two texts, and refuse a model that behaves
    differently, or whose answer depends on the side or the id of the padding.

    Parameters
    ----------
    model : torch.nn.Module
        From ids (n, L), and an ``attention_mask`` if its ``forward`` has this parameter, to scores
        (n, classes), or an object with ``logits``. If it has ``position_ids``, it gets positions
        that do not count padding, from 0 or where its own begin, unless it derives them from the
        ids, like RoBERTa.
    mask_id : int or None
        Id of the mask token; None only if ``removal`` is not "mask".
    pad_id : int
        Id of the padding token.
    special_ids : sequence of int
        Other ids that are never removed, such as those of start and end tokens.
    removal : {"mask", "pad", "delete", "zero"}, default "mask"
        A removed token becomes the mask token; the padding token, still attended to; a position
        that is not attended to; or a zero embedding.
    embedding : torch.nn.Embedding, optional
        The token embedding in ``model``; by default that of ``get_input_embeddings``, or its only
        ``nn.Embedding``. In a model without any, "pad" and "delete" use the padding id.
    padding_side : {"left", "right"}, optional
        Where the model has its padding: padding on the other side is moved before each call, for
        example for left-padded texts of an encoder, which classifies from its first token. By
        default it stays.

    Raises
    ------
    ValueError, TypeError
        If an argument is invalid, or ``removal`` needs an attention mask or embeddings that the
        model does not have.

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
        padding_side: Literal["left", "right"] | None = None,
    ) -> None:
        super().__init__(checks.module("model", model))
        if with_any_rows(model) is not model:
            raise ValueError(
                "model must take any number of texts, was exported for one number: export it with "
                "dynamic_shapes"
            )
        self.takes_ids, self.removed = True, REMOVED
        checks.one_of("removal", removal, ("mask", "pad", "delete", "zero"))
        if removal == "mask" and mask_id is None:
            raise ValueError("mask_id must be an id with removal='mask', is None")
        self.mask_id = checks.optional(checks.natural, "mask_id", mask_id)
        self.pad_id = checks.natural("pad_id", pad_id)
        self.special_ids = tuple(checks.naturals("special_ids", special_ids))
        self.removal = removal
        if padding_side is not None:
            checks.one_of("padding_side", padding_side, ("left", "right"))
        self.padding_side = padding_side
        parameters = _parameters(model)
        self.takes_attention = "attention_mask" in parameters
        self.takes_decoder_attention = "decoder_attention_mask" in parameters
        self.takes_positions = (
            self.takes_attention
            and "position_ids" in parameters
            and not _has(model, "create_position_ids_from_input_ids")
        )
        self.first_position = _first_position(model)
        if removal == "delete" and not self.takes_attention:
            raise ValueError(
                "removal='delete' needs a model whose forward has a parameter attention_mask"
            )
        if removal == "delete" and not self.takes_positions and _alibi_from_attention(model):
            raise ValueError(
                "removal='delete' would move tokens: the model derives positions from its "
                "attention mask (ALiBi); take 'mask', 'pad' or 'zero'"
            )
        self.embedding_name = _embedding_name(model, embedding)
        if removal == "zero":
            self.require_embedding()
        several = sum(isinstance(part, nn.Embedding) for part in model.modules()) > 1
        if removal in ("pad", "delete") and self.embedding_name is None and several:
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

    def check_answers(self, x: Tensor, keywords: Mapping[str, Any]) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_answers`."""
        check_text_model(self, x, keywords)

    def removable(self, ids: Tensor) -> Tensor:
        """Return where ids (n, L) are tokens that can be removed, bool."""
        assert self.feature_mask is not None
        return self.feature_mask(ids) >= 0

    def maps(self, attributions: Any, x_batch: Any, y_batch: Any = None) -> NDArray[np.float64]:
        """Return ``a_batch``, shape (n, L), of what explainers say of one text at a time.

        Parameters
        ----------
        attributions : sequence or shap.Explanation
            Of each text a value for each of its tokens, or for each that can be removed: an array,
            or what captum's ``LLMAttribution`` returns. With an axis of classes behind, as of
            SHAP values, the explained one is taken.
        x_batch : array of int, shape (n, L)
        y_batch : array of int, shape (n,), optional
            Explained classes, where there is such an axis.

        Raises
        ------
        ValueError, TypeError
            If a text's values are not as many.

        Examples
        --------
        >>> import torch
        >>> from quantus_ext.adapters import TokenIds
        >>> bag = torch.nn.EmbeddingBag(9, 2).eval()
        >>> model = TokenIds(bag, mask_id=1, pad_id=0, special_ids=[2])
        >>> model.maps([[0.5, 0.3], [0.1, 0.2, 0.4]], [[2, 7, 8, 0], [2, 5, 6, 0]]).tolist()
        [[0.0, 0.5, 0.3, 0.0], [0.1, 0.2, 0.4, 0.0]]
        """
        rows = torch.as_tensor(checks.whole("x_batch", x_batch))
        held = getattr(attributions, "values", attributions)
        given = checks.entries("attributions", held, len(rows))
        labels = None if y_batch is None else checks.labels(y_batch, len(rows))
        maps = np.zeros(tuple(rows.shape))
        told, removable = self._told(rows).numpy(), self.removable(rows).numpy()
        for sample, each in enumerate(given):
            values = checks.float64("attributions", getattr(each, "seq_attr", each))
            if values.ndim == 2 and labels is not None and labels[sample] < values.shape[1]:
                values = values[:, labels[sample]]
            fitting = [
                place[sample]
                for place in (told, removable)
                if values.shape == (place[sample].sum(),)
            ]
            if not fitting:
                raise ValueError(
                    f"attributions must hold a value for each of {told[sample].sum()} tokens of "
                    f"sample {sample}, or of {removable[sample].sum()} that can be removed, hold "
                    f"shape {values.shape}: for an axis of classes behind pass y_batch"
                )
            maps[sample, fitting[0]] = values
        return maps

    def _told(self, ids: Tensor) -> Tensor:
        """Return of which tokens explainers tell, bool, shape (n, L): all but padding."""
        return ids != self.pad_id

    @property
    def vocabulary(self) -> int | None:
        """The number of tokens that the model embeds; None if unknown."""
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
        text = ids != self.pad_id
        attended = text & ~removed if self.removal == "delete" else text
        if not self.by_embeddings:
            stand_in = self.mask_id if self.removal == "mask" else self.pad_id
            assert stand_in is not None
            return self.ask(ids.masked_fill(removed, stand_in), text, attended, **keywords)
        # A normal token's id, for whatever the model derives from ids.
        tokens, model = ids.masked_fill(removed, _FIRST_CODE), self.model
        for path, part in self._places():
            filled = part(ids.new_tensor([self.pad_id]))
            given = torch.zeros_like(filled) if self.removal == "zero" else filled
            model = with_submodule(model, path, _Given(part, given, self.pad_id))
        return self.ask(tokens, text, attended, model, **keywords)

    def ask(
        self,
        tokens: Tensor,
        text: Tensor,
        attended: Tensor,
        model: nn.Module | None = None,
        **keywords: Any,
    ) -> Tensor:
        """Ask the model or a twin of it, with what it takes besides tokens.

        Parameters
        ----------
        tokens : Tensor of int64, shape (n, L)
        text, attended : Tensor of bool, shape (n, L)
            Where the whole text is, and what of it is attended to.
        model : torch.nn.Module, optional
        **keywords
            Passed to the model.
        """
        if self.padding_side is not None:
            right = self.padding_side == "right"
            order = text.long().argsort(dim=1, descending=right, stable=True)
            tokens, text, attended = (each.gather(1, order) for each in (tokens, text, attended))
        if self.takes_attention:
            if "attention_mask" in keywords:
                raise ValueError(
                    "model_predict_kwargs must not hold attention_mask: the adapter makes it for "
                    "each row, of what is not padding and not removed; leave it out"
                )
            keywords["attention_mask"] = attended.long()
        if self.takes_decoder_attention:
            # Classifying decoders see the text one position later, after a start token.
            keywords.setdefault(
                "decoder_attention_mask",
                nn.functional.pad(attended[:, :-1], (1, 0), value=1).long(),
            )
        if self.takes_positions:
            positions = (text.long().cumsum(1) - 1).clamp(min=0) + self.first_position
            keywords.setdefault("position_ids", positions)
        output = (self.model if model is None else model)(tokens, **keywords)
        scores: Tensor = getattr(output, "logits", output)
        return scores

    def ask_embeddings(
        self, embeddings: Tensor, tokens: Tensor, given: Tensor, **keywords: Any
    ) -> Tensor:
        """Ask the model with other embeddings (n, L, D) of the tokens that are ``given`` (n, L)."""
        codes = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)
        rows, model = embeddings.reshape(-1, embeddings.shape[-1]), self.model
        # Shallow copies, so that the caller's model is never modified, in any thread.
        for path, part in self._places():
            model = with_submodule(model, path, _Given(part, rows, self.pad_id))
        text = tokens != self.pad_id
        return self.ask(
            torch.where(given, _FIRST_CODE - codes, tokens), text, text, model, **keywords
        )

    def _places(self) -> Iterator[tuple[list[str], nn.Module]]:
        """Name every place where the model embeds tokens, also by a module with tied weights."""
        part, found = self.require_embedding(), ""
        weight = getattr(part, "weight", None)
        for name, each in self.model.named_modules(remove_duplicate=False):
            tied = isinstance(each, nn.Embedding) and each.weight is weight
            if (each is part or tied) and not (found and name.startswith(f"{found}.")):
                found = name
                yield name.split("."), each

    @property
    def by_embeddings(self) -> bool:
        """Whether removed tokens are asked for by embeddings, not by the id of another token."""
        if self.embedding_name is None:
            return False
        # Models find the end of a text by these ids, so no text may gain one.
        ends = (self.pad_id, getattr(getattr(self.model, "config", None), "eos_token_id", None))
        return self.removal != "mask" or self.mask_id in ends

    def over_embeddings(self) -> EmbeddedTokens:
        """Return the same model over embeddings.

        Raises
        ------
        ValueError
            If the token embedding is unknown.
        """
        return EmbeddedTokens(self)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings of ids (n, L), shape (n, D, L)."""
        return self.over_embeddings().embed(x)

    def require_embedding(self) -> nn.Module:
        """Return the token embedding of the model, or raise ValueError."""
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
        self.channel_first = True
        self.padding_mask = _marked

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings of ids (n, L), shape (n, D, L), with padding marked."""
        with torch.no_grad():
            embeddings: Tensor = self.tokens.require_embedding()(x)
        padding = (x == self.tokens.pad_id).unsqueeze(-1)
        # Not a real embedding, and negligible in every sum.
        return embeddings.masked_fill(padding, _mark(embeddings)).movedim(-1, 1).contiguous()

    def forward(self, rows: Tensor, **keywords: Any) -> Tensor:
        """Return the scores of embeddings (n, D, L), shape (n, classes)."""
        text = ~_marked(rows)
        ids = torch.full_like(text, self.tokens.pad_id, dtype=torch.int64).masked_fill(
            text, REMOVED
        )
        return self.tokens.ask_embeddings(rows.movedim(1, -1), ids, text, **keywords)


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
        Provides the ids of mask, padding and special tokens. An unknown word counts as a word.
    removal : {"mask", "pad", "delete", "zero"}, default "mask"
    padding_side : {"left", "right"}, optional
        See :class:`TokenIds`.

    Raises
    ------
    ValueError
        If the tokenizer has no padding token, or no mask token with ``removal="mask"``.
    """

    # Encoding texts changes the tokenizer's state.
    unread = frozenset({"tokenizer"})

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        removal: Removal = "mask",
        padding_side: Literal["left", "right"] | None = None,
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError("tokenizer must have a padding token: set its pad_token")
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id, tokenizer.pad_token_id}
        super().__init__(
            model,
            tokenizer.mask_token_id,
            tokenizer.pad_token_id,
            sorted(special),
            removal=removal,
            padding_side=padding_side,
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
        """Return the number of each token's word, int64, shape (n, L), -1 if it is in none.

        As ``s_batch`` with ``element="segment"``, it makes words the elements.

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

    def tokens(self, ids: Any) -> list[Any]:
        """Return the text of each token, for figures: a list for each row, or that of one row."""
        return texts_of_tokens(self.tokenizer, np.asarray(ids))

    def _encoded(self, texts: Sequence[str], max_length: int | None) -> Any:
        cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
        return self.tokenizer(list(texts), padding=True, **cut)


def texts_of_tokens(tokenizer: Any, ids: NDArray[Any]) -> list[Any]:
    """Return the texts of tokens (n, L), a list for each row, or of one row (L,)."""
    rows = np.atleast_2d(ids).tolist()
    texts = [list(tokenizer.convert_ids_to_tokens(row)) for row in rows]
    return texts[0] if ids.ndim == 1 else texts


class _Given(nn.Module):
    """Stands where a model embeds tokens and gives rows of its own for the ids that code them.

    By ids, not by places: models shift tokens, for a decoder, and pad them.
    """

    def __init__(self, embedding: nn.Module, rows: Tensor, pad_id: int) -> None:
        super().__init__()
        self.__dict__["embedding"] = embedding  # no submodule
        self.rows, self.pad_id = rows, pad_id
        self.eval()

    def __getattr__(self, name: str) -> Any:
        # Tied weights, a padding index: what a model reads off its embedding.
        return getattr(self.__dict__["embedding"], name)

    def forward(self, tokens: Tensor) -> Tensor:
        given = tokens <= _FIRST_CODE
        own: Tensor = self.__dict__["embedding"](tokens.masked_fill(given, self.pad_id))
        rows = self.rows[(_FIRST_CODE - tokens).clamp(min=0)]
        return torch.where(given.unsqueeze(-1), rows, own)


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


def _parameters(model: nn.Module) -> frozenset[str]:
    """Name the parameters of a model's forward; what passes all on takes those of its one part."""
    names: set[str] = set()
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            script: Any = model.forward
            return frozenset(names.union(each.name for each in script.schema.arguments))
        # If the instance overrides it, the class may know more.
        given = [
            each
            for forward in (model.forward, type(model).forward)
            for each in inspect.signature(forward).parameters.values()
        ]
        names |= {each.name for each in given}
        # A module in two places is one module.
        parts = list(dict.fromkeys(model._modules.values()))
        if isinstance(model, Adapter):
            parts = [model._modules.get("model")]
        elif not any(each.kind is each.VAR_KEYWORD for each in given):
            parts = []
        if len(parts) != 1 or parts[0] is None:
            return frozenset(names)
        model = parts[0]


def _has(model: nn.Module, name: str) -> bool:
    """Return whether a part of a model, or the file that defines it, has something so named."""
    return any(
        hasattr(type(part), name) or hasattr(sys.modules.get(type(part).__module__), name)
        for part in model.modules()
    )


def _first_position(model: nn.Module) -> int:
    """Return the first position of a model, which is 2 for Nyströmformer."""
    own = [each for name, each in model.named_buffers() if name.split(".")[-1] == "position_ids"]
    known = own and own[0].numel() and not own[0].is_meta
    return int(own[0].flatten()[0]) if known else 0


def _alibi_from_attention(model: nn.Module) -> bool:
    """Return whether a model has linear biases that it makes from its attention mask."""
    chosen = getattr(getattr(model, "config", None), "alibi", True)
    return chosen is not False and _has(model, "build_alibi_tensor")
