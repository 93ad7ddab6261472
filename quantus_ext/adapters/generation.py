"""Language models: how probable a continuation is after a prompt whose tokens are removed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.tokens import RemovableTokens, Removal, TokenIds, texts_of_tokens

Prompt = str | Mapping[str, str] | Sequence[int]
"""A text, named parts of one that follow each other, or token ids."""

PROMPT, KEPT, CONTINUATION, CONTRAST = range(4)
"""What a token of a row is: its id is raised by so many times the size of the vocabulary."""


@dataclass(frozen=True)
class RemovableOfPrompt:
    """The feature mask of rows: every token of the prompt by itself, but special and kept ones."""

    tokens: RemovableTokens
    vocabulary: int

    def __call__(self, ids: Tensor) -> Tensor:
        """Return positions, shape (n, L), -1 where a token is never removed."""
        return self.tokens(ids).masked_fill(ids >= self.vocabulary, -1)


class Generation(TokenIds):
    r"""A language model, of which the log-probability of a continuation is explained.

    A row is a prompt with its continuation, as :meth:`encode` makes it. Elements are the prompt's
    tokens, and with ``s_batch`` its words (:meth:`words`) or named parts (:meth:`parts`); the
    continuation stays. Class 0, the explained one (``y_batch`` of zeros), is

    - with ``softmax=False`` the log-probability of the continuation, or, with ``contrast``, how
      much it is above that of another;
    - with ``softmax=True``, the default of metrics that remove elements, the probability p, or
      p / (p + p of the other).

    Class 1 is what is left to 1. What is removed keeps its place, as in :class:`TokenIds`.

    Parameters
    ----------
    model : torch.nn.Module
        Causal, or an encoder with a decoder, as Hugging Face has them: from ``input_ids`` and
        ``attention_mask`` to something with ``logits`` (n, L, vocabulary).
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        For prompts and continuations that are texts, and the ids of padding, mask and special
        tokens.
    output : {"sum", "mean"} or int, default "sum"
        Of the log-probabilities of the continuation's tokens: their sum, their mean, or that of
        one token, by its place, from the end if it is negative.
    contrast : bool, default False
        Explain the difference to a second continuation, that rows hold too.
    removal : {"mask", "pad", "delete", "zero"}, default "delete"
        See :class:`TokenIds`. A token that is not attended to, and has the padding's embedding,
        by default.
    pad_id, mask_id : int, optional
        The tokenizer's by default; for padding, where it has none, the end token's.
    special_ids : sequence of int
        Ids of the prompt that are never removed, besides the tokenizer's special ones.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules, or see :class:`TokenIds`.

    Examples
    --------
    A model for which a token is more probable where it was there before:

    >>> import numpy as np
    >>> import torch
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import Generation
    >>> class Repeats(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.embedding = torch.nn.Embedding.from_pretrained(2 * torch.eye(5))
    ...
    ...     def forward(self, input_ids, attention_mask):
    ...         return (self.embedding(input_ids) * attention_mask.unsqueeze(2)).cumsum(1)
    >>> model = Generation(Repeats().eval(), pad_id=0)
    >>> x = model.encode([[4, 2, 3]], [[2]])
    >>> x.tolist()  # the continuation's id is raised
    [[4, 2, 3, 12]]
    >>> a = model.maps([[0.0, 1.0, 0.0]], x)
    >>> metric = Deletion(3)
    >>> [f"{score:.2f}" for score in metric(model, x, np.array([0]), a)]
    ['0.13']
    >>> metric.details["curve"][0].round(2).tolist()  # the probability of 2
    [0.31, 0.06, 0.09, 0.2]
    """

    # Encoding texts leaves traces in it.
    unread = frozenset({"tokenizer"})

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        *,
        output: Literal["sum", "mean"] | int = "sum",
        contrast: bool = False,
        removal: Removal = "delete",
        pad_id: int | None = None,
        mask_id: int | None = None,
        special_ids: Sequence[int] = (),
    ) -> None:
        checks.module("model", model)
        if isinstance(output, str):
            checks.one_of("output", output, ("sum", "mean"))
        else:
            output = checks.integer("output", output)
        special = set(checks.naturals("special_ids", special_ids))
        if tokenizer is not None:
            if not hasattr(tokenizer, "all_special_ids"):
                raise TypeError(
                    "tokenizer must be one of Hugging Face's, or None, is "
                    f"{checks.shown(tokenizer)}"
                )
            special |= set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
            mask_id = tokenizer.mask_token_id if mask_id is None else mask_id
            for known in (tokenizer.pad_token_id, tokenizer.eos_token_id):
                pad_id = known if pad_id is None else pad_id
        if pad_id is None:
            raise ValueError("pad_id must be an id without a tokenizer that has one, is None")
        contrast = checks.flag("contrast", contrast)
        super().__init__(
            _Continued(model, output, contrast), mask_id, pad_id, sorted(special), removal=removal
        )
        known = self.vocabulary
        if known is None:
            raise ValueError(
                "model must say what embeds its tokens, by get_input_embeddings or as its only "
                "nn.Embedding"
            )
        assert isinstance(self.model, _Continued)
        self.size = self.model.size = known
        self.model.pad_id = self.pad_id
        self.output, self.contrast, self.tokenizer = output, contrast, tokenizer
        # Whether a single continuation is the likelier one is no answer to anything.
        self.one_label = contrast
        self.feature_mask = RemovableOfPrompt(
            RemovableTokens(self.pad_id, self.special_ids), self.size
        )

    def encode(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[str | Sequence[int]],
        contrasts: Sequence[str | Sequence[int]] | None = None,
        *,
        kept: Sequence[str] = (),
    ) -> NDArray[np.int64]:
        """Return ``x_batch``, shape (n, L): prompts, continuations and padding.

        Parameters
        ----------
        prompts : sequence of str, mapping or sequence of int
            Texts, tokenised with the tokenizer's special tokens; named parts of one, put together
            as they are; or token ids.
        continuations : sequence of str or sequence of int
            Tokenised by themselves, without special tokens, so mind the space that a text begins
            with; or token ids, of an end token too if it is to be explained.
        contrasts : sequence of str or sequence of int, optional
            The other continuations, with ``contrast``.
        kept : sequence of str
            Names of parts that are never removed, such as an instruction.

        Raises
        ------
        ValueError, TypeError
            If these are not as many, one is empty, or texts come without a tokenizer.
        """
        laid = self._laid_out(prompts, continuations, contrasts, checks.items("kept", kept))
        rows = [[kind * self.size + token for token, kind, _ in row] for row in laid]
        return _padded(rows, self.pad_id)

    def words(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[str | Sequence[int]],
        contrasts: Sequence[str | Sequence[int]] | None = None,
    ) -> NDArray[np.int64]:
        """Return the word of each token, shape (n, L), -1 where it is in none.

        As ``s_batch`` with ``element="segment"`` it makes words the elements. Arguments are those
        of :meth:`encode`; the tokenizer must know words, as fast ones do.
        """
        laid = self._laid_out(prompts, continuations, contrasts, [], "words")
        return _padded([[segment for *_, segment in row] for row in laid], -1)

    def parts(
        self,
        prompts: Sequence[Mapping[str, str]],
        continuations: Sequence[str | Sequence[int]],
        contrasts: Sequence[str | Sequence[int]] | None = None,
    ) -> NDArray[np.int64]:
        """Return the number of the named part that each token begins in, shape (n, L), else -1.

        As ``s_batch`` with ``element="segment"`` it makes the parts the elements: fields of a
        template, passages that were looked up. Arguments are those of :meth:`encode`.
        """
        laid = self._laid_out(prompts, continuations, contrasts, [], "parts")
        return _padded([[segment for *_, segment in row] for row in laid], -1)

    def tokens(self, x_batch: Any) -> list[Any]:
        """Return the tokens' texts, for figures: a list for each row, or those of one row (L,)."""
        if self.tokenizer is None:
            raise ValueError("tokenizer must be given for texts, is None")
        ids = checks.whole("x_batch", x_batch) % self.size
        return texts_of_tokens(self.tokenizer, ids)

    def check_inputs(self, x: Tensor) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_inputs`."""
        kind = x.div(self.size, rounding_mode="floor")
        counts = {each: (kind == each).sum(1) for each in (CONTINUATION, CONTRAST)}
        least = 1
        if isinstance(self.output, int):
            least = self.output + 1 if self.output >= 0 else -self.output
        for each, wanted in ((CONTINUATION, least), (CONTRAST, least if self.contrast else 0)):
            short = counts[each] < wanted
            beyond = counts[each] > 0 if each == CONTRAST and not self.contrast else short
            wrong = (short | beyond | (x >= (CONTRAST + 1) * self.size).any(1)).nonzero()
            if len(wrong):
                raise ValueError(
                    "rows must be as encode() of the adapter makes them, a prompt with a "
                    f"continuation of {least} tokens or more"
                    f"{' and a contrast' if self.contrast else ''}; sample {int(wrong[0, 0])} is "
                    "not"
                )

    def over_embeddings(self) -> Any:
        """Raise ValueError: a continuation has no embedding that a perturbation could change."""
        raise ValueError(
            "perturb_func and perturb_baseline must be left out for a Generation, whose prompt's "
            "tokens are removed as its `removal` says; Infidelity takes maps that carry the input "
            "factor, a value a token: pass multiply_by_inputs=True; AverageDrop, AverageIncrease "
            "and AverageGain cannot weight tokens: use Deletion or Fidelity"
        )

    def _told(self, ids: Tensor) -> Tensor:
        """See :meth:`TokenIds._told`: the prompt."""
        return super()._told(ids) & (ids < CONTINUATION * self.size)

    def _laid_out(
        self,
        prompts: Sequence[Prompt],
        continuations: Sequence[Any],
        contrasts: Sequence[Any] | None,
        kept: list[str],
        segments: Literal["words", "parts"] | None = None,
    ) -> list[list[tuple[int, int, int]]]:
        """Return each sample's tokens: id, what it is, and its segment."""
        if (contrasts is not None) != self.contrast:
            raise ValueError(
                "contrasts must be given with contrast=True and only then, "
                f"{'are' if self.contrast else 'are not'} to be: contrast is {self.contrast}"
            )
        asked = checks.entries("prompts", prompts)
        parts = [name for prompt in asked if isinstance(prompt, Mapping) for name in prompt]
        unknown = [name for name in kept if name not in parts]
        if unknown:
            raise ValueError(
                f"kept must hold names of parts of prompts, {list(dict.fromkeys(parts))}, holds "
                f"{checks.shown(unknown[0])}"
            )
        said = checks.entries("continuations", continuations, len(asked))
        others: list[Any] = [None] * len(asked)
        if contrasts is not None:
            others = checks.entries("contrasts", contrasts, len(asked))
        rows = []
        for sample, (prompt, *follow) in enumerate(zip(asked, said, others, strict=True)):
            row = self._prompt(prompt, kept, segments, sample)
            if not row:
                raise ValueError(
                    f"prompts must hold a token at least, that of sample {sample} none"
                )
            for kind, given in zip((CONTINUATION, CONTRAST), follow, strict=True):
                if given is not None:
                    name = "continuations" if kind == CONTINUATION else "contrasts"
                    ids = self._ids(name, given, special=False)["input_ids"]
                    if not ids:
                        raise ValueError(f"{name} must hold a token each, sample {sample} has none")
                    row += [(token, kind, -1) for token in ids]
            rows.append(row)
        return rows

    def _prompt(
        self, prompt: Prompt, kept: list[str], segments: str | None, sample: int
    ) -> list[tuple[int, int, int]]:
        """Return a prompt's tokens, see :meth:`_laid_out`."""
        fields = dict(prompt) if isinstance(prompt, Mapping) else {}
        if segments == "parts" and not fields:
            raise TypeError(f"prompts must hold mappings of named parts, not that of {sample}")
        text = "".join(fields.values()) if fields else prompt
        encoded = self._ids("prompts", text, special=True, places=bool(fields))
        ids = encoded["input_ids"]
        own = [-1] * len(ids)
        if fields:
            ends = np.cumsum([len(value) for value in fields.values()])
            # What has no place in the text, as a start token, is in no part.
            own = [
                int(np.searchsorted(ends, start, side="right")) if stop > start else -1
                for start, stop in encoded["offset_mapping"]
            ]
        names = list(fields)
        found = own
        if segments == "words":
            if not getattr(encoded, "is_fast", False):
                raise ValueError("tokenizer must know the words of its tokens, as fast ones do")
            found = [-1 if word is None else word for word in encoded.word_ids(0)]
        special = {*self.special_ids, self.pad_id}
        return [
            (
                token,
                KEPT if token in special or (part >= 0 and names[part] in kept) else PROMPT,
                segment,
            )
            for token, part, segment in zip(ids, own, found, strict=True)
        ]

    def _ids(self, name: str, given: Any, *, special: bool, places: bool = False) -> Any:
        """Return the tokenizer's encoding of a text, or ids in the form of one."""
        if not isinstance(given, str):
            ids = checks.naturals(name, given)
            for token in ids:
                if token >= self.size:
                    raise ValueError(f"{name} must hold ids below {self.size}, hold {token}")
            return {"input_ids": ids}
        if self.tokenizer is None:
            raise ValueError(f"{name} must hold token ids without a tokenizer, hold a text")
        if places and not self.tokenizer.is_fast:
            raise ValueError("tokenizer must know the places of its tokens, as fast ones do")
        return self.tokenizer(given, add_special_tokens=special, return_offsets_mapping=places)


def _padded(rows: Sequence[Sequence[int]], value: int) -> NDArray[np.int64]:
    """Return rows as an array, filled up at their ends."""
    made = np.full((len(rows), max(map(len, rows), default=0)), value, dtype=np.int64)
    for target, row in zip(made, rows, strict=True):
        target[: len(row)] = row
    return made


class _Continued(nn.Module):
    """A language model as a classifier of rows: how probable their continuations are.

    Its attributes ``size`` and ``pad_id``, the vocabulary's and the id of padding, are set once
    they are known.
    """

    size: int
    pad_id: int

    def __init__(
        self, model: nn.Module, output: Literal["sum", "mean"] | int, contrast: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.output, self.contrast = output, contrast
        parameters = inspect.signature(model.forward).parameters
        if "attention_mask" not in parameters:
            raise ValueError("model must have a parameter attention_mask in its forward")
        self.takes_places = "logits_to_keep" in parameters
        self.settings = {"use_cache": False} if "use_cache" in parameters else {}
        config = getattr(model, "config", None)
        self.decodes = bool(getattr(config, "is_encoder_decoder", False))
        self.start_id: int | None = getattr(config, "decoder_start_token_id", None)
        if self.decodes and self.start_id is None:
            raise ValueError("model must have config.decoder_start_token_id, is None")

    @property
    def config(self) -> Any:
        """The model's own."""
        return getattr(self.model, "config", None)

    def get_input_embeddings(self) -> nn.Module | None:
        """Return what embeds tokens, by what the model says."""
        get = getattr(self.model, "get_input_embeddings", None)
        if callable(get):
            found: nn.Module = get()
            return found
        parts = [part for part in self.model.modules() if isinstance(part, nn.Embedding)]
        return parts[0] if len(parts) == 1 else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **keywords: Any) -> Tensor:
        """Return log-probabilities, shape (n, 2), see :class:`Generation`."""
        keywords = {**self.settings, **keywords}
        keywords.pop("decoder_attention_mask", None)
        text = input_ids != self.pad_id
        # Below 0 are tokens of the prompt whose embeddings are given.
        kind = input_ids.div(self.size, rounding_mode="floor").clamp(min=PROMPT)
        tokens = input_ids - kind * self.size
        prompt = text & (kind <= KEPT)
        value = self._value(tokens, prompt, kind == CONTINUATION, attention_mask, keywords)
        if self.contrast:
            other = self._value(tokens, prompt, kind == CONTRAST, attention_mask, keywords)
            value = value - other
            return torch.stack([value, torch.zeros_like(value)], 1)
        # What is left to 1, of a certain continuation as little as can be told.
        below = value.clamp(max=-torch.finfo(value.dtype).eps)
        return torch.stack([value, (-torch.expm1(below)).log()], 1)

    def _value(
        self,
        tokens: Tensor,
        prompt: Tensor,
        follows: Tensor,
        attended: Tensor,
        keywords: Mapping[str, Any],
    ) -> Tensor:
        """Return the log-probability, as ``output`` says, of what follows prompts, shape (n,)."""
        ask = self._decoder if self.decodes else self._causal
        found, counts = ask(tokens, prompt, follows, attended, dict(keywords)), follows.sum(1)
        if isinstance(self.output, int):
            place = self.output + (counts if self.output < 0 else 0 * counts)
            return found.gather(1, place.unsqueeze(1)).squeeze(1)
        return found.sum(1) / (counts if self.output == "mean" else 1)

    def _causal(
        self,
        tokens: Tensor,
        prompt: Tensor,
        follows: Tensor,
        attended: Tensor,
        keywords: dict[str, Any],
    ) -> Tensor:
        """Return the log-probability of each token that follows, left-aligned, 0 behind them."""
        kept = prompt | follows
        order = kept.long().argsort(dim=1, descending=True, stable=True)[:, : kept.sum(1).max()]
        tokens, follows, attended, kept = (
            each.gather(1, order) for each in (tokens, follows, attended, kept)
        )
        if "position_ids" in keywords:
            keywords["position_ids"] = (kept.long().cumsum(1) - 1).clamp(min=0)
        # Each token is foretold at the place before it.
        places = follows[:, 1:].any(0).nonzero()[:, 0]
        if self.takes_places:
            keywords["logits_to_keep"] = places
        logits = _logits(self.model(tokens, attention_mask=attended * kept, **keywords))
        if not self.takes_places:
            logits = logits[:, places]
        return _log_probabilities(logits, tokens[:, places + 1], follows[:, places + 1])

    def _decoder(
        self,
        tokens: Tensor,
        prompt: Tensor,
        follows: Tensor,
        attended: Tensor,
        keywords: dict[str, Any],
    ) -> Tensor:
        """Return the same of an encoder of prompts with a decoder of what follows."""
        width = int(prompt.sum(1).max())
        order = follows.long().argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(follows.sum(1).max())]
        targets, present = tokens.gather(1, order), follows.gather(1, order)
        assert self.start_id is not None
        begun = nn.functional.pad(targets.masked_fill(~present, self.pad_id)[:, :-1], (1, 0))
        begun[:, 0] = self.start_id
        output = self.model(
            tokens.masked_fill(~prompt, self.pad_id)[:, :width],
            attention_mask=(attended * prompt)[:, :width],
            decoder_input_ids=begun,
            decoder_attention_mask=nn.functional.pad(present[:, :-1], (1, 0), value=True).long(),
            **keywords,
        )
        return _log_probabilities(_logits(output), targets, present)


def _logits(output: Any) -> Tensor:
    found: Tensor = getattr(output, "logits", output)
    # Logarithms of many tokens' probabilities are summed, which is no place to lose digits.
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _log_probabilities(logits: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    """Return log-probabilities of tokens (n, k), moved to the left, 0 where there is none."""
    # Elsewhere there may be no ids of tokens.
    known = targets.masked_fill(~present, 0).unsqueeze(2)
    chosen = logits.gather(2, known).squeeze(2)
    found = (chosen - logits.logsumexp(2)).masked_fill(~present, 0)
    return found.gather(1, present.long().argsort(dim=1, descending=True, stable=True))
