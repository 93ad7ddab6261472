"""What models of text read off their ids besides embeddings is that of the whole text.

Expected answers are those of the library to one text alone, from embeddings, with the places of the
whole text; a decoder's is taken at its last token. More architectures: benchmarks/model_zoo.py.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from quantus.functions.perturb_func import gaussian_noise
from torch import Tensor, nn

from quantus_ext import Deletion, Infidelity
from quantus_ext.adapters import TokenIds

PAD, MASK, START, END, VOCABULARY = 1, 4, 0, 2, 20
SMALL = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
    "num_labels": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
BART = {
    "d_model": 16,
    "init_std": 0.5,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "Bert": {},
    "Roberta": {},
    "GPT2": GPT,
    "Llama": {},
    "OPT": {"ffn_dim": 16, "word_embed_proj_dim": 16},
    "Bloom": {"n_layer": 2, "n_head": 2},
    "XLNet": {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16},
    "ConvBert": {"embedding_size": 16},
    "Bart": BART,
}
REMOVALS = ["mask", "pad", "delete", "zero"]


def classifier(name: str, **settings: Any) -> nn.Module:
    given = {**SMALL, **SETTINGS[name], **settings}
    if name == "XLNet":
        del given["max_position_embeddings"]  # it has no longest text
    config = getattr(transformers, f"{name}Config")(**given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, f"{name}ForSequenceClassification")(config)
        with torch.no_grad():
            for weight in made.parameters():
                weight += 0.1 * torch.randn_like(weight)
    # Bloom overflows in double precision where a row of its mask is empty.
    return made.eval() if name == "Bloom" else made.double().eval()


def alone(
    model: nn.Module, ids: list[int], removed: list[int], removal: str, first: int
) -> np.ndarray:
    """Ask the library for a whole text without padding, in other words than the adapter does."""
    row, embed = torch.tensor([ids]), model.get_input_embeddings()
    given: dict[str, Any] = {"attention_mask": torch.ones_like(row)}
    if "position_ids" in inspect.signature(model.forward).parameters:
        given["position_ids"] = torch.arange(first, first + len(ids))[None]
    if removal == "delete":
        given["attention_mask"][0, removed] = 0
    stand_in = {"mask": embed.weight[MASK], "zero": 0 * embed.weight[0]}
    with torch.no_grad():
        rows = embed(row).clone()
        rows[0, removed] = stand_in.get(removal, embed.weight[PAD])
        return model(inputs_embeds=rows, **given).logits[0].numpy()


TEXT = [START, 7, 9, 12, 5, 9]
WAYS = [[], [1], [5], [2, 3], [1, 2, 3, 4, 5]]


def padded(side: str, ids: list[int] = TEXT, length: int = 9) -> Tensor:
    """Return ways of removing words from a text, padded on one side."""
    rows = []
    for removed in WAYS:
        row = [TokenIds.REMOVED if k in removed else each for k, each in enumerate(ids)]
        gap = [PAD] * (length - len(row))
        rows.append(row + gap if side == "right" else gap + row)
    return torch.tensor(rows)


SIDES = {
    "Bert": ("right",),
    "Roberta": ("right",),
    "XLNet": ("left",),
    **dict.fromkeys(("GPT2", "Llama", "OPT", "Bloom"), ("right", "left")),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "removal"),
    [
        (name, side, removal)
        for name, sides in SIDES.items()
        for side in sides
        for removal in REMOVALS
        if (name, removal) != ("Bloom", "delete")  # refused, see below
    ],
)
def test_answers_are_those_to_the_whole_text(name: str, side: str, removal: str):
    model = classifier(name)
    # RoBERTa counts from the padding's id on.
    first = PAD + 1 if name == "Roberta" else 0
    expected = [alone(model, TEXT, removed, removal, first) for removed in WAYS]
    box = TokenIds(model, MASK, PAD, [START, END], removal=removal)
    with torch.no_grad():
        found = box(padded(side)).numpy()
    precise = 1e-5 if name == "Bloom" else 1e-9
    np.testing.assert_allclose(found, expected, rtol=precise, atol=precise)
    assert np.ptp(found, axis=0).min() > 0.01
    # Metrics go the same way: the whole text, then all of it removed.
    ids = padded(side)[:1].numpy()
    metric = Deletion(1)
    metric(box, ids, np.array([1]), np.ones(ids.shape), softmax=False)
    ends = np.stack([expected[0], expected[-1]])[:, 1]
    np.testing.assert_allclose(metric.details["curve"][0], ends, rtol=precise)


def test_a_mask_token_that_is_padding_does_not_move_a_text():
    model = classifier("Llama")
    box = TokenIds(model, PAD, PAD, [START])
    expected = [alone(model, TEXT, removed, "pad", 0) for removed in WAYS]
    with torch.no_grad():
        np.testing.assert_allclose(box(padded("right")).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("removal", REMOVALS)
def test_encoders_and_decoders_with_tied_embeddings(removal: str):
    # Both embed by modules of their own that share the weights; the decoder reads one token later.
    model = classifier("Bart", decoder_start_token_id=END)
    assert model.model.encoder.embed_tokens is not model.get_input_embeddings()
    text, embed = [*TEXT, END], model.get_input_embeddings()
    expected = []
    for removed in WAYS:
        seen, rows = (
            torch.ones(1, len(text), dtype=torch.int64),
            embed(torch.tensor([text])).clone(),
        )
        stand_in = {"mask": embed.weight[MASK], "zero": 0 * embed.weight[0]}
        rows[0, removed] = stand_in.get(removal, embed.weight[PAD])
        if removal == "delete":
            seen[0, removed] = 0
        states = model.model(
            inputs_embeds=rows,
            attention_mask=seen,
            decoder_inputs_embeds=torch.cat([embed(torch.tensor([[END]])), rows[:, :-1]], 1),
            decoder_attention_mask=torch.cat([seen[:, -1:], seen[:, :-1]], 1),
        )[0]
        expected.append(model.classification_head(states[:, -1])[0])
    box = TokenIds(model, MASK, PAD, [START, END], removal=removal)
    torch.testing.assert_close(box(padded("right", text)), torch.stack(expected))


def test_embeddings_of_a_decoder_are_asked_where_the_text_ends():
    model = classifier("GPT2")
    box, ids = TokenIds(model, MASK, PAD, [START]), padded("left")[:1]
    embedded = box.over_embeddings()
    rows = embedded.embed(ids)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).to(rows)
    noisy = torch.where(ids[:, None] == PAD, rows, rows + noise)
    with torch.no_grad():
        expected = model(inputs_embeds=noisy[:, :, 3:].movedim(1, 2)).logits
        torch.testing.assert_close(embedded(noisy), expected)
    a = np.ones((1, 9, 16))
    score = Infidelity(perturb_func=gaussian_noise, perturb_patch_sizes=[1], n_perturb_samples=4)
    assert np.isfinite(score(box, ids.numpy(), np.array([0]), a)).all()


def test_padding_on_the_side_that_a_model_cannot_take_is_refused_and_moved_on_request():
    def score(box: TokenIds, side: str) -> list[float]:
        ids = padded(side)[:1].numpy()
        a = np.where(ids == PAD, 99, np.cumsum(ids != PAD, 1))
        return Deletion([0.4])(box, ids, np.array([1]), a)

    # BERT answers from its first token, XLNet from its last.
    for name, side, other in (("Bert", "right", "left"), ("XLNet", "left", "right")):
        model = classifier(name)
        box = TokenIds(model, MASK, PAD, [START])
        expected = score(box, side)
        with pytest.raises(ValueError, match=f"padding_side must be '{side}' for this model"):
            score(box, other)
        moving = TokenIds(model, MASK, PAD, [START], padding_side=side)
        for each in ("right", "left"):
            np.testing.assert_allclose(score(moving, each), expected)
        np.testing.assert_array_equal(score(pickle.loads(pickle.dumps(moving)), other), expected)
    with pytest.raises(ValueError, match="padding_side must be one of 'left', 'right'"):
        TokenIds(model, MASK, PAD, padding_side="both")


class Reader(nn.Module):
    """Reads tokens and places, and is told where to look."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, 4, PAD), nn.Embedding(32, 4)
        self.head = nn.Linear(4, 2)

    def states(self, ids: Tensor, attention_mask: Tensor, places: Tensor) -> Tensor:
        mixed = torch.tanh(self.tokens(ids) + self.places(places)) * attention_mask[:, :, None]
        return self.head(mixed).cumsum(1)

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens


