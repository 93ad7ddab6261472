"""Text: ids stay integers, padding and special tokens are never removed or counted."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import quantus
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantus.functions.perturb_func import baseline_replacement_by_blur, gaussian_noise
from torch import Tensor, nn

from quantus_ext import (
    ABPC,
    QGE,
    ROAR,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    PScore,
    RFidelity,
    SynScore,
)
from quantus_ext.adapters import BinaryLogit, TokenIds
from quantus_ext.finetune import MaskSampler
from quantus_ext.protocols import degrade, explanation_size, mask_robustness, plant_shortcut
from tests.harness import rows_seen
from tests.reference import fidelity, removal_curves, splitmix

PAD, MASK, START, END, VOCABULARY = 0, 1, 2, 3, 20


class Reader(nn.Module):
    """A small text model that looks at its attention mask and at places."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=PAD)
        self.mix = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        assert ids.dtype == attention_mask.dtype == torch.int64
        places = torch.arange(ids.shape[1]).cos().unsqueeze(1)
        hidden = torch.tanh(self.mix(self.embedding(ids)) + places) * attention_mask.unsqueeze(2)
        return self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True) ** 0.5)


def reader(**keywords: object) -> TokenIds:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return TokenIds(Reader().double().eval(), MASK, PAD, [START, END], **keywords)


def sentences(lengths: list[int], width: int | None = None, seed: int = 0) -> np.ndarray:
    """Return ids of sentences between a start and an end token, padded to ``width``."""
    generator = np.random.default_rng(seed)
    ids = np.full((len(lengths), width or max(lengths) + 2), PAD)
    for row, length in zip(ids, lengths, strict=True):
        words = generator.integers(4, VOCABULARY, length)
        row[: length + 2] = [START, *words, END]
    return ids


def maps(ids: np.ndarray, *axes: int, seed: int = 1) -> np.ndarray:
    # Row by row, so that padding does not change them, but for what stands there.
    return np.stack(
        [
            np.random.default_rng([seed, i]).normal(size=(99, *axes))[: ids.shape[1]]
            for i in range(len(ids))
        ]
    )


LENGTHS = [7, 5, 10, 3]
LABELS = np.array([0, 2, 1, 1])


def untuned(model: nn.Module, masks: object) -> nn.Module:
    return model


_halves = {"sparsity": (0.3, 0.5, 0.9), "alpha": 0.5, "output": "probability"}
CASES: dict[str, tuple[Callable[..., object], Callable[..., np.ndarray], bool]] = {
    "Fidelity": (
        partial(Fidelity, (0.3, 0.5, 0.9), output="probability"),
        partial(fidelity.fidelity, sparsity=(0.3, 0.5, 0.9), output="probability"),
        True,
    ),
    "RFidelity": (
        partial(RFidelity, n_samples=6, score="gap", **_halves),
        partial(fidelity.fidelity, n_samples=6, score="gap", **_halves),
        True,
    ),
    "FFidelity": (
        partial(FFidelity, n_samples=6, fine_tune=untuned, beta=0.4, **_halves),
        partial(fidelity.fidelity, n_samples=6, beta=0.4, **_halves),
        True,
    ),
    **{
        metric.__name__: (
            partial(metric, [0.3, 0.7]),
            partial(
                removal_curves.removal_score,
                name=metric.__name__.lower(),
                fractions=[0.0, 0.3, 0.7, 1.0],
            ),
            True,
        )
        for metric in (MoRF, LeRF, ABPC, Deletion, Insertion)
    },
}


def slowly(
    reference: Callable[..., np.ndarray],
    model: nn.Module,
    ids: np.ndarray,
    a: np.ndarray,
    *,
    softmax: bool = True,
    removed: float = TokenIds.REMOVED,
) -> list[float]:
    """Score each sentence by the reference for tables, with its words as the only features."""
    scores = []
    for i, (row, label, phi) in enumerate(zip(ids, LABELS, a, strict=True)):
        words = np.flatnonzero(row >= 4)

        def predict(
            rows: np.ndarray, row: np.ndarray = row, words: np.ndarray = words
        ) -> np.ndarray:
            whole = np.tile(row, (len(rows), 1))
            whole[:, words] = rows
            with torch.no_grad():
                outputs = model(torch.from_numpy(whole))
            return (outputs.softmax(-1) if softmax else outputs).numpy()

        scores += list(
            reference(
                predict,
                row[words][None],
                np.array([label]),
                phi[words][None],
                np.array([i]),
                baseline=removed,
            )
        )
    return scores


