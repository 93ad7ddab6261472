"""Rows that influence each other and models that answer by chance: found, named, no false alarm."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantus_ext import QGE, Deletion, Fidelity, Infidelity, MoRF, RFidelity, SynScore
from quantus_ext.adapters import BinaryLogit, BlackBox, TokenIds
from quantus_ext.engine import influence
from quantus_ext.engine.global_state import isolated_random_state, seed_global_generators
from tests.harness import planted

SHAPES = {"table": (12,), "series": (4, 16), "image": (3, 8, 8)}


def inputs(kind: str, n: int = 6) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, *SHAPES[kind])).astype(np.float32)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return build().eval()


def call(metric, model: nn.Module, x: np.ndarray, **keywords: object) -> list[float]:
    y = np.arange(len(x)) % 3
    return metric(model, x, y, x, s_batch=planted(x), **keywords)


@pytest.fixture
def seeded_globally() -> Iterator[None]:
    """Have models that draw always draw the same."""
    with isolated_random_state():
        seed_global_generators(2)
        yield


class Answers(nn.Module):
    """A network with something done to its outputs."""

    def __init__(self, change: Callable[[Tensor], Tensor], model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = nn.Linear(12, 3) if model is None else model
        self.change = change

    def forward(self, rows: Tensor) -> Tensor:
        return self.change(self.model(rows))


class MonteCarloDropout(nn.Module):
    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.p = p
        self.on = True

    def forward(self, rows: Tensor) -> Tensor:
        return functional.dropout(rows, self.p, training=self.on)


def table_net(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), *between, nn.ReLU(), nn.Linear(16, 3))


def image_net(*between: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *between,
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(table_net().eval(), {nn.Linear})


SHARED: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "batch statistics of a table": (
        "table",
        lambda: table_net(nn.BatchNorm1d(16, track_running_stats=False)),
        r": 1 \(BatchNorm1d\) has no running statistics and takes those of the rows\. Pass chunk",
    ),
    "batch statistics of images": (
        "image",
        lambda: image_net(nn.BatchNorm2d(8, track_running_stats=False)),
        r": 1 \(BatchNorm2d\) has no running statistics",
    ),
    "statistics lost by a module that had some": (
        "image",
        lambda: _without_statistics(image_net(nn.BatchNorm2d(8))),
        r": 1 \(BatchNorm2d\) has no running statistics",
    ),
    "dynamic quantisation": (
        "table",
        quantised,
        r": 0 \(Linear\) is quantised to the range of the rows; 2 \(Linear\) is quantised",
    ),
    "softmax over the rows": ("table", lambda: Answers(lambda z: z.softmax(0)), r"size\. Pass"),
    "rows compared": ("table", lambda: Answers(lambda z: z @ z.T @ z), r"size\. Pass"),
    "centred": ("table", lambda: Answers(lambda z: z - z.mean(0)), r"size\. Pass"),
    "largest of all": ("table", lambda: Answers(lambda z: z / z.abs().max()), r"size\. Pass"),
}


def _without_statistics(model: nn.Module) -> nn.Module:
    model[1].running_mean = model[1].running_var = None
    return model


CHANCE: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "dropout that stays on": (
        "table",
        lambda: table_net(MonteCarloDropout()),
        r"\(NaN\): 1 \(MonteCarloDropout\) drops at random\. Switch",
    ),
    "in a forward": (
        "table",
        lambda: Answers(functional.dropout, table_net(nn.Dropout())),
        # torch's own is off.
        r"\(NaN\)\. Switch its randomness off",
    ),
    "noise of numpy": (
        "table",
        lambda: Answers(lambda z: z * np.random.normal()),  # noqa: NPY002
        r"\(NaN\)\. Switch",
    ),
    "one mask for all rows": (
        "image",
        lambda: Answers(lambda z: z * functional.dropout(torch.ones(3), 0.5), image_net()),
        r"\(NaN\)\. Switch",
    ),
}


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("metric", [Deletion, Infidelity, lambda: QGE(MoRF(4))])
@pytest.mark.parametrize("name", SHARED)
def test_rows_that_influence_each_other_are_said(name, metric, n):
    kind, build, named = SHARED[name]
    model = seeded(build)
    if n == 1 and kind == "table" and "statistics" in name:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            call(metric(), model, inputs(kind, n))
        return
    with pytest.warns(UserWarning, match="rows influence each other in model.*" + named):
        call(metric(), model, inputs(kind, n), softmax=False)


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("name", [name for name in SHARED if "of a table" not in name])
def test_the_way_out_is_one_row_a_pass(name, n):
    kind, build, _ = SHARED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(4, chunk_size=1), seeded(build), inputs(kind, n), softmax=False)


@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("chunk_size", [None, 1])
@pytest.mark.usefixtures("seeded_globally")
@pytest.mark.parametrize(("kind", "build", "named"), CHANCE.values(), ids=CHANCE)
def test_chance_in_the_model_is_said_and_leaves_no_standard_error(
    kind, build, named, chunk_size, n
):
    model, x = seeded(build), inputs(kind, n)
    for metric in (
        Deletion(4, chunk_size=chunk_size),
        Infidelity(n_perturb_samples=9, chunk_size=chunk_size),
        Fidelity([0.5], output="probability", chunk_size=chunk_size),
        RFidelity([0.3, 0.6], n_samples=4, output="probability", chunk_size=chunk_size),
        QGE(MoRF(4, chunk_size=chunk_size)),
    ):
        with pytest.warns(UserWarning, match="model is random.*" + named):
            scores = call(metric, model, x)
        assert np.isfinite(scores).all()
        assert np.isnan(metric.standard_errors).all()
        errors = [values for name, values in metric.details.items() if "error" in name]
        assert all(np.isnan(values).all() for values in errors)


def alone(model: nn.Module) -> influence.Ask:
    """Ask a model that holds nothing of single samples."""
    return lambda rows, _: model(rows)


def test_chance_that_agrees_once_is_not_taken_for_company():
    # The same factor twice, of two that a coin may choose.
    coin = iter([1.0, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, 1.0] + [1.0] * 8)
    model = Answers(lambda z: z * next(coin)).eval()
    with torch.no_grad():
        found = influence.examine(
            model, alone(model), torch.from_numpy(inputs("table")), together=64, precision=None
        )
    assert found.is_random
    assert not found.is_shared


def test_standard_errors_of_rows_that_influence_each_other_stay():
    metric = Infidelity(n_perturb_samples=9)
    with pytest.warns(UserWarning, match="rows influence each other"):
        call(metric, seeded(SHARED["centred"][1]), inputs("table"))
    assert np.isfinite(metric.standard_errors).all()


# Another function while gradients are recorded


PADDING = 9.0


class Padded(nn.Module):
    """Reads series of which every other one is padded, and averages over all steps."""

    def __init__(self, pooled: str = "all", layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 32), nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(32, 3)
        self.pooled = pooled

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows.movedim(1, 2)
        padding = (rows == PADDING).all(2)
        read = self.encoder(self.embed(rows), src_key_padding_mask=padding)
        if self.pooled == "first":
            return self.head(read[:, 0])
        if self.pooled == "seen":
            read = read.masked_fill(padding[..., None], 0)
        return self.head(read.mean(1))


def padded(n: int = 6) -> np.ndarray:
    x = inputs("series", n)
    x[::2, :, 10:] = PADDING
    return x


class Switch(nn.Module):
    """A network that someone made another one for training."""

    def __init__(self, change: float) -> None:
        super().__init__()
        self.model, self.change = table_net(), change

    def forward(self, rows: Tensor) -> Tensor:
        return self.model(rows) * (1 + self.change * torch.is_grad_enabled())


@pytest.fixture
def slow_attention() -> Iterator[None]:
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize("metric", [Deletion, Infidelity, lambda: QGE(MoRF(4))])
def test_another_function_with_gradients_is_said(metric, n, frozen):
    model = seeded(Padded).requires_grad_(not frozen)
    match = (
        r"another function while gradients are recorded: its outputs change by \d+\.\d% .*scored: "
        r"encoder \(TransformerEncoder\) takes a faster path .*call torch\.backends"
    )
    x = padded(n)
    with pytest.warns(UserWarning, match=match):
        metric()(model, x, np.zeros(n, dtype=int), x, channel_first=True)


@pytest.mark.usefixtures("slow_attention")
def test_the_way_out_of_the_fast_path():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(4), seeded(Padded), padded())


def test_a_model_found_harmless_is_asked_again_on_the_fast_path(slow_attention):
    model, x = seeded(Padded), padded()
    call(Deletion(4), model, x)
    torch.backends.mha.set_fastpath_enabled(True)
    with pytest.warns(UserWarning, match="another function while gradients"):
        call(Deletion(4), model, x)


@pytest.mark.parametrize(("change", "is_said"), [(1e-6, False), (0.0, False), (1e-3, True)])
def test_how_small_a_difference_with_gradients_is_found(change, is_said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(Deletion(4), seeded(lambda: Switch(change)), inputs("table"))
    assert ["another function" in str(each.message) for each in caught] == [True] * is_said


@pytest.mark.parametrize("pooled", ["first", "seen"])
def test_a_fast_path_that_changes_no_answer_is_not_said(pooled):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(4), seeded(lambda: Padded(pooled)), padded())


def test_models_that_take_no_gradients_are_not_asked_with_them():
    class InNumpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(12, 3)

        def forward(self, rows: Tensor) -> Tensor:
            return torch.from_numpy(self.model(rows).numpy())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(4), seeded(InNumpy), inputs("table"))


def test_gradients_of_the_weights_stay_as_they_are():
    model, x = seeded(table_net), inputs("table")
    call(Deletion(4), model, x)
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.is_grad_enabled()


# No false alarm


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(4, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.layer(rows.movedim(1, 2))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 32), nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(32, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(rows.movedim(1, 2))).mean(1))


def _deep() -> nn.Module:
    layers = [part for _ in range(30) for part in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(nn.Linear(12, 64), *layers, nn.Linear(64, 3))


INDEPENDENT: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "linear": ("table", lambda: nn.Linear(12, 3)),
    "deep": ("table", _deep),
    "dropout that is off": ("table", lambda: table_net(nn.Dropout(), nn.AlphaDropout())),
    "batch norm": ("table", lambda: table_net(nn.BatchNorm1d(16))),
    "convolutions": ("image", image_net),
    "convolutions, batch norm": ("image", lambda: image_net(nn.BatchNorm2d(8), nn.Dropout2d())),
    "instance norm": ("image", lambda: image_net(nn.InstanceNorm2d(8))),
    "group norm": ("image", lambda: image_net(nn.GroupNorm(2, 8))),
    "channels last": ("image", lambda: image_net().to(memory_format=torch.channels_last)),
    "series": ("series", lambda: nn.Sequential(nn.Conv1d(4, 8, 5), nn.Flatten(), nn.Linear(96, 3))),
    "GRU": ("series", lambda: Recurrent(nn.GRU)),
    "LSTM": ("series", lambda: Recurrent(nn.LSTM)),
    "transformer": ("series", Transformer),
    "large outputs": ("table", lambda: Answers(lambda z: z * 1e6, table_net())),
    "outputs far from 0": ("table", lambda: Answers(lambda z: z + 1e6, table_net())),
    "small outputs": ("table", lambda: Answers(lambda z: z * 1e-30, table_net())),
    "zeros": ("table", lambda: Answers(lambda z: z * 0, table_net())),
    "probabilities": ("table", lambda: nn.Sequential(table_net(), nn.Softmax(-1))),
}


def skip_unless_layers_exist(model: nn.Module, x: Tensor, layers: torch.dtype | None) -> None:
    """Skip where oneDNN has none of a model's layers in this precision for the processor."""
    try:
        with torch.no_grad(), torch.autocast("cpu", layers, enabled=layers is not None):
            model(x)
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        pytest.skip("oneDNN has no such layer of this precision for this processor")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "double", "half"])
@pytest.mark.parametrize("n", [1, 5, 70])
@pytest.mark.parametrize(("kind", "build"), INDEPENDENT.values(), ids=INDEPENDENT)
def test_no_false_alarm(kind, build, n, precision):
    model, x = seeded(build), torch.from_numpy(inputs(kind, n))
    weights = {"double": torch.double, "half": torch.bfloat16}.get(precision, torch.float)
    model, x = model.to(weights), x.to(weights)
    layers = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)

    skip_unless_layers_exist(model, x, layers)

    def ask(rows: Tensor, _: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", layers, enabled=layers is not None):
            return model(rows)

    def ask_recorded(rows: Tensor, _: Tensor) -> Tensor:
        with torch.autocast("cpu", layers, enabled=layers is not None):
            return model(rows.clone().requires_grad_()).detach()

    found = influence.examine(
        model, ask, x, together=64, precision=layers, ask_recorded=ask_recorded
    )
    assert found.is_harmless
    assert not list(found.warnings(model))
    if precision in ("float32", "double"):
        # Far from it.
        assert max(found[:3]) < found.rounding / 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(("kind", "build"), INDEPENDENT.values(), ids=INDEPENDENT)
def test_no_metric_says_a_word(kind, build, n, precision):
    model, x = seeded(build), inputs(kind, n)
    layers = torch.bfloat16 if precision == "bfloat16" else None
    skip_unless_layers_exist(model, torch.from_numpy(x), layers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(2, precision=precision), model, x)


def test_outputs_that_are_nan_are_as_they_were():
    def undefined(z: Tensor) -> Tensor:
        return torch.where(z > 0, z, torch.nan)

    def infinite(z: Tensor) -> Tensor:
        return z.exp().exp().exp()

    for change in (undefined, infinite, lambda z: z * torch.nan):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", "scores of samples", RuntimeWarning)
            call(Deletion(2), seeded(lambda c=change: Answers(c)), inputs("table"))


def test_a_row_that_turns_another_into_nan_is_found():
    model = Answers(lambda z: torch.where(z.isfinite().all() & (len(z) > 2), z, torch.nan)).eval()
    with pytest.warns(UserWarning, match="rows influence each other in model.*by inf%"):
        call(Deletion(2), model, inputs("table"))


def test_how_small_an_influence_is_found():
    x = torch.from_numpy(inputs("table"))
    for size, is_found in ((1e-6, False), (1e-3, True)):
        model = seeded(lambda s=size: Answers(lambda z: z + s * z.abs().amax() * z.mean(0).sign()))
        with torch.no_grad():
            found = influence.examine(model, alone(model), x, together=64, precision=None)
        assert found.is_shared is is_found


# What it costs and leaves


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []

    def forward(self, rows: Tensor) -> Tensor:
        self.rows.append(len(rows))
        return self.model(rows)


def test_sixteen_rows_once_a_model_that_count_in_no_score():
    model = Counting(table_net()).eval()
    metric, x = Deletion(4), inputs("table")
    call(metric, model, x)
    assert sum(model.rows) == metric.n_evaluations + 16
    model.rows.clear()
    call(metric, model, x[:2])
    call(Infidelity(n_perturb_samples=5), model, x)
    metric(model, x, np.zeros(6, dtype=int), x)
    assert 4 not in model.rows
    gc.collect()
    once = len(influence._harmless)
    del model
    gc.collect()
    assert len(influence._harmless) == once - 1


@pytest.mark.usefixtures("seeded_globally")
def test_a_model_that_changed_is_asked_again():
    model, x = seeded(lambda: table_net(MonteCarloDropout())), inputs("table")
    model[1].on = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(2), model, x)
    model[1].on = True
    for _ in range(2):
        with pytest.warns(UserWarning, match="model is random"):
            call(Deletion(2), model, x)
    # Mended in place.
    model[1].on = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(2), model, x)
    model[1] = nn.BatchNorm1d(16, track_running_stats=False).eval()
    with pytest.warns(UserWarning, match="rows influence each other"):
        call(Deletion(2), model, x)