class FromIds(Reader):
    """As decoders are: what is not padding makes its places, and where it is asked."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        text = (ids != PAD).long()
        states = self.states(ids, attention_mask, text.cumsum(1) * text)
        last = (text * torch.arange(ids.shape[1])).argmax(1)
        return states[torch.arange(len(ids)), last]


class AtAWord(Reader):
    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.states(ids, attention_mask, torch.arange(ids.shape[1])[None])
        return states[torch.arange(len(ids)), (ids == 12).long().argmax(1)]


class Lengths(Reader):
    """Takes the attention mask for a length, as packed sequences are made."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1])[None]
        first = (places < attention_mask.sum(1, keepdim=True)).long()
        return self.states(ids, first, places)[:, -1]


class Elsewhere(Reader):
    """Wants places that count from 5."""

    def forward(
        self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        places = torch.arange(5, 5 + ids.shape[1])[None] if position_ids is None else position_ids
        return self.states(ids, attention_mask, places)[:, -1]


class FromTwo(Reader):
    """Has places of its own that count from 2, as Nyströmformer does."""

    position_ids: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("position_ids", torch.arange(2, 32)[None])

    def forward(
        self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        places = self.position_ids[:, : ids.shape[1]] if position_ids is None else position_ids
        mixed = torch.tanh(self.tokens(ids) + self.places(places)) * attention_mask[:, :, None]
        return self.head(mixed.sum(1))


class Leaky(Reader):
    """Sees padding, as convolutions do at the end of a text."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.states(ids, attention_mask, torch.arange(ids.shape[1])[None])[:, -1]
        return states + (1 - attention_mask).sum(1, keepdim=True) * 0.1


class Passing(nn.Module):
    """Passes everything on, as DataParallel and adapters of other packages do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.module(*inputs, **keywords)


def small(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double().eval()


class TwoTables(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(VOCABULARY, 2)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.states(ids, attention_mask, torch.arange(ids.shape[1])[None])
        return states[:, -1] + self.kinds(ids).sum(1)


def test_ids_that_stand_for_embeddings_are_looked_up_nowhere():
    # On a GPU they would end the process.
    with pytest.raises(ValueError, match="uses the ids of words for embeddings") as caught:
        call(TokenIds(small(TwoTables), MASK, PAD, [START], removal="pad"))
    assert "looked up in another table" in str(caught.value.__cause__)
    box = TokenIds(small(TwoTables), MASK, PAD, [START])
    with pytest.raises(ValueError, match="same outputs for embeddings as for ids") as caught:
        Deletion(4, perturb_baseline=0.0)(box, np.array([TEXT]), np.array([1]), np.ones((1, 6)))
    assert "looked up in another table" in str(caught.value.__cause__)


@pytest.mark.parametrize("removal", ["pad", "delete", "zero"])
def test_a_model_that_makes_places_and_masks_of_ids(removal: str):
    model = small(FromIds)
    box = TokenIds(model, MASK, PAD, [START], removal=removal)
    rows = padded("right")
    removed, text = rows == TokenIds.REMOVED, rows != PAD
    seen = text & ~removed if removal == "delete" else text
    embeddings = model.tokens(rows.masked_fill(removed, PAD))
    embeddings[removed] = 0.0 if removal == "zero" else model.tokens.weight[PAD]
    places = model.places(torch.arange(1, 1 + rows.shape[1]))
    expected = model.head(torch.tanh(embeddings + places) * seen[:, :, None]).cumsum(1)[:, 5]
    torch.testing.assert_close(box(rows), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_begin_where_those_of_the_model_do(side: str):
    model = small(FromTwo)
    box = TokenIds(model, MASK, PAD, [START])
    rows, words = padded(side), torch.tensor([TEXT])
    alone = model(words, torch.ones_like(words))
    torch.testing.assert_close(box(rows)[:1], alone)
    call(box, side)


def call(box: TokenIds, side: str = "right", **keywords: Any) -> list[float]:
    ids = padded(side)[:1].numpy()
    return Deletion(4)(box, ids, np.array([1]), np.ones(ids.shape), **keywords)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda: small(AtAWord), {"removal": "zero"}, "uses the ids of words for embeddings only"),
        (lambda: classifier("Bart"), {"special_ids": []}, "special_ids, or use removal='mask'"),
        (lambda: small(Lengths), {}, "removal='delete' needs a model that sees tokens only where"),
        (
            lambda: small(Elsewhere),
            {},
            "same outputs without position_ids and with positions from 0",
        ),
        (lambda: classifier("Llama", pad_token_id=3), {}, "set config.pad_token_id = 1"),
        (lambda: classifier("Bloom"), {}, "removal='delete' would move tokens: the model derives"),
        (lambda: classifier("ConvBert"), {}, "removal='delete' needs a model that sees tokens"),
    ],
)
def test_models_that_read_otherwise_are_refused(
    make: Callable[[], nn.Module], settings: dict[str, Any], message: str
):
    given = {"special_ids": [START, END], "removal": "delete", **settings}
    text = [*TEXT[:-1], END] if not given["special_ids"] else TEXT
    ids = padded("right", text)[:1].numpy()
    with pytest.raises(ValueError, match=message):
        Deletion(4)(TokenIds(make(), MASK, PAD, **given), ids, np.array([1]), np.ones(ids.shape))


def test_a_model_that_sees_padding_is_warned_of():
    with pytest.warns(UserWarning, match="outputs for sample 0 depend on its padding"):
        call(TokenIds(small(Leaky), MASK, PAD, [START]))


class Bag(Reader):
    """Is told of no padding, so it was trained to see it."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.tokens(ids)).mean(1)


class Drawing(FromIds):
    """Answers by chance, so that no two answers are alike whatever the padding is."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(ids, attention_mask) + torch.rand(len(ids), 2)


class OfOneLength(Reader):
    """Takes texts of nine tokens."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(9)[None]
        return self.states(ids, attention_mask, places.expand(len(ids), 9))[:, -1]


@pytest.mark.parametrize("make", [Bag, Drawing, OfOneLength])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.filterwarnings("error", "ignore:model is random")
def test_models_that_padding_is_no_fault_of_are_asked(make: Callable[[], nn.Module], side: str):
    with torch.random.fork_rng(devices=[]):
        for removal in ("mask", "zero"):
            assert np.isfinite(
                call(TokenIds(small(make), MASK, PAD, [START], removal=removal), side)
            ).all()


def test_what_passes_keywords_on_is_told_what_its_part_is_told():
    model = classifier("GPT2")
    inner = TokenIds(model, MASK, PAD, [START], removal="delete")
    outer = TokenIds(
        Passing(model), MASK, PAD, [START], removal="delete", embedding=model.get_input_embeddings()
    )
    for side in ("right", "left"):
        assert call(outer, side) == call(inner, side)


def test_an_attention_mask_of_the_callers_is_refused():
    box = TokenIds(classifier("GPT2"), MASK, PAD, [START])
    mask = torch.ones(1, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match="model_predict_kwargs must not hold attention_mask"):
        call(box, model_predict_kwargs={"attention_mask": mask})


def test_the_embedding_of_several_must_be_named_to_give_a_removed_token_another():
    class Unnamed(FromIds):
        get_input_embeddings = None

    model = small(Unnamed)
    for removal in ("pad", "delete"):
        with pytest.raises(ValueError, match="embedding must name the part of the model"):
            TokenIds(model, MASK, PAD, removal=removal)
    assert np.isfinite(call(TokenIds(model, MASK, PAD, [START]))).all()
    named = TokenIds(model, MASK, PAD, [START], removal="pad", embedding=model.tokens)
    assert np.isfinite(call(named)).all()


def test_the_callers_model_stays_as_it_was():
    model = classifier("GPT2")
    before = {name: id(part) for name, part in model.named_modules()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for removal in REMOVALS:
        call(TokenIds(model, MASK, PAD, [START], removal=removal), "left")
    assert before == {name: id(part) for name, part in model.named_modules()}
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
