"""What can be combined: modality × metric × element × removal; the registry of the docs' table.

``python -m tests.modalities`` prints the table as it stands in ``docs/modalities.md``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from quantus.functions.perturb_func import baseline_replacement_by_blur, gaussian_noise
from torch import nn

from quantus_ext import (
    ABPC,
    QGE,
    ROAR,
    AverageDrop,
    AverageGain,
    AverageIncrease,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    Insertion,
    LeRF,
    MoRF,
    RFidelity,
)
from quantus_ext.adapters import (
    Adapter,
    BlackBox,
    Columns,
    DataFrame,
    Generation,
    Graphs,
    MultiOutput,
    Series,
    Targets,
    TokenIds,
)
from quantus_ext.adapters.base import adapter_of
from quantus_ext.base import TorchMetric
from quantus_ext.perturbation import background_replacement_by_indices
from tests.cases import untuned
from tests.harness import make_inputs


@dataclass(frozen=True)
class Modality:
    """A model with two samples that it takes, and maps of them."""

    model: nn.Module
    x: np.ndarray
    a: np.ndarray
    classes: int = 4
    frame: pd.DataFrame | None = None
    """Passed in place of ``x``, which are its codes."""

    @property
    def segments(self) -> np.ndarray:
        spatial = self.x.shape[1:] if self.x.ndim == 2 else self.x.shape[2:]
        return np.broadcast_to(np.arange(np.prod(spatial)).reshape(spatial) // 2, (2, *spatial))


class _Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 4), nn.Linear(4, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids).cumsum(1).tanh().mean(1))


def _text(over_embeddings: bool) -> Modality:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TokenIds(_Reader().double().eval(), mask_id=1, pad_id=0, special_ids=[2])
    ids = np.array([[2, 5, 6, 7, 8, 9, 2], [2, 11, 10, 9, 2, 0, 0]])
    shape = (*ids.shape, 4) if over_embeddings else ids.shape
    return Modality(model, ids, np.random.default_rng(0).normal(size=shape))


def _padded() -> Modality:
    inputs = make_inputs("series", n=2)
    inputs.x[1, :, 8:] = -99.0
    return Modality(Series(inputs.model, padding=-99.0), inputs.x, inputs.a)


def _table(wrap: Callable[[nn.Module], nn.Module]) -> Modality:
    inputs = make_inputs("table", n=2)
    return Modality(wrap(inputs.model), inputs.x, inputs.a)


def _predict_frame(rows: pd.DataFrame) -> np.ndarray:
    first = rows.job.map({"clerk": 0.0, "cook": 1.0, "pilot": -2.0}).fillna(0.5) + rows.age / 50
    second = rows.pay.fillna(3.0) - rows.age / 30
    return np.stack([first, second, first * second, -first], 1)


def _frame() -> Modality:
    train = pd.DataFrame(
        {
            "job": ["clerk", "cook", "pilot", None, "cook"],
            "age": [41, 23, 35, 52, 30],
            "pay": [2.5, None, 1.0, 4.0, 3.0],
            "years": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    model, frame = DataFrame(_predict_frame, train), train[1:3]
    a = np.random.default_rng(0).normal(size=frame.shape)
    return Modality(model, model.encode(frame), a, frame=frame)


def _plain(name: str) -> Modality:
    inputs = make_inputs(name, n=2)
    return Modality(inputs.model, inputs.x, inputs.a)


def _graphs(element: Literal["edge", "node", "feature"]) -> Modality:
    from torch_geometric.data import Data
    from torch_geometric.nn import GIN, global_add_pool

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = GIN(3, 4, 2, 4)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor, batch: torch.Tensor) -> Any:
            return global_add_pool(self.layers(x, edge_index), batch)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network().eval()
        graphs = []
        for size in (5, 4):
            ring = torch.stack([torch.arange(size), torch.arange(size).roll(1)])
            graphs.append(
                Data(x=torch.randn(size, 3), edge_index=torch.cat([ring, ring.flip(0)], 1))
            )
    model = Graphs(network, graphs, element=element)
    x = model.rows()
    return Modality(model, x, np.random.default_rng(0).normal(size=x.shape))


class _Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 4), nn.Linear(4, 12)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        seen = self.embedding(input_ids) * attention_mask.unsqueeze(2)
        return self.head(seen.cumsum(1).tanh())


def _generation() -> Modality:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Generation(_Writer().double().eval(), pad_id=0, contrast=True)
    prompts = [[5, 6, 7, 8, 9, 4], [11, 10, 9, 3]]
    x = model.encode(prompts, [[2, 3], [8]], [[4], [7]])
    return Modality(model, x, np.random.default_rng(0).normal(size=x.shape), classes=2)


class _Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.layer(x)}


def _in_mask(outputs: dict[str, torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
    foreground = outputs["out"].softmax(1)[:, 1]
    return torch.einsum("nhw,mhw->nm", foreground, masks) / masks.sum((1, 2))


def _masks() -> Modality:
    inputs = make_inputs("image", n=2)
    masks = np.zeros((2, *inputs.x.shape[2:]))
    masks[0, 2:6], masks[1, :, 4:] = 1, 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Targets(_Segmenter().double().eval(), _in_mask, masks=masks)
    return Modality(model, inputs.x, inputs.a, classes=2)


class _Detector(nn.Module):
    """Finds an object in each quarter of an image, surely or less so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 4, stride=4)

    def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        corners = 4.0 * torch.tensor([[i, j] for i in range(2) for j in range(2)])
        boxes = torch.cat([corners, corners + 4], 1).to(x)
        return [{"boxes": boxes, "scores": each} for each in self.layer(x).flatten(1).sigmoid()]