@pytest.mark.parametrize("name", CHANCE)
def test_the_models_own_draws_are_those_without_the_check(name, monkeypatch):
    kind, build, _ = CHANCE[name]
    model, x = seeded(build), inputs(kind)
    outcomes = []
    for _ in range(2):
        with isolated_random_state():
            seed_global_generators(3)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = call(Deletion(4), model, x)
            outcomes.append((scores, torch.get_rng_state().tolist(), np.random.random()))  # noqa: NPY002
        monkeypatch.setattr(
            influence, "examine", lambda *_, **__: influence.Influence(0.0, 0.0, 0.0, 0.0)
        )
    assert outcomes[0] == outcomes[1]


def test_what_asks_no_model_asks_it_no_rows():
    model = Counting(table_net(MonteCarloDropout())).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(SynScore(), model, inputs("table"))
    assert 4 not in model.rows


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head((self.embedding(ids) * attention_mask[..., None]).mean(1))


def test_a_text_needs_another_beside_it():
    class Centred(Bag):
        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            outputs = super().forward(ids, attention_mask)
            return outputs - outputs.mean(0)

    reader, ids = TokenIds(seeded(Centred), 1, 0, [2]), np.array([[2, 5, 7, 4], [2, 9, 3, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(Deletion(2), reader, ids[:1])
    with pytest.warns(UserWarning, match="rows influence each other"):
        call(Deletion(2), reader, ids)


def test_black_boxes_are_asked_only_if_the_caller_wants_it():
    def predict(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return rows[:, :3] + np.random.default_rng().normal(size=(len(rows), 3))

    for wanted in (False, True):
        asked: list[int] = []
        metric, box = Deletion(4), BlackBox(predict, classes=3, check_rows=wanted)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            call(metric, box, inputs("table"))
        assert any("model is random" in str(each.message) for each in said) is wanted
        assert sum(asked) == metric.n_evaluations + 8 * wanted + 4 * wanted
    # Also within another adapter.
    one = BinaryLogit(BlackBox(lambda rows: rows[:, :1] + len(rows), classes=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Deletion(2)(one, inputs("table"), np.ones(6, dtype=int), inputs("table"), softmax=False)


def test_a_model_of_one_batch_size_is_scored_and_said_to_be_unknown():
    def eight(z: Tensor) -> Tensor:
        return z.reshape(2, 4, 3).reshape(8, 3)

    model = seeded(lambda: Answers(eight))
    x = inputs("table", 8)
    expected = call(Deletion(4), copy.deepcopy(model.model), x)
    with pytest.warns(UserWarning, match="model fails for a few: shape"):
        scores = call(Deletion(4, chunk_size=8), model, x)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
