"""Which metric ranks explanations of graphs right: molecules, and graphs with a planted motif.

Molecules, of which it is measured whether they pass the blood-brain barrier, ship in ``qc-b3db``
(Meng et al., 2021); a GIN is trained on them here. Integrated Gradients over edges, by captum as
PyTorch Geometric has it, are degraded as in ``benchmarks.fidelity_mnist``. Of graphs with a house
or a ring at a Barabási–Albert graph the right explanation is known. Then what a mask of 0 is to
layers of other kinds, and what the adapter costs. ``python -m benchmarks.fidelity_graphs
--threads 1`` in the repository's root takes about ten minutes; ``--quick`` takes one and writes
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import files
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from rdkit import Chem
from scipy.stats import rankdata
from torch import Tensor, nn
from torch_geometric import seed_everything
from torch_geometric.data import Batch, Data
from torch_geometric.datasets import ExplainerDataset
from torch_geometric.datasets.graph_generator import BAGraph
from torch_geometric.datasets.motif_generator import CycleMotif, HouseMotif
from torch_geometric.explain import CaptumExplainer, Explainer, Explanation, ModelConfig
from torch_geometric.explain.algorithm import DummyExplainer
from torch_geometric.explain.metric import fidelity as pyg_fidelity
from torch_geometric.nn import (
    ChebConv,
    GATConv,
    GATv2Conv,
    GCNConv,
    GINConv,
    GraphConv,
    SAGEConv,
    SGConv,
    TransformerConv,
    global_add_pool,
)

from benchmarks.fidelity_common import (
    NOISE,
    Scored,
    agreement_table,
    areas_table,
    by_metric,
    cost_table,
    levels_of,
    robustness,
    train,
)
from benchmarks.page import Page, options, parser
from benchmarks.timing import markdown_table
from quantus_ext import Fidelity, FineTuner, SynScore
from quantus_ext.adapters import Graphs

ELEMENTS = ["C", "N", "O", "S", "F", "Cl", "Br", "P", "I"]
MASKED = (0.0, 0.05, 0.1, 0.2, 0.4)
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "GIN": lambda i, o: GINConv(nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Linear(o, o))),
    "GraphConv, sum": GraphConv,
    "SAGE, mean": SAGEConv,
    "GCN": GCNConv,
    "GAT": GATConv,
    "GATv2": GATv2Conv,
    "Transformer": TransformerConv,
    "Cheb": lambda i, o: ChebConv(i, o, 3),
    "SG": lambda i, o: SGConv(i, o, 2),
}


class Network(nn.Module):
    """Five layers, as GIN's authors have it, a sum over nodes, and a linear head."""

    def __init__(self, width: int, layer: str = "GIN", hidden: int = 64) -> None:
        super().__init__()
        make = LAYERS[layer]
        widths = [width, *[hidden] * 4]
        self.layers = nn.ModuleList([make(each, hidden) for each in widths])
        self.norms = nn.ModuleList([nn.BatchNorm1d(hidden) for _ in self.layers])
        self.head = nn.Linear(hidden, 2)

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None, batch_size: int = 1
    ) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x, edge_index)).relu()
        batch = x.new_zeros(len(x), dtype=torch.long) if batch is None else batch
        return self.head(global_add_pool(x, batch, batch_size) / 10)


def network(width: int, layer: str = "GIN") -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Network(width, layer).eval()


def molecule(smiles: str, passes: bool) -> Data | None:
    """Return a molecule's heavy atoms and bonds, None without a bond."""
    found = Chem.MolFromSmiles(smiles)
    if found is None or not found.GetNumBonds():
        return None
    atoms = []
    for atom in found.GetAtoms():
        known = [float(atom.GetSymbol() == each) for each in ELEMENTS]
        counts = [
            atom.GetTotalNumHs(),
            atom.GetFormalCharge(),
            atom.GetIsAromatic(),
            atom.IsInRing(),
        ]
        atoms.append([*known, *map(float, counts), float(atom.GetDegree()) / 4])
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in found.GetBonds()]
    edges = torch.tensor([*bonds, *((j, i) for i, j in bonds)]).T
    return Data(x=torch.tensor(atoms), edge_index=edges, y=torch.tensor(int(passes)))