@pytest.mark.parametrize("removal", ["mask", "pad", "delete", "zero"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_slow_reference_over_words_alone(name: str, removal: str):
    make, reference, softmax = CASES[name]
    model, ids = reader(removal=removal), sentences(LENGTHS)
    metric = make()
    scores = metric(model, ids, LABELS, maps(ids))
    np.testing.assert_allclose(
        scores, slowly(reference, model, ids, maps(ids), softmax=softmax), rtol=1e-9
    )
    assert np.ptp(scores) > 0


@pytest.mark.parametrize("metric", [MoRF, LeRF, ABPC, Deletion, Insertion])
def test_fewer_words_than_steps_are_a_state_a_word(metric):
    # By default 20 steps; the texts have 7, 5, 10 and 3 words.
    model, ids = reader(), sentences(LENGTHS)
    scores = metric()(model, ids, LABELS, maps(ids))
    for i, length in enumerate(LENGTHS):
        alone = metric(length)
        rows = {"index_batch": np.array([i])}
        expected = alone(model, ids[i : i + 1], LABELS[i : i + 1], maps(ids)[i : i + 1], **rows)
        np.testing.assert_allclose(scores[i], expected[0], rtol=1e-9, atol=1e-12)
        assert alone.n_evaluations == 1 + length + (metric is ABPC) * (length - 1)
        if metric is MoRF:
            (curve,) = alone.details["curve"]
            assert expected[0] == pytest.approx((curve[0] - curve).mean(), rel=1e-9)


def test_infidelity_of_maps_with_the_input_factor_equals_the_reference():
    model, ids = reader(), sentences(LENGTHS)
    metric = Infidelity(
        multiply_by_inputs=True, scheme="subset", subset_fraction=0.4, n_perturb_samples=30
    )
    scores = metric(model, ids, LABELS, maps(ids))
    # Short sentences have fewer subsets than draws are asked for.
    subsets = [math.comb(t, max(fidelity.floor(0.4, t), 1)) for t in LENGTHS]
    assert metric.n_evaluations == sum(1 + min(30, total) for total in subsets)

    expected = slowly(
        partial(_subset_infidelity, fraction=0.4, n_draws=30), model, ids, maps(ids), softmax=False
    )
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def _subset_infidelity(predict, x, y, a, index, *, fraction, n_draws, baseline):
    t = x.shape[1]
    size = max(fidelity.floor(fraction, t), 1)
    key = splitmix.nth(splitmix.nth(0, 0), int(index[0]))
    clean, losses = predict(x)[0, y[0]], []
    for chosen in fidelity.removals(key, list(range(t)), size, t, n_draws):
        row = x[0].copy()
        row[chosen] = baseline
        losses.append((a[0, chosen].sum() - (clean - predict(row[None])[0, y[0]])) ** 2)
    return [np.mean(losses)]


def _halved(arr: np.ndarray, **_: object) -> np.ndarray:
    return arr * 0.5


METRICS: dict[str, Callable[[], object]] = {
    **{name: make for name, (make, _, _) in CASES.items()},
    "Infidelity windows": partial(
        Infidelity, multiply_by_inputs=True, perturb_patch_sizes=[2, 3], n_perturb_samples=9
    ),
    "Infidelity subsets": partial(
        Infidelity, multiply_by_inputs=True, scheme="subset", n_perturb_samples=9
    ),
    "Infidelity all": partial(Infidelity, multiply_by_inputs=True, scheme="all"),
    "QGE": lambda: QGE(ABPC(4)),
    "Infidelity noise": lambda: Infidelity(
        perturb_func=gaussian_noise,
        perturb_func_kwargs={"perturb_std": 0.5},
        perturb_patch_sizes=[2],
        n_perturb_samples=9,
    ),
    "Infidelity embeddings": lambda: Infidelity(
        perturb_baseline=0.0, perturb_patch_sizes=[2], n_perturb_samples=9
    ),
    "Deletion noise": lambda: Deletion(
        3, perturb_func=gaussian_noise, perturb_func_kwargs={"perturb_std": 0.5}
    ),
    "Deletion zeros": lambda: Deletion(3, perturb_baseline=0.0),
    "QGE embeddings": lambda: QGE(
        Infidelity(perturb_baseline=0.0, perturb_patch_sizes=[2], n_perturb_samples=9)
    ),
    "Infidelity mean, embeddings": partial(
        Infidelity, perturb_baseline="mean", perturb_patch_sizes=[2], n_perturb_samples=9
    ),
    "Infidelity default, embeddings": partial(
        Infidelity, perturb_patch_sizes=[2], n_perturb_samples=9
    ),
    "Infidelity whole, embeddings": partial(
        Infidelity, perturb_func=_halved, scheme="all", n_perturb_samples=1
    ),
    "Infidelity normalised": partial(
        Infidelity,
        multiply_by_inputs=True,
        perturb_patch_sizes=[2],
        n_perturb_samples=9,
        normalise=True,
    ),
    "Deletion blur": lambda: Deletion(3, perturb_func=baseline_replacement_by_blur),
    "QGE random embeddings": lambda: QGE(
        Infidelity(perturb_baseline=0.0, perturb_patch_sizes=[2], n_perturb_samples=9),
        reference="random",
        n_references=3,
    ),
    "SynScore": partial(SynScore, "ap"),
    "windows of tokens": lambda: Deletion(3, element="patch", patch_size=2),
}


def call(name: str, model: nn.Module, ids: np.ndarray, **keywords: object) -> np.ndarray:
    a = maps(ids, 6) if "noise" in name or "embeddings" in name else maps(ids)
    planted = (ids % 3 == 0) & (ids > 3)
    planted[:, 1] = True
    return np.array(METRICS[name]()(model, ids, LABELS[: len(ids)], a, s_batch=planted, **keywords))


@pytest.mark.parametrize("name", METRICS)
def test_padding_and_special_tokens_are_never_touched(name: str):
    model, ids = reader(), sentences(LENGTHS)
    fixed, embeddings = ids < 4, []
    # What the model makes of its tokens, or of the embeddings that it is given.
    handle = model.model.mix.register_forward_pre_hook(lambda _, given: embeddings.append(given[0]))
    scores = call(name, model, ids)
    handle.remove()
    # One text is asked alone, to see that padding is nothing to the model.
    embeddings = [rows for rows in embeddings if rows.shape[1] == ids.shape[1]]
    assert np.isfinite(scores).all()
    if name in ("SynScore", "Infidelity whole, embeddings"):
        # Nothing is asked, or the function changes what it likes but padding.
        return
    rows, originals = torch.cat(embeddings), model.model.embedding(torch.from_numpy(ids))
    # Each row comes from one sentence, and has its padding and special tokens where they were.
    kept = [
        torch.isclose(rows[:, f], original[f]).all(2).all(1)
        for f, original in zip(fixed, originals, strict=True)
    ]
    assert torch.stack(kept).any(0).all()
    assert not torch.stack([(rows == original).all(2).all(1) for original in originals]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("ignore:beta =:UserWarning")  # of very short sentences
@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    more=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_scores_do_not_depend_on_padding(name: str, lengths: list[int], more: int, seed: int):
    model = reader()
    short = sentences(lengths, seed=seed)
    longer = sentences(lengths, short.shape[1] + more, seed=seed)
    expected = call(name, model, short)
    np.testing.assert_allclose(call(name, model, longer), expected, rtol=1e-9, atol=1e-12)
    # Nor on the sentences beside it.
    alone = call(name, model, longer[:1])
    np.testing.assert_allclose(alone, expected[:1], rtol=1e-9, atol=1e-12)


def test_integers_reach_the_embedding_and_an_int_batch_stays_as_it_was():
    model, ids, seen = reader(), sentences(LENGTHS).astype(np.int32), []
    ids.setflags(write=False)
    model.model.embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    Deletion(4)(model, ids, LABELS, maps(ids))
    assert set(seen) == {torch.int64}


def test_metrics_of_quantus_remove_tokens_by_their_id():
    model, ids = reader().float(), sentences([5, 5, 5])
    a = np.where(ids < 4, -9.0, maps(ids))
    settings = {"abs": False, "normalise": False, "disable_warnings": True}
    theirs = quantus.PixelFlipping(
        features_in_step=1, perturb_baseline=TokenIds.REMOVED, **settings
    )
    curves = theirs(model, ids, LABELS[:3], a, softmax=True, device="cpu")
    metric = Deletion([k / 5 for k in range(6)])
    metric(model, ids, LABELS[:3], a)
    # They go on to remove the special tokens, which rank last here.
    np.testing.assert_allclose(np.array(curves)[:, :5], metric.details["curve"][:, 1:], rtol=1e-5)


def test_noise_on_embeddings_follows_the_closed_form():
    # A model that is linear in the embeddings, with its own weights as the explanation.
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(VOCABULARY, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids)).sum(1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TokenIds(Linear().double().eval(), MASK, PAD, [START, END])
    ids, y = sentences([4, 6]), np.array([0, 1])
    weights = model.model.head.weight.detach().numpy()[y]
    a = np.repeat(weights[:, None], ids.shape[1], 1)
    for keywords in (
        {"perturb_func": gaussian_noise, "perturb_func_kwargs": {"perturb_std": 1.0}},
        {"perturb_baseline": 0.0},
        {},
    ):
        metric = Infidelity(perturb_patch_sizes=[2], n_perturb_samples=20, **keywords)
        assert max(metric(model, ids, y, a)) < 1e-20
    with pytest.raises(
        ValueError, match=r"a_batch must be over the embeddings, of shape \(n, L, 4"
    ):
        Infidelity()(model, ids, y, a.sum(2))
    # Maps over embeddings count by their sums where tokens are removed.
    np.testing.assert_array_equal(
        Deletion(4)(model, ids, y, a * maps(ids, 1)),
        Deletion(4)(model, ids, y, (a * maps(ids, 1)).sum(2)),
    )


def test_words_are_elements_where_a_map_says_so():
    model, ids = reader(), sentences(LENGTHS)
    words = np.cumsum(np.arange(ids.shape[1]) % 2, 0)[None].repeat(len(ids), 0)
    metric = Deletion([0.5], element="segment")
    with rows_seen(model) as seen:
        metric(model, ids, LABELS, maps(ids), s_batch=words)
    removed = (torch.cat(seen) == TokenIds.REMOVED).numpy()
    for row in removed:
        # Both halves of a word or neither, as far as it is no special token.
        for word in np.unique(words):
            assert any(
                set(row[(words[i] == word) & (ids[i] > 3)]) <= {state}
                for i in range(len(ids))
                for state in (True, False)
            )
    assert removed.any()


def test_tuning_masks_words_only_and_trains_a_copy():
    model, ids = reader(), sentences([6] * 30, width=11, seed=5)
    y = np.arange(30) % 3
    tuner = FineTuner(ids, y, epochs=1)
    removal = Deletion().perturbation(model)
    masks = MaskSampler(perturbation=removal, beta=0.5, feature_mask=model.feature_mask)
    masked = masks(torch.from_numpy(ids))
    changed = (masked != torch.from_numpy(ids)).numpy()
    assert changed.any()
    assert not changed[ids < 4].any()
    assert set(changed.sum(1)) == {0, 1, 2, 3}
    weights = copy.deepcopy(model.state_dict())
    metric = FFidelity([0.5], fine_tune=tuner, n_samples=4)
    metric(model, ids[:5], y[:5], maps(ids[:5]))
    metric(model, ids[:5], y[:5], -maps(ids[:5]))
    assert metric.health.report.cache_hit
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="leave perturb_func and perturb_baseline out"):
        FFidelity([0.5], fine_tune=tuner, perturb_baseline=0.0)(
            model, ids[:5], y[:5], maps(ids[:5])
        )
    roar = ROAR(tuner, maps(ids), [0.5])
    assert len(roar(model, ids[:5], y[:5], maps(ids[:5]))) == 5
    assert len(mask_robustness(model, ids, y).accuracy) == 1


def test_p_score_does_not_look_at_padding():
    model, ids, other = reader(), sentences(LENGTHS), reader()
    nn.init.ones_(other.model.mix.bias)

    def explain(
        model: nn.Module, inputs: np.ndarray, targets: np.ndarray, noise: float, **_: object
    ):
        assert inputs.dtype == np.int64
        return np.where(inputs < 4, noise, maps(inputs) * float(model.model.mix.bias.sum()))

    scores = [
        PScore([other])(
            model, ids, LABELS, explain_func=explain, explain_func_kwargs={"noise": noise}
        )
        for noise in (0.0, 100.0)
    ]
    np.testing.assert_allclose(*scores)


def test_degraded_maps_keep_padding():
    ids = sentences(LENGTHS)
    a, among = maps(ids), ids > 3
    levels = degrade(a, [0.0, 0.5, 1.0], among=among)
    assert (levels[:, ~among] == a[~among]).all()
    moved = (levels != a).sum(2)
    assert (moved[0] == 0).all()
    assert (moved[1] <= np.array(LENGTHS) // 2).all()
    assert moved[1].any()
    np.testing.assert_array_equal(np.sort(levels[2]), np.sort(a))
    longer = sentences(LENGTHS, ids.shape[1] + 3)
    again = degrade(maps(longer), 0.5, among=longer > 3)
    np.testing.assert_array_equal(again[:, : ids.shape[1]], levels[1])


def test_other_adapters_go_around_it():
    class OneLogit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = reader().model

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(ids, attention_mask)[:, 0]

    ids = sentences(LENGTHS)
    inner = TokenIds(OneLogit().eval(), MASK, PAD, [START, END])
    model = BinaryLogit(inner)
    y = np.array([1, 1, 0, 1])
    noise = {"perturb_func": gaussian_noise, "perturb_func_kwargs": {"perturb_std": 0.5}}
    for metric in (Deletion(4), Deletion(4, **noise)):
        with rows_seen(inner) as seen:
            scores = metric(model, ids, y, maps(ids))
        assert np.isfinite(scores).all()
        # Embeddings go to the model behind; ids once more, to see that both ways answer alike.
        asked = 2 if metric.over_embeddings else metric.n_evaluations
        assert sum(map(len, seen)) == asked


def test_it_pickles_and_copies():
    model, ids = reader(), sentences(LENGTHS)
    scores = Deletion(4)(model, ids, LABELS, maps(ids))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(Deletion(4)(twin, ids, LABELS, maps(ids)), scores)


class Plain(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([ids.sum(1), -ids.sum(1)], 1).float()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: TokenIds(lambda ids: ids, MASK, PAD),
            TypeError,
            "model must be a torch.nn.Module",
        ),
        (lambda: TokenIds(Plain().eval(), None, PAD), ValueError, "mask_id must be an id with"),
        (
            lambda: TokenIds(Plain().eval(), -2, PAD),
            ValueError,
            "mask_id must be at least 0",
        ),
        (lambda: TokenIds(Plain().eval(), MASK, 0.5), TypeError, "pad_id must be an integer"),
        (lambda: TokenIds(Plain().eval(), MASK, PAD, ["a"]), TypeError, "special_ids must be"),
        (lambda: reader(removal="drop"), ValueError, "removal must be one of 'mask', 'pad'"),
        (
            lambda: TokenIds(Plain().eval(), MASK, PAD, removal="delete"),
            ValueError,
            "removal='delete' needs a model whose forward",
        ),
        (
            lambda: TokenIds(Plain().eval(), MASK, PAD, removal="zero"),
            ValueError,
            "embedding must name the part of the model",
        ),
        (
            lambda: TokenIds(Plain().eval(), MASK, PAD, embedding=nn.Embedding(2, 2)),
            ValueError,
            "embedding must be a part of model",
        ),
    ],
)
def test_bad_settings_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (sentences(LENGTHS) + 0.5, "x_batch must hold integer ids of at least 0, .* sample 0"),
        (np.where(sentences(LENGTHS) == 0, -1, 5), "ids of at least 0, not so in sample 0"),
        (sentences(LENGTHS)[..., None], r"x_batch must hold token ids of shape \(n, L\)"),
        (
            np.where(np.arange(4)[:, None] == 2, PAD, sentences(LENGTHS)),
            "holds padding or special tokens only in sample 2",
        ),
    ],
)
def test_bad_ids_are_named(x: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        Deletion(4)(reader(), x, LABELS, maps(sentences(LENGTHS)))


def test_explanation_size_counts_words_only():
    class FirstWords(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            share = (ids[:, 1:5] > 3).double().mean(1)
            return torch.stack([1 - share, share], 1) * 9

    model = TokenIds(FirstWords().eval(), MASK, PAD, [START, END])
    ids = sentences([20] * 20, 30)
    a = np.where(ids > 3, -np.arange(30.0), 99.0)
    found = explanation_size(
        model, ids, np.ones(20, int), a, fine_tune=model, alphas=[0.9], betas=[0.1], n_samples=20
    )
    # Four of twenty words, whatever padding and special tokens there are.
    assert found.sparsity == pytest.approx(0.2, abs=0.05)


class Shared(nn.Module):
    """One embedding at two places, and an output tied to it."""

    def __init__(self, looks_at_ids: bool = False) -> None:
        super().__init__()
        self.shared, self.looks_at_ids = nn.Embedding(VOCABULARY, 6), looks_at_ids
        self.encoder = nn.ModuleDict({"embed": self.shared, "mix": nn.Linear(6, 6)})

    def get_input_embeddings(self) -> nn.Module:
        return self.shared

    def forward(self, ids: Tensor) -> Tensor:
        states = self.encoder["mix"](self.encoder["embed"](ids)).tanh().mean(1)
        outputs = states @ self.shared.weight[:3].T
        return outputs * (ids == END).sum(1, keepdim=True) if self.looks_at_ids else outputs


def test_shared_and_tied_embeddings_are_asked_right():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = Shared().double().eval()
    model, ids = TokenIds(plain, MASK, PAD, [START, END]), torch.from_numpy(sentences([5, 5]))
    embedded = model.over_embeddings()
    with torch.no_grad():
        torch.testing.assert_close(embedded(embedded.embed(ids)), plain(ids))
        zeroed = TokenIds(plain, MASK, PAD, [START, END], removal="zero")
        rows = ids.clone()
        rows[:, 3] = TokenIds.REMOVED
        embeddings = plain.shared(ids)
        embeddings[:, 3] = 0
        states = plain.encoder["mix"](embeddings).tanh().mean(1)
        torch.testing.assert_close(zeroed(rows), states @ plain.shared.weight[:3].T)


def test_a_model_that_looks_at_ids_besides_is_refused_over_embeddings():
    model = TokenIds(Shared(looks_at_ids=True).double().eval(), MASK, PAD, [START, END])
    ids = sentences([5, 5])
    assert np.isfinite(Deletion(4)(model, ids, LABELS[:2], maps(ids))).all()
    with pytest.raises(ValueError, match="same outputs for embeddings as for ids, does not"):
        Deletion(4, perturb_baseline=0.0)(model, ids, LABELS[:2], maps(ids))


def test_a_path_from_zero_keeps_padding():
    model, ids = reader(), torch.from_numpy(sentences([4, 7]))
    embedded = model.over_embeddings()
    rows = embedded.embed(ids)
    path = torch.stack([rows * share for share in (1.0, 0.5, 0.01)])
    for part in path:
        np.testing.assert_array_equal(embedded.padding_mask(part), ids == PAD)


def test_an_adapter_within_gets_its_attention_mask():
    class OneLogit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = reader().model

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(ids, attention_mask)[:, 0]

    inside = TokenIds(BinaryLogit(OneLogit().eval()), MASK, PAD, [START, END])
    outside = BinaryLogit(TokenIds(OneLogit().eval(), MASK, PAD, [START, END]))
    ids = sentences([3, 8])
    y = np.array([1, 0])
    np.testing.assert_allclose(
        Deletion(4)(inside, ids, y, maps(ids)), Deletion(4)(outside, ids, y, maps(ids))
    )
    with pytest.raises(ValueError, match="leave perturb_func and perturb_baseline out"):
        FFidelity([0.5], fine_tune=untuned, perturb_baseline=0.0)(outside, ids, y, maps(ids))


def test_ids_beyond_the_vocabulary_and_other_slips_are_named():
    model, ids = reader(), sentences(LENGTHS)
    ids[2, 3] = VOCABULARY
    with pytest.raises(ValueError, match=r"ids must be below 20, .* sample 2 holds 20"):
        Deletion(4)(model, ids, LABELS, maps(ids))
    with pytest.raises(ValueError, match=r"mask_id must be below 20, .* is 103"):
        TokenIds(Reader().eval(), 103, PAD)
    ids = sentences(LENGTHS)
    with pytest.raises(ValueError, match="perturb_baseline must be left out to remove tokens"):
        Deletion(4, perturb_baseline=-1)(model, ids, LABELS, maps(ids))
    with pytest.raises(ValueError, match="fine_tune must give a model of token ids"):
        FFidelity([0.5], fine_tune=model.model)(model, ids, LABELS, maps(ids))
    for size in (1, 64):
        with pytest.raises(ValueError, match="features_in_step needs equal numbers"):
            Deletion(features_in_step=2)(model, ids, LABELS, maps(ids), batch_size=size)
    with pytest.raises(ValueError, match="model must take plain images, series or tables"):
        plant_shortcut(model, ids, LABELS, kind="pattern", size=2)
