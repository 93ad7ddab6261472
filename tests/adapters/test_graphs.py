"""Graphs: what is gone is taken out, and batches of many graphs answer as each graph alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

import quantus_ext
from quantus_ext import (
    ABPC,
    QGE,
    Deletion,
    FFidelity,
    Fidelity,
    FineTuner,
    Infidelity,
    RFidelity,
    SynScore,
)
from quantus_ext.adapters import Graphs, Regression
from tests.reference import fidelity, infidelity, removal_curves

pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data
from torch_geometric.explain import Explainer, Explanation, GNNExplainer, ModelConfig
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
    global_mean_pool,
)
from torch_geometric.utils import is_undirected

WIDTH, CLASSES = 3, 3
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "gin": lambda i, o: GINConv(nn.Sequential(nn.Linear(i, o), nn.Tanh())),
    "sum": GraphConv,
    "mean": SAGEConv,
    "gcn": GCNConv,
    "gat": GATConv,
    "gatv2": GATv2Conv,
    "transformer": TransformerConv,
    "cheb": lambda i, o: ChebConv(i, o, 3),
    "sg": lambda i, o: SGConv(i, o, 2),
}


class Classifier(nn.Module):
    """Two layers, for graphs or for nodes."""

    def __init__(self, layer: str, of_nodes: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.first, self.second = LAYERS[layer](WIDTH, 8), LAYERS[layer](8, 8)
            self.head = nn.Linear(8, CLASSES)
        self.of_nodes = of_nodes
        self.double().eval()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        states = self.second(self.first(x, edge_index).tanh(), edge_index).tanh()
        if self.of_nodes:
            return self.head(states)
        if batch is None:
            batch = torch.zeros(len(x), dtype=torch.long)
        pooled = global_add_pool(states, batch) + global_mean_pool(states, batch)
        return self.head(pooled) * 2


def graph(seed: int, n_nodes: int, n_edges: int, *, directed: bool = False) -> Data:
    """A random graph without loops or double edges."""
    rng = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(n_nodes) for j in range(i)]
    chosen = [pairs[place] for place in rng.choice(len(pairs), n_edges, replace=False)]
    if not directed:
        chosen += [(j, i) for i, j in chosen]
    order = [chosen[place] for place in rng.permutation(len(chosen))]
    edges = torch.tensor(order, dtype=torch.long).reshape(-1, 2).T
    return Data(
        x=torch.from_numpy(rng.normal(size=(n_nodes, WIDTH))),
        edge_index=edges,
        edge_attr=torch.from_numpy(rng.normal(size=(edges.shape[1], 2))),
        total=torch.tensor([[float(n_nodes), 1.0]]),
        y=torch.tensor(seed % CLASSES),
    )


GRAPHS = [graph(0, 5, 6), graph(1, 7, 9), graph(2, 4, 4), graph(3, 6, 7, directed=True)]
Y = np.array([0, 2, 1, 1])
TARGETS = [2, 0, 3, 1]


def by_hand(data: Data, element: str, there: np.ndarray, target: int | None) -> Data:
    """Take out what is gone, one thing at a time."""
    edges, x = data.edge_index.T.tolist(), data.x.tolist()
    if element == "edge":
        kinds = [
            tuple(sorted(edge)) if is_undirected(data.edge_index) else tuple(edge) for edge in edges
        ]
        order = sorted(set(kinds)) if is_undirected(data.edge_index) else kinds
        edges = [edge for edge, kind in zip(edges, kinds, strict=True) if there[order.index(kind)]]
    elif element == "node":
        stay = [node for node in range(len(x)) if there[node] or node == target]
        edges = [[stay.index(node) for node in edge] for edge in edges if set(edge) <= set(stay)]
        x = [x[node] for node in stay]
        if not x:
            x = [[0.0] * WIDTH]
    else:
        x = [
            [value if there[node * WIDTH + f] else 0.0 for f, value in enumerate(row)]
            for node, row in enumerate(x)
        ]
    made = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T
    return Data(x=torch.tensor(x, dtype=torch.float64), edge_index=made)


@dataclass
class Problem:
    """A model of graphs or nodes, maps of the samples, and how each is answered by hand."""

    layer: str
    element: str
    of_nodes: bool

    def __post_init__(self) -> None:
        self.plain = Classifier(self.layer, self.of_nodes)
        self.model = Graphs(
            self.plain, GRAPHS, element=self.element, nodes=TARGETS if self.of_nodes else None
        )
        self.x = self.model.rows()
        rng = np.random.default_rng(5)
        self.a = np.where(self.x == 1, rng.normal(size=self.x.shape), 0)

    def counted(self, sample: int) -> list[int]:
        """The columns that are elements, by hand: no explained node is one."""
        count = len(self.model.places(sample))
        kept = {TARGETS[sample]} if self.of_nodes and self.element == "node" else set()
        return [1 + element for element in range(count) if element not in kept]

    def predict(self, sample: int, softmax: bool) -> Callable[[np.ndarray], np.ndarray]:
        data, columns = GRAPHS[sample], self.counted(sample)
        target = TARGETS[sample] if self.of_nodes else None

        def answers(rows: np.ndarray) -> np.ndarray:
            found = []
            for row in rows:
                there = np.ones(len(self.model.places(sample)), dtype=bool)
                there[np.array(columns) - 1] = row.astype(bool)
                one = by_hand(data, self.element, there, target)
                with torch.no_grad():
                    outputs = self.plain(one.x, one.edge_index)
                place = 0
                if target is not None:
                    gone = 0 if self.element != "node" else int((~there[:target]).sum())
                    place = target - gone
                found.append(outputs[place].softmax(0) if softmax else outputs[place])
            return torch.stack(found).numpy()

        return answers

    def slowly(self, score: Callable[..., np.ndarray], softmax: bool, **settings: Any) -> list:
        found = []
        for sample, label in enumerate(Y):
            columns = self.counted(sample)
            found += list(
                score(
                    self.predict(sample, softmax),
                    np.ones((1, len(columns))),
                    np.array([label]),
                    self.a[sample : sample + 1, columns],
                    np.array([sample]),
                    **settings,
                )
            )
        return found


PROBLEMS = [
    ("gin", "edge", False),
    ("gcn", "edge", False),
    ("gatv2", "node", False),
    ("mean", "feature", False),
    ("gcn", "edge", True),
    ("transformer", "node", True),
]


@pytest.mark.parametrize(("layer", "element", "of_nodes"), PROBLEMS)
def test_scores_equal_those_by_hand(layer: str, element: str, of_nodes: bool):
    problem = Problem(layer, element, of_nodes)
    call = (problem.model, problem.x, Y, problem.a)
    settings = {"sparsity": (0.3, 0.6), "alpha": 0.5, "n_samples": 4, "output": "probability"}
    np.testing.assert_allclose(
        RFidelity(**settings)(*call),
        problem.slowly(fidelity.fidelity, True, **settings),
        rtol=1e-9,
        atol=1e-12,
    )
    fractions = [0.0, 0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(
        Deletion(4)(*call),
        problem.slowly(removal_curves.removal_score, True, name="deletion", fractions=fractions),
        rtol=1e-9,
    )
    metric = Infidelity(perturb_patch_sizes=[2], n_perturb_samples=12)
    expected = problem.slowly(
        infidelity.infidelity, False, side=2, n_draws=12, baseline=0.0, multiply_by_inputs=True
    )
    np.testing.assert_allclose(metric(*call), expected, rtol=1e-9)


@pytest.mark.parametrize("element", ["edge", "node", "feature"])
def test_batches_are_those_of_pytorch_geometric(element: str):
    graphs = [*GRAPHS[:3], graph(7, 1, 0)]
    edges = [torch.arange(each.edge_index.shape[1]) for each in graphs]
    from quantus_ext.adapters.graph_data import GraphData

    data = GraphData.of(graphs, edges, element, 0.0)
    rng = np.random.default_rng(0)
    which = [2, 3, 0, 0, 1]
    there = torch.from_numpy(rng.random((5, 60)) < 0.6)
    there[1] = False
    expected = []
    for row, number in zip(there, which, strict=True):
        one = copy.copy(graphs[number])
        if element == "edge":
            keep = row[: one.edge_index.shape[1]]
            one.edge_index, one.edge_attr = one.edge_index[:, keep], one.edge_attr[keep]
        elif element == "node":
            stay = row[: one.num_nodes].clone()
            if stay.any():
                one = one.subgraph(stay)
            else:
                one.x = one.x[:1] * 0
        else:
            one.x = one.x * row[: one.x.numel()].reshape(one.x.shape)
        expected.append(one)
    wanted = Batch.from_data_list(expected)
    found = data.batch(torch.tensor(which), there)
    found.pop("kept")
    assert set(found) == {"x", "edge_index", "edge_attr", "total", "y", "batch", "ptr"}
    for name, values in found.items():
        torch.testing.assert_close(values, wanted[name], rtol=0, atol=0)


@pytest.mark.parametrize("element", ["edge", "node", "feature"])
def test_a_sample_scores_alike_alone_in_any_chunk_and_among_larger_graphs(element: str):
    problem = Problem("gcn", element, False)
    metric = RFidelity([0.3, 0.6], n_samples=4, output="probability")
    expected = metric(problem.model, problem.x, Y, problem.a)
    small = RFidelity([0.3, 0.6], n_samples=4, output="probability", chunk_size=3)
    np.testing.assert_allclose(small(problem.model, problem.x, Y, problem.a), expected)
    alone = Graphs(problem.plain, GRAPHS[2:3], element=element)
    width = alone.rows().shape[1]
    assert width < problem.x.shape[1]
    found = metric(alone, alone.rows(), Y[2:3], problem.a[2:3, :width], index_batch=np.array([2]))
    np.testing.assert_allclose(found, expected[2:3])


def test_shards_of_an_evaluation_know_their_graphs():
    problem = Problem("gin", "edge", False)
    found = [
        quantus_ext.evaluate(
            {"Deletion": Deletion(3)},
            {"map": problem.a},
            problem.model,
            problem.x,
            Y,
            shard_size=size,
            n_jobs=1,
            verbose=False,
        ).scores[0, 0]
        for size in (1, 4)
    ]
    np.testing.assert_allclose(*found)
    assert len(set(found[0])) == 4


@pytest.mark.parametrize("layer", LAYERS)
def test_a_mask_of_zeros_takes_edges_out_where_layers_sum_and_not_elsewhere(layer: str):
    """What an explainer of PyTorch Geometric asks of a model, against what is asked here."""
    differ = False
    for sample, data in enumerate(GRAPHS[:3]):
        plain = Classifier(layer)
        explainer = Explainer(
            plain,
            DummyExplainer(),
            explanation_type="model",
            edge_mask_type="object",
            model_config=ModelConfig("multiclass_classification", "graph", "raw"),
        )
        model = Graphs(plain, [data])
        rows = model.rows().repeat(8, 0)
        rng = np.random.default_rng(sample)
        rows[:, 1:] = rng.random(rows[:, 1:].shape) < 0.5
        asked = model(torch.from_numpy(rows))
        _, columns = data.edge_index.sort(0).values.unique(dim=1, return_inverse=True)
        masks = torch.from_numpy(rows[:, 1:])[:, columns].double()
        masked = torch.cat(
            [explainer.get_masked_prediction(data.x, data.edge_index, None, mask) for mask in masks]
        )
        differ |= not torch.allclose(asked, masked)
    assert differ == (layer not in ("gin", "sum"))


def hard_masks(top: int) -> tuple[list[Data], list[Tensor]]:
    """Graphs, and the ``top`` edges of each as a mask over directed edges."""
    graphs = [graph(seed, 6, 8) for seed in range(60)]
    masks = []
    for seed, data in enumerate(graphs):
        pairs, columns = data.edge_index.sort(0).values.unique(dim=1, return_inverse=True)
        chosen = np.random.default_rng(seed).permutation(pairs.shape[1])[:top]
        masks.append(torch.isin(columns, torch.from_numpy(chosen)).double())
    return graphs, masks


@pytest.mark.parametrize("layer", ["gin", "sum", "gcn", "mean", "gatv2"])
def test_fidelity_of_hard_masks_is_that_of_pytorch_geometric_for_sums(layer: str):
    graphs, masks = hard_masks(top=4)
    plain = Classifier(layer)
    with torch.no_grad():
        # Answers near the borders between classes, so that many change.
        outputs = torch.cat([plain(data.x, data.edge_index) for data in graphs])
        plain.head.bias -= outputs.mean(0) / 2
    explainer = Explainer(
        plain,
        DummyExplainer(),
        explanation_type="model",
        edge_mask_type="object",
        model_config=ModelConfig("multiclass_classification", "graph", "raw"),
    )
    theirs = []
    for data, mask in zip(graphs, masks, strict=True):
        explanation = explainer(data.x, data.edge_index)
        explanation.edge_mask = mask
        theirs.append(pyg_fidelity(explainer, explanation))
    model = Graphs(plain, graphs)
    metric = Fidelity([0.5])
    # As predicted, for theirs compares with predictions.
    metric(model, model.rows(), None, model.maps(masks))
    ours = np.stack([metric.details["plus"], metric.details["minus"]], 1)
    agree = np.array_equal(ours, np.array(theirs))
    assert agree == (layer in ("gin", "sum"))
    assert 0.1 < ours.mean() < 0.9


def test_explanations_are_laid_out_as_rows_are():
    undirected, directed = GRAPHS[0], GRAPHS[3]
    model = Graphs(Classifier("gin"), [undirected, directed])
    masks = [torch.rand(data.edge_index.shape[1]).double() for data in (undirected, directed)]
    maps = model.maps([Explanation(edge_index=undirected.edge_index, edge_mask=masks[0]), masks[1]])
    assert maps.shape == model.rows().shape
    for place, (one, other) in enumerate(model.places(0).tolist()):
        both = [
            value
            for value, edge in zip(masks[0].tolist(), undirected.edge_index.T.tolist(), strict=True)
            if sorted(edge) == [one, other]
        ]
        assert len(both) == 2
        np.testing.assert_allclose(maps[0, 1 + place], sum(both))
    np.testing.assert_array_equal(model.places(1), directed.edge_index.T.numpy())
    np.testing.assert_allclose(maps[1, 1 : 1 + len(masks[1])], masks[1].numpy())
    nodes = Graphs(Classifier("gin"), [undirected], element="node")
    values = np.arange(15.0).reshape(5, 3)
    np.testing.assert_allclose(nodes.maps([values])[0, 1:], values.sum(1))
    np.testing.assert_allclose(nodes.maps([values[:, :1]])[0, 1:], values[:, 0])
    features = Graphs(Classifier("gin"), [undirected], element="feature")
    found = features.maps([Explanation(edge_index=undirected.edge_index, node_mask=values)])
    for place, (node, feature) in enumerate(features.places(0).tolist()):
        assert found[0, 1 + place] == values[node, feature]
    np.testing.assert_allclose(features.maps([values[:1]]).sum(), values[:1].sum())


def test_an_explainer_of_pytorch_geometric_goes_all_the_way():
    plain = Classifier("gcn").float()
    graphs = [data.clone() for data in GRAPHS[:3]]
    for data in graphs:
        data.x = data.x.float()
    explainer = Explainer(
        plain,
        GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config=ModelConfig("multiclass_classification", "graph", "raw"),
    )
    with torch.random.fork_rng(devices=[]):
        explanations = [explainer(data.x, data.edge_index) for data in graphs]
    model = Graphs(plain, graphs)
    scores = QGE(ABPC(3))(model, model.rows(), Y[:3], model.maps(explanations))
    assert np.isfinite(scores).all()


def test_an_explained_node_stays_and_what_is_out_of_its_reach_is_no_element():
    line = torch.tensor([[0, 1, 1, 2, 2, 3, 3, 4], [1, 0, 2, 1, 3, 2, 4, 3]])
    data = Data(x=torch.randn(5, WIDTH, dtype=torch.float64), edge_index=line)
    plain = Classifier("gin", of_nodes=True)
    model = Graphs(plain, [data, data], nodes=[0, 4], hops=2)
    features = model.feature_mask(torch.from_numpy(model.rows()))
    assert features.tolist() == [[-1, 1, 2, -1, -1], [-1, -1, -1, 3, 4]]
    assert len(model.data.counts) == 1
    beyond = torch.from_numpy(model.rows())
    beyond[0, 3:] = beyond[1, 1:3] = 0
    torch.testing.assert_close(model(beyond), plain(data.x, line)[[0, 4]])
    nodes = Graphs(Classifier("gcn", of_nodes=True), GRAPHS, element="node", nodes=TARGETS)
    rows = torch.from_numpy(nodes.rows())
    # As a metric that knows no elements may remove it.
    without = rows.clone()
    without[range(4), [1 + target for target in TARGETS]] = without[:, 0]
    torch.testing.assert_close(nodes(without), nodes(rows))
    with pytest.raises(ValueError, match="hops needs nodes"):
        Graphs(Classifier("gin"), [data], hops=2)


class TakesBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Classifier("gcn")

    def forward(self, data: Batch) -> Tensor:
        assert data.num_graphs == len(data.total)
        return self.inner(data.x, data.edge_index, data.batch)


class TakesAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Classifier("gcn")

    def forward(self, *parts: Tensor) -> Tensor:
        return self.inner(*parts)


class TakesMore(nn.Module):
    """Reads edges' and graphs' values, by names of its own order."""

    def forward(
        self, total: Tensor, edge_attr: Tensor, batch: Tensor, edge_index: Tensor
    ) -> Tensor:
        sums = global_add_pool(edge_attr, batch[edge_index[0]], size=len(total))
        return torch.cat([sums, total], 1)


def test_models_are_passed_what_they_take():
    rows = Graphs(Classifier("gcn"), GRAPHS).rows()
    rows[:, 2] = 0
    x = torch.from_numpy(rows)
    expected = Graphs(Classifier("gcn"), GRAPHS)(x)
    torch.testing.assert_close(Graphs(TakesBatch().eval(), GRAPHS)(x), expected)
    arguments = ["x", "edge_index", "batch"]
    model = Graphs(TakesAll().eval(), GRAPHS, arguments=arguments)
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(ValueError, match="arguments must say what model is passed"):
        Graphs(TakesAll().eval(), GRAPHS)
    outputs = Graphs(TakesMore().eval(), GRAPHS)(x)
    for row, data in zip(outputs, GRAPHS, strict=True):
        torch.testing.assert_close(row[2:], data.total[0].double())
    gone = GRAPHS[3].edge_attr.sum(0) - GRAPHS[3].edge_attr[1]
    torch.testing.assert_close(outputs[3, :2], gone)


def test_a_tuned_copy_sees_training_graphs_without_some_edges():
    training = [graph(seed, 8, 10) for seed in range(10, 34)]
    model = Graphs(Classifier("gin"), [*training, *GRAPHS[:3]])
    rows = model.rows()
    seen: list[int] = []
    handle = model.register_forward_hook(
        lambda module, args, _: (
            seen.extend((args[0][:, 1:] == 1).sum(1).tolist()) if module.training else None
        )
    )
    labels = np.array([int(each.y) for each in training])
    tuner = FineTuner(rows[:24], labels, epochs=2, batch_size=8, display_progressbar=False)
    held = rows[24:]
    a = np.random.default_rng(0).normal(size=held.shape)
    metric = FFidelity(0.3, fine_tune=tuner, n_samples=3, beta=0.3)
    scores = metric(model, held, Y[:3], a)
    handle.remove()
    assert np.isfinite(scores).all()
    assert tuner.report is not None
    # Ten edges each, of which up to three are gone.
    assert set(seen) == {7, 8, 9, 10}


def test_copies_share_the_graphs_and_answer_alike():
    model = Problem("gcn", "edge", False).model
    x = torch.from_numpy(model.rows())
    twin = copy.deepcopy(model)
    assert twin.data is model.data
    for other in (twin, pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), model(x))


def test_truth_of_edges_is_scored():
    model = Graphs(Classifier("gin"), GRAPHS[:2])
    truth = model.maps([(data.edge_index[0] * data.edge_index[1] == 0) for data in GRAPHS[:2]])
    scores = SynScore()(model, model.rows(), Y[:2], truth, s_batch=truth > 0)
    assert scores == [1.0, 1.0]


def test_one_number_a_graph():
    class Number(nn.Module):
        def forward(self, x: Tensor, batch: Tensor) -> Tensor:
            return global_add_pool(x, batch)[:, 0]

    graphs = GRAPHS[:2]
    model = Regression(Graphs(Number().eval(), graphs, element="feature"))
    inner = model.model
    maps = inner.maps([data.x * torch.tensor([1.0, 0, 0]) for data in graphs])
    rows = inner.rows()
    scores = Infidelity(n_perturb_samples=20)(model, rows, np.zeros(2, dtype=int), maps)
    np.testing.assert_allclose(scores, 0, atol=1e-20)


def test_metrics_of_quantus_remove_by_black():
    problem = Problem("gcn", "edge", False)
    metric = quantus.PixelFlipping(features_in_step=1, perturb_baseline="black")
    curves = metric(problem.model, problem.x, Y, problem.a, channel_first=True, softmax=True)
    assert np.isfinite(curves).all()
    torch.testing.assert_close(
        torch.tensor([curve[-1] for curve in curves]),
        torch.tensor(
            [
                float(problem.predict(i, True)(np.zeros((1, len(problem.counted(i)))))[0, Y[i]])
                for i in range(4)
            ]
        ),
        check_dtype=False,
    )
    other = quantus.PixelFlipping(features_in_step=1, perturb_baseline=0.0)
    with pytest.raises(ValueError, match="perturb_baseline='black'"):
        other(problem.model, problem.x, Y, problem.a, channel_first=True, softmax=True)


@pytest.mark.parametrize(
    "metric",
    [
        Deletion(3, perturb_baseline=0.5),
        Infidelity(perturb_baseline="black"),
        RFidelity([0.5], perturb_func=quantus.functions.perturb_func.gaussian_noise),
    ],
    ids=["number", "black", "noise"],
)
def test_elements_have_no_value_to_change(metric: Any):
    problem = Problem("gin", "edge", False)
    with pytest.raises(ValueError, match="must be left out for a Graphs"):
        metric(problem.model, problem.x, Y, problem.a)


def _with(**changes: Any) -> Callable[[], Graphs]:
    arguments = {"model": Classifier("gin"), "graphs": GRAPHS, **changes}
    return lambda: Graphs(arguments.pop("model"), arguments.pop("graphs"), **arguments)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (_with(graphs=[]), "at least one graph"),
        (_with(graphs=[3]), "graph 0 is 3"),
        (_with(graphs=[graph(0, 3, 0)]), "graph 0 has none"),
        (_with(graphs=[Data(edge_index=torch.tensor([[5], [0]]), num_nodes=2)]), "of node 5"),
        (_with(element="motif"), "element must be one of"),
        (_with(nodes=[0]), "one for each of 4 graphs"),
        (_with(nodes=[0, 0, 0, 9]), "graph 3 has 6, not 9"),
        (_with(arguments=["z"]), "hold 'z'"),
        (_with(model=nn.Bilinear(1, 1, 1)), "graphs must all hold input1, input2"),
        (
            _with(graphs=[Data(edge_index=GRAPHS[0].edge_index, num_nodes=5)], element="feature"),
            "graph 0 holds none",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[], Graphs], said: str):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_rows_and_maps_that_do_not_fit_are_refused():
    model = Graphs(Classifier("gin"), GRAPHS[:2])
    rows = model.rows()
    for wrong, said in (
        (rows[:, :-1], "must have shape"),
        (np.where(rows < 0, -3, rows), "row 0 is not"),
        (np.where(rows == 1, 0.5, rows), "row 0 is not"),
    ):
        with pytest.raises(ValueError, match=said):
            Deletion(2)(model, wrong, Y[:2], rows[:, : wrong.shape[1]])
    edges = [np.ones(data.edge_index.shape[1]) for data in GRAPHS[:2]]
    for given, said in (
        (edges[:1], "one for each of 2 samples"),
        ([edges[0], edges[1][:-1]], "that of sample 1 has"),
        ([Explanation(edge_index=GRAPHS[0].edge_index)] * 2, "have an edge_mask"),
    ):
        with pytest.raises(ValueError, match=said):
            model.maps(given)
    with pytest.raises(ValueError, match="samples must be below 2"):
        model.rows([2])
    of_nodes = Graphs(Classifier("gin", of_nodes=True), GRAPHS[:2])
    with pytest.raises(ValueError, match="for a model of nodes pass nodes"):
        Deletion(2)(of_nodes, rows, Y[:2], rows)