def molecules(count: int | None) -> list[Data]:
    """Return the molecules in a random order."""
    (path,) = (each for each in files("qc-b3db") or [] if each.name == "B3DB_classification.tsv")
    table = pd.read_csv(path.locate(), sep="\t")
    order = np.random.default_rng(0).permutation(len(table))[:count]
    rows = table.iloc[order]
    made = [
        molecule(smiles, label == "BBB+")
        for smiles, label in zip(rows["SMILES"], rows["BBB+/BBB-"], strict=True)
    ]
    return [each for each in made if each is not None]


def houses(count: int) -> list[Data]:
    """Return graphs with a house (1) or a ring of five (0) that hold their truth as edge_mask."""
    made = []
    for label, motif in enumerate((CycleMotif(5), HouseMotif())):
        seed_everything(label)
        found = ExplainerDataset(BAGraph(20, 1), motif, num_motifs=1, num_graphs=count // 2)
        for each in found:
            edges = each.edge_index
            x = torch.ones(each.num_nodes, 1)
            made.append(
                Data(x=x, edge_index=edges, y=torch.tensor(label), edge_mask=each.edge_mask)
            )
    return [made[place] for place in np.random.default_rng(0).permutation(len(made))]


def explainer_of(model: nn.Module, algorithm: Any) -> Explainer:
    return Explainer(
        model,
        algorithm,
        explanation_type="phenomenon",
        edge_mask_type="object",
        model_config=ModelConfig("multiclass_classification", "graph", "raw"),
    )


def integrated_gradients(model: nn.Module, graphs: Sequence[Data]) -> list[Explanation]:
    """Return Integrated Gradients over edges, from the graph without any, signed."""
    explainer = explainer_of(model, CaptumExplainer("IntegratedGradients", n_steps=32))
    return [explainer(each.x, each.edge_index, target=each.y.reshape(1)) for each in graphs]


def auroc(scores: Tensor, labels: Tensor) -> float:
    ranks, positive = rankdata(scores), labels.numpy().astype(bool)
    above = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(above / (positive.sum() * (~positive).sum()))


class Study(NamedTuple):
    """How much of everything there is."""

    graphs: int | None
    held_out: int
    epochs: int
    tuning_epochs: int
    scored: int
    n_samples: int


FULL = {"molecules": Study(None, 1500, 30, 8, 300, 10), "motifs": Study(1600, 400, 30, 8, 200, 10)}
QUICK = {"molecules": Study(700, 200, 4, 1, 10, 2), "motifs": Study(200, 60, 6, 1, 10, 2)}


class Trained(NamedTuple):
    """A network, its adapter around all graphs, and what is held out."""

    plain: Network
    model: Graphs
    x: Tensor
    y: Tensor
    held: slice


def trained(
    graphs: list[Data], study: Study, layer: str = "GIN", epochs: int | None = None
) -> Trained:
    plain = network(graphs[0].x.shape[1], layer)
    model = Graphs(plain, graphs)
    x, y = torch.from_numpy(model.rows()), torch.stack([each.y for each in graphs])
    rows = slice(0, len(graphs) - study.held_out)
    train(model, x[rows], y[rows], epochs=epochs or study.epochs, lr=5e-3)
    return Trained(plain, model, x, y, slice(rows.stop, None))


def answers(found: Trained) -> Tensor:
    with torch.no_grad():
        return torch.cat([found.model(part) for part in found.x[found.held].split(200)])


def compared(
    page: Page, title: str, graphs: list[Data], study: Study
) -> tuple[Trained, dict[str, Any], list[Tensor], Tensor]:
    """Train a GIN, and add how robust it is and which metric ranks its explanations right."""
    found = trained(graphs, study)
    x, y = found.x[found.held], found.y[found.held]
    outputs = answers(found)
    right = float((outputs.argmax(1) == y).double().mean())
    page.add(
        title,
        f"{len(graphs):,} graphs of {min(g.num_nodes for g in graphs)} to "
        f"{max(g.num_nodes for g in graphs)} nodes, {len(y):,} of them held out: AUROC "
        f"{auroc(outputs[:, 1] - outputs[:, 0], y):.3f}, accuracy {right:.3f}.",
    )
    rows = slice(0, found.held.start)
    tuner = FineTuner(
        found.x[rows],
        found.y[rows],
        epochs=study.tuning_epochs,
        lr=1e-3,
        batch_size=64,
        display_progressbar=False,
    )
    robustness(
        page, f"{title}: robustness to edges removed at random", found.model, tuner, x, y, MASKED
    )
    some = slice(found.held.start, found.held.start + study.scored)
    places = range(some.start, some.stop)
    maps = found.model.maps(integrated_gradients(found.plain, graphs[some]), places)
    scored = Scored(found.model, found.x[some], found.y[some])
    levels = levels_of(found.model, scored.x, torch.from_numpy(maps))
    results = by_metric(scored, levels, [], tuner, None, study.n_samples)
    page.add(
        f"{title}: Integrated Gradients over edges, noise {', '.join(f'{r:g}' for r in NOISE)}",
        f"{study.scored} held-out graphs; N = {study.n_samples}.",
        agreement_table(results),
        areas_table(results),
        cost_table(results),
    )
    truth = torch.zeros_like(levels[0])
    if "edge_mask" in graphs[0]:
        truth = torch.from_numpy(
            found.model.maps([graph.edge_mask for graph in graphs[some]], places)
        )
    return found, {"tuner": tuner, "scored": scored, "results": results}, levels, truth


def planted(page: Page, study: Study) -> None:
    """Add F-Fidelity beside the agreement with the motif that makes the class."""
    graphs = houses(study.graphs or 0)
    found, made, levels, truth = compared(page, "A house or a ring", graphs, study)
    scored = made["scored"]
    exact = by_metric(scored, [truth], [], made["tuner"], None, study.n_samples)
    rows = []
    for name, level in [*zip(NOISE, levels, strict=True), ("the motif", truth)]:
        scores = SynScore("auroc")(
            found.model, scored.x, scored.y, level, s_batch=(truth > 0).numpy()
        )
        rows.append([f"{name:g}" if isinstance(name, float) else name, f"{np.mean(scores):.3f}"])
    for metric, curves in made["results"].items():
        for place in range(len(NOISE)):
            rows[place] += [f"{each[place].mean():.3f}" for each in (curves.plus, curves.minus)]
        rows[-1] += [f"{each.mean():.3f}" for each in (exact[metric].plus, exact[metric].minus)]
    page.add(
        "A house or a ring: the metrics beside the truth",
        "AUROC of the motif's edges by each noise level of Integrated Gradients and by the motif "
        "itself, whose edges are tied, and the means over sparsities of Fid⁺ and Fid⁻.",
        markdown_table(
            ["noise", "AUROC", *(f"{m} {s}" for m in made["results"] for s in ("Fid⁺", "Fid⁻"))],
            rows,
        ),
    )


def masks_of_zeros(page: Page, graphs: list[Data], study: Study, epochs: int) -> None:
    """Add what PyTorch Geometric's fidelity says of the same hard masks, layer by layer."""
    rows = []
    for layer in LAYERS:
        found = trained(graphs, study, layer, epochs)
        held = list(range(found.held.start, found.held.start + study.scored))
        chosen = [graphs[place] for place in held]
        explainer = explainer_of(found.plain, DummyExplainer())
        masks, theirs, by_mask = [], [], []
        for place, data in zip(held, chosen, strict=True):
            (_, columns), count = (
                data.edge_index.sort(0).values.unique(dim=1, return_inverse=True),
                data.edge_index.shape[1] // 2,
            )
            top = np.random.default_rng(place).permutation(count)[: count // 2]
            mask = torch.isin(columns, torch.from_numpy(top)).float()
            explanation = explainer(data.x, data.edge_index, target=data.y.reshape(1))
            explanation.edge_mask = mask
            theirs.append(pyg_fidelity(explainer, explanation))
            by_mask.append(explainer.get_masked_prediction(data.x, data.edge_index, None, 1 - mask))
            masks.append(mask)
        maps = found.model.maps(masks, held)
        x, y = found.x[held], found.y[held]
        metric = Fidelity([0.5], output="label")
        metric(found.model, x, y, maps)
        ours = np.stack([metric.details["plus"], metric.details["minus"]], 1)
        gone = x.masked_fill(torch.from_numpy(maps) > 0, 0)
        with torch.no_grad():
            clean, removed = found.model(x).softmax(1), found.model(gone).softmax(1)
        masked = torch.cat(by_mask).detach().softmax(1)
        effect = (clean - removed)[:, 1].abs()
        gap = (masked - removed)[:, 1].abs()
        differ = (np.abs(ours) != np.array(theirs)).any(1).mean()
        rows.append(
            [
                layer,
                f"{(clean.argmax(1) == y).double().mean():.2f}",
                *(f"{value:.3f}" for value in (*ours.mean(0), *np.mean(theirs, 0))),
                f"{differ:.0%}",
                f"{gap.mean() / effect.mean():.2f}",
            ]
        )
    page.add(
        "Hard masks by `torch_geometric.explain.metric.fidelity`",
        f"A random half of the edges of {study.scored} held-out molecules, networks trained for "
        f"{epochs} epochs each. Theirs asks with a mask of 0 on messages, after degrees, means and "
        "attention have been made of the whole graph, and takes absolute values of differences of "
        "labels. The last column is how far the probability by a mask is from that of the graph "
        "without the edges, relative to what their removal changes.",
        markdown_table(
            [
                *("layer", "accuracy", "Fid⁺ here", "Fid⁻ here", "Fid⁺ theirs", "Fid⁻ theirs"),
                *("molecules that differ", "mask vs removal"),
            ],
            rows,
        ),
    )


def speed(page: Page, found: Trained, graphs: list[Data]) -> None:
    """Add what a batch of 32 costs, relative to the network's own pass over a ready batch."""

    def median(ask: Callable[[], Any]) -> float:
        times = []
        for _ in range(60):
            start = time.perf_counter()
            ask()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    rows = []
    for size in (32, 128):
        some = graphs[:size]
        ready, x = Batch.from_data_list(some), found.x[:size]

        def of(batch: Any) -> Tensor:
            return found.plain(batch.x, batch.edge_index, batch.batch, len(batch))

        ways: list[Callable[[], Any]] = [
            lambda ready=ready: of(ready),
            lambda x=x: found.model(x),
            lambda some=some: of(Batch.from_data_list(some)),
        ]
        with torch.no_grad():
            times = np.median([[median(way) for way in ways] for _ in range(5)], 0)
        rows.append([f"{size}", *(f"{each / times[0]:.2f}" for each in times[1:])])
    page.add(
        "What a pass costs",
        "Relative to the network's own pass over a batch that is ready, medians in one process.",
        markdown_table(["molecules", "by the adapter", "`Batch.from_data_list` and network"], rows),
    )


def main() -> None:
    parsed = options(parser("fidelity_graphs", __doc__))
    studies = QUICK if parsed.quick else FULL
    page = Page(
        "fidelity_graphs", ("torch_geometric", "rdkit", "qc-b3db", "captum"), quick=parsed.quick
    )
    graphs = molecules(studies["molecules"].graphs)
    found, *_ = compared(page, "Molecules", graphs, studies["molecules"])
    speed(page, found, graphs)
    planted(page, studies["motifs"])
    masks_of_zeros(page, graphs, studies["molecules"], 2 if parsed.quick else 5)


if __name__ == "__main__":
    main()