def _found(outputs: list[dict[str, torch.Tensor]], boxes: torch.Tensor) -> torch.Tensor:
    rows = []
    for found in outputs:
        low = torch.maximum(found["boxes"][:, None, :2], boxes[:, :2])
        high = torch.minimum(found["boxes"][:, None, 2:], boxes[:, 2:])
        shared = (high - low).clamp(min=0).prod(2) / 16
        rows.append((shared * found["scores"][:, None]).amax(0))
    return torch.stack(rows)


def _boxes() -> Modality:
    inputs = make_inputs("image", n=2)
    boxes = np.array([[1.0, 1.0, 5.0, 5.0], [4.0, 0.0, 8.0, 4.0]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Targets(_Detector().double().eval(), _found, boxes=boxes)
    return Modality(model, inputs.x, inputs.a, classes=2)


class _ImageAndTable(Adapter):
    """An image of 3 × 4 × 4 after the 7 columns of a table, as one row."""

    def __init__(self, image: nn.Module, table: nn.Module) -> None:
        super().__init__(nn.ModuleList([image, table]))
        self.feature_mask = self.elements

    def elements(self, x: torch.Tensor) -> torch.Tensor:
        pixels = 7 + torch.arange(16).repeat(3)
        return torch.cat([torch.arange(7), pixels])[None].to(x.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen, read = self.get_submodule("model.0"), self.get_submodule("model.1")
        return seen(x[:, 7:].unflatten(1, (3, 4, 4))) * read(x[:, :7]).tanh()


def _inputs() -> Modality:
    table, draw = make_inputs("table", n=2), np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 4)).double()
    model = _ImageAndTable(seen.eval(), table.model).eval()
    x, a = (np.concatenate([each, draw.normal(size=(2, 48))], 1) for each in (table.x, table.a))
    return Modality(model, x, a)


def _predict(model: nn.Module, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(rows)).numpy()


MODALITIES: dict[str, Callable[[], Modality]] = {
    "images `(n, C, H, W)`": partial(_plain, "image"),
    "volumes, video `(n, C, D, H, W)`": partial(_plain, "volume"),
    "series `(n, C, T)`": partial(_plain, "series"),
    "series of different lengths (`Series`)": _padded,
    "tables `(n, F)`": partial(_plain, "table"),
    "tables with blocks of columns (`Columns`)": partial(
        _table, lambda model: Columns(model, [[0, 1, 2]], n_columns=7)
    ),
    "tables, a black box (`BlackBox`)": partial(
        _table, lambda model: BlackBox(partial(_predict, model), classes=4)
    ),
    "data frames (`DataFrame`)": _frame,
    "an image with a table row, as one row (an [adapter](own_adapter.md#several-inputs))": _inputs,
    "images with a mask each (`Targets`)": _masks,
    "images with a box each (`Targets`)": _boxes,
    "several heads (`MultiOutput`)": partial(
        _table,
        lambda model: MultiOutput(nn.Sequential(model, nn.Unflatten(1, (2, 2))).eval(), (2, 2)),
    ),
    "text `(n, L)` (`TokenIds`)": partial(_text, over_embeddings=False),
    "text, maps over embeddings `(n, L, D)`": partial(_text, over_embeddings=True),
    "prompts of a language model (`Generation`)": _generation,
    "graphs, their edges (`Graphs`)": partial(_graphs, "edge"),
    "graphs, their nodes (`Graphs`)": partial(_graphs, "node"),
    "graphs, features of their nodes (`Graphs`)": partial(_graphs, "feature"),
}


def _own(arr: np.ndarray, mask: np.ndarray, **_: Any) -> np.ndarray:
    return np.where(mask, -arr, arr)


def removals(modality: Modality) -> dict[str, dict[str, Any]]:
    """Return the keywords of each way to remove, by its heading."""
    x = modality.x
    # Rows to draw from: of embeddings where these are what is replaced.
    shape = (4, x.shape[1]) if x.dtype == np.int64 else x.shape[1:]
    background = np.random.default_rng(1).normal(size=(5, *shape))
    if modality.frame is not None:
        background = modality.x
    return {
        "default": {},
        "a number": {"perturb_baseline": 0.5},
        "`mean`, `black`, …": {"perturb_baseline": "mean"},
        "blur": {"perturb_func": baseline_replacement_by_blur},
        "noise": {"perturb_func": gaussian_noise},
        "background rows": {
            "perturb_func": background_replacement_by_indices,
            "perturb_func_kwargs": {"background": background},
        },
        "own function": {"perturb_func": _own},
    }


ELEMENTS: dict[str, dict[str, Any]] = {
    "position": {},
    "value": {"element": "channel_value"},
    "patch": {"element": "patch", "patch_size": 2},
    "segment": {"element": "segment"},
}
SCHEMES: dict[str, dict[str, Any]] = {
    "window": {"scheme": "patch", "perturb_patch_sizes": [2]},
    "subset": {"scheme": "subset"},
    "all": {"scheme": "all"},
}
_infidelity = partial(Infidelity, n_perturb_samples=3)


def _infidelity_by_inputs(**keywords: Any) -> Infidelity:
    """Make one for maps whose baseline is what elements become, where they are replaced."""
    replacing = (None, background_replacement_by_indices)
    own = "same" if keywords.get("perturb_func") in replacing else 0.0
    return _infidelity(multiply_by_inputs=True, inputs_baseline=own, **keywords)


def _roar(modality: Modality, **keywords: Any) -> ROAR:
    x, a = (np.concatenate([each] * 2) for each in (modality.x, modality.a))
    a = a.sum(-1) if a.ndim == 3 and x.dtype == np.int64 else a
    trainer = FineTuner(x, np.arange(4) % modality.classes, epochs=1, display_progressbar=False)
    return ROAR(trainer, a, [0.4], **keywords)


METRICS: dict[str, tuple[Callable[..., TorchMetric], dict[str, dict[str, Any]]]] = {
    "Infidelity": (_infidelity, SCHEMES),
    "Infidelity, `multiply_by_inputs`": (_infidelity_by_inputs, SCHEMES),
    "Fidelity": (partial(Fidelity, [0.4]), ELEMENTS),
    "RFidelity": (partial(RFidelity, [0.4], n_samples=2), ELEMENTS),
    "FFidelity": (partial(FFidelity, [0.4], n_samples=2, fine_tune=untuned), ELEMENTS),
    "ROAR": (_roar, ELEMENTS),
    **{
        metric.__name__: (partial(metric, 2), ELEMENTS)
        for metric in (MoRF, LeRF, ABPC, Deletion, Insertion)
    },
    **{
        metric.__name__: (metric, ELEMENTS)
        for metric in (AverageDrop, AverageIncrease, AverageGain)
    },
    "QGE": (lambda **keywords: QGE(ABPC(2, **keywords)), ELEMENTS),
}

_OF_LABELS = ("Fidelity", "RFidelity", "FFidelity", "ROAR")


def scored(modality: Modality, metric: str, which: str, removal: str) -> TorchMetric | None:
    """Score both samples and return the metric that holds the results, None for a clear error."""
    make, ways = METRICS[metric]
    keywords = {**ways[which], **removals(modality)[removal]}
    if make is _roar:
        keywords["modality"] = modality
    if metric in _OF_LABELS and not adapter_of(modality.model).one_label:
        keywords["output"] = "probability"
    try:
        made = make(**keywords)
        scores = made(
            modality.model,
            modality.x if modality.frame is None else modality.frame,
            np.array([0, modality.classes - 1]),
            modality.a,
            s_batch=modality.segments,
        )
    except (TypeError, ValueError) as error:
        if len(str(error)) < 30:  # not an argument, its value and the rule
            raise
        return None
    assert np.isfinite(scores).all(), (metric, which, removal)
    return made


@cache
def rows(modality: str) -> list[str]:
    """Return the modality's rows of the table; metrics with equal rows share one."""
    made = MODALITIES[modality]()
    found: dict[tuple[str, ...], list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for metric, (_, ways) in METRICS.items():
            cells = tuple(
                _cell(ways, [which for which in ways if scored(made, metric, which, removal)])
                for removal in removals(made)
            )
            found.setdefault(cells, []).append(metric)
    return [
        f"| {modality} | {', '.join(metrics)} | {' | '.join(cells)} |"
        for cells, metrics in found.items()
    ]


def _cell(ways: dict[str, dict[str, Any]], running: list[str]) -> str:
    return "all" if len(running) == len(ways) else ", ".join(running) or "–"


def markdown_table() -> str:
    """Return the whole table."""
    headers = ["modality", "metric", *removals(MODALITIES["tables `(n, F)`"]())]
    lines = [f"| {' | '.join(headers)} |", "|" + "---|" * len(headers)]
    return "\n".join([*lines, *(row for name in MODALITIES for row in rows(name))])


if __name__ == "__main__":
    print(markdown_table())  # noqa: T201
