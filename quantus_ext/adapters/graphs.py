"""Models of graphs, of PyTorch Geometric: rows say which edges, nodes or features are there."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantus_ext import checks
from quantus_ext.adapters.base import Adapter
from quantus_ext.adapters.graph_data import ELEMENTS, GraphData

_MADE = ("edge_index", "batch", "ptr", "batch_size")
"""What is passed to a model besides what its graphs hold."""


@dataclass(frozen=True)
class RemovableElements:
    """The feature mask of graphs: each column by itself, but the first, and those of no element.

    Attributes
    ----------
    removable : Tensor, bool, shape (samples, M)
    """

    removable: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return columns, shape (n, 1 + M), -1 where nothing can be removed."""
        places = torch.arange(x.shape[1], device=x.device)
        removable = self.removable.to(x.device)[samples_of(x)]
        return places.where(nn.functional.pad(removable, (1, 0)), -1)


def samples_of(x: Tensor) -> Tensor:
    """Return which of the adapter's samples rows are, int64, from the first column's −1, −2, …."""
    return (-x[:, 0]).round().long() - 1


class Graphs(Adapter):
    r"""A model of graphs whose edges, nodes or node features are the elements.

    Metrics take rows that :meth:`rows` makes: 1 for an element that is there, 0 for one that is
    gone, and before them the number of the sample. An edge that is gone is taken out of
    ``edge_index``, as it is of all degrees, means and attentions, and a node with its edges; a
    mask of 0 in an explainer of PyTorch Geometric is not that. Rows of many graphs go through the
    model as one batch. :meth:`maps` lays out explanations as the rows are. Elements can only be
    removed: metrics take no ``perturb_func`` or ``perturb_baseline``.

    Parameters
    ----------
    model : torch.nn.Module
        Gives one row of scores a graph, or a node where there are ``nodes``. It is passed by name
        what its ``forward`` has a parameter for: ``x``, ``edge_index``, ``batch``, ``ptr``,
        ``batch_size``, and what else the graphs hold. One with a single parameter of another name
        is passed a ``torch_geometric.data.Batch``.
    graphs : sequence of torch_geometric.data.Data
        The graphs to explain, and those that a ``FineTuner`` trains on; a sample each. Copied.
    element : {"edge", "node", "feature"}, default "edge"
        What is removed at once: an edge, in both directions where the graph is undirected; a node
        with its edges; a value of ``x``, a feature of a node.
    nodes : sequence of int, optional
        For models of nodes: the explained node of each sample, which itself is never taken out.
        Samples may have the same graph.
    hops : int, optional
        With ``nodes``: only what is within so many edges of the node is an element. The model sees
        the whole graph all the same.
    undirected : bool, optional
        Whether both directions between two nodes, and all edges between them, are one element; by
        default where a graph is its own reverse.
    arguments : sequence of str, optional
        What the model is passed, in order, where its ``forward`` does not name it.
    feature_value : float, default 0.0
        What a feature that is gone becomes.

    Raises
    ------
    ValueError, TypeError
        If an argument breaks one of these rules; on a call, if rows were not made by :meth:`rows`,
        or the model gives another number of answers.

    Examples
    --------
    A model that counts edges:

    >>> import numpy as np
    >>> import pytest
    >>> import torch
    >>> from quantus_ext import Deletion
    >>> from quantus_ext.adapters import Graphs
    >>> data = pytest.importorskip("torch_geometric.data")
    >>> class Edges(torch.nn.Module):
    ...     def forward(self, edge_index, batch, batch_size):
    ...         count = torch.bincount(batch[edge_index[0]], minlength=batch_size).float()
    ...         return torch.stack([count, -count], 1)
    >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> model = Graphs(Edges().eval(), [data.Data(edge_index=path, num_nodes=3)])
    >>> x, a = model.rows(), model.maps([[0.1, 0.1, 0.5, 0.5]])
    >>> x.tolist(), a.tolist()
    ([[-1.0, 1.0, 1.0]], [[0.0, 0.2, 1.0]])
    >>> Deletion(2)(model, x, np.array([0]), a, softmax=False)
    [2.0]
    """

    def __init__(
        self,
        model: nn.Module,
        graphs: Sequence[Any],
        *,
        element: Literal["edge", "node", "feature"] = "edge",
        nodes: Sequence[int] | None = None,
        hops: int | None = None,
        undirected: bool | None = None,
        arguments: Sequence[str] | None = None,
        feature_value: float = 0.0,
    ) -> None:
        super().__init__(checks.module("model", model))
        checks.one_of("element", element, ELEMENTS)
        self.element = element
        undirected = checks.optional(checks.flag, "undirected", undirected)
        hops = checks.optional(checks.positive_integer, "hops", hops)
        if hops is not None and nodes is None:
            raise ValueError("hops needs nodes, the explained node of each sample")
        samples = checks.entries("graphs", graphs)
        _check(samples, element)
        targets = None if nodes is None else _targets(nodes, samples)
        # Samples may share a graph, which is held once.
        different = list({id(graph): graph for graph in samples}.values())
        number = {id(graph): place for place, graph in enumerate(different)}
        layouts = [_layout(graph, element, undirected) for graph in different]
        self.data = GraphData.of(
            different,
            [layout.columns for layout in layouts],
            element,
            checks.finite_number("feature_value", feature_value),
        )
        self._layouts = tuple(layouts)
        of_sample = [number[id(graph)] for graph in samples]
        self.graph_of_sample = torch.tensor(of_sample)
        self.node_of_sample = None if targets is None else torch.tensor(targets)
        width = max(len(layout.places) for layout in layouts)
        removable = torch.zeros(len(samples), width, dtype=torch.bool)
        for row, (graph, place) in enumerate(zip(samples, of_sample, strict=True)):
            target = None if targets is None else targets[row]
            own = _removable(graph, layouts[place], element, target, hops)
            if not own.any():
                raise ValueError(
                    f"graphs must have an {element} that could be removed each, graph {row} has "
                    "none: leave it out"
                )
            removable[row, : len(own)] = own
        self.feature_mask = RemovableElements(removable)
        self.takes_presence = True
        self.arguments = self._arguments(model, arguments)

    def rows(self, samples: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return ``x_batch`` of samples, by default of all, shape (n, 1 + M).

        Parameters
        ----------
        samples : sequence of int, optional
            Places in ``graphs``.
        """
        chosen = self._samples(samples)
        rows = np.zeros((len(chosen), 1 + self._removable.shape[1]), dtype=np.float32)
        rows[:, 0] = -1 - np.array(chosen)
        for row, sample in zip(rows, chosen, strict=True):
            row[1 : 1 + len(self._layout_of(sample).places)] = 1
        return rows

    def maps(
        self, explanations: Sequence[Any], samples: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return ``a_batch`` of explanations, shape (n, 1 + M).

        Parameters
        ----------
        explanations : sequence
            Of each sample a ``torch_geometric.explain.Explanation``, or an array: a value for each
            column of its ``edge_index``, of which those of one element are summed; for each node,
            shape (N,), (N, 1) or (N, F), summed; or, where features are elements, (N, F) or (1, F),
            which is shared out evenly.
        samples : sequence of int, optional
            Which samples these are, by default all.

        Raises
        ------
        ValueError, TypeError
            If an explanation has another shape or no such mask.
        """
        chosen = self._samples(samples)
        own = checks.entries("explanations", explanations, len(chosen))
        maps = np.zeros((len(chosen), 1 + self._removable.shape[1]))
        for place, (row, given, sample) in enumerate(zip(maps, own, chosen, strict=True)):
            layout = self._layout_of(sample)
            values = _values(given, layout, self.element, place)
            np.add.at(row, 1 + layout.columns.numpy(), values)
        return maps

    def places(self, sample: int) -> NDArray[np.int64]:
        """Return what the elements of a sample are, in the order of its columns after the first.

        Parameters
        ----------
        sample : int

        Returns
        -------
        array of int64, shape (elements, 2) or (elements, 1)
            The two nodes of an edge; a node; a node and a feature.
        """
        (chosen,) = self._samples([sample])
        return self._layout_of(chosen).places

    def check_inputs(self, x: Tensor) -> None:
        """See :meth:`quantus_ext.adapters.Adapter.check_inputs`."""
        removable = self._removable
        if x.ndim != 2 or x.shape[1] != 1 + removable.shape[1]:
            raise ValueError(
                f"rows must have shape (n, {1 + removable.shape[1]}), as rows() of the adapter "
                f"makes them, have {tuple(x.shape)}"
            )
        first, said = x[:, 0], x[:, 1:]
        number = samples_of(x).clamp(0, len(removable) - 1)
        known = torch.equal((-1 - number).to(x.dtype), first)
        # What is its own square is 0 or 1; asked first, because the model may take no longer.
        if known and torch.equal(said * said, said):
            return
        # Or the first value, for in Quantus's own metrics, which know no elements, "black" is a
        # row's smallest value.
        right = (said == 1) | (said == 0) | (said == first[:, None])
        wrong = ~right.all(1) | (first != -1 - number)
        if bool(wrong.any()):
            raise ValueError(
                "rows must be as rows() of the adapter makes them, a sample's number and then 1, "
                f"or 0 for what is gone; row {int(wrong.nonzero()[0, 0])} is not: leave "
                "perturb_func and perturb_baseline out, or pass perturb_baseline='black' to "
                "metrics of Quantus's own"
            )

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        """Return the scores of rows (n, 1 + M), shape (n, classes)."""
        self.check_inputs(x)
        samples = samples_of(x)
        graphs = self.graph_of_sample.to(x.device).index_select(0, samples)
        targets = self.node_of_sample
        kept = None if targets is None else targets.to(x.device)[samples]
        data, there = self.data.on(x.device), x[:, 1:] == 1
        values: dict[str, Any] = data.batch(graphs, there, kept, wanted=self.arguments)
        values["batch_size"] = len(x)
        if self.arguments is None:
            outputs = self.model(_as_batch(values), **keywords)
        elif isinstance(self.arguments, tuple):
            outputs = self.model(*(values[name] for name in self.arguments), **keywords)
        else:
            outputs = self.model(**{name: values[name] for name in self.arguments}, **keywords)
        expected = len(x) if kept is None else len(values["batch"])
        if not isinstance(outputs, Tensor) or len(outputs) != expected:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            what = "graph" if kept is None else "node"
            raise ValueError(
                f"model must give one row of scores a {what}, here {expected}, gives {found}"
                + (": for a model of nodes pass nodes" if kept is None else "")
            )
        return outputs if kept is None else outputs[values["kept"]]

    @property
    def _removable(self) -> Tensor:
        assert isinstance(self.feature_mask, RemovableElements)
        return self.feature_mask.removable

    def _layout_of(self, sample: int) -> _Layout:
        return self._layouts[int(self.graph_of_sample[sample])]

    def _samples(self, samples: Sequence[int] | None) -> list[int]:
        count = len(self._removable)
        chosen = range(count) if samples is None else checks.naturals("samples", samples)
        for sample in chosen:
            if sample >= count:
                raise ValueError(f"samples must be below {count}, as many as graphs, hold {sample}")
        return list(chosen)

    def _arguments(
        self, model: nn.Module, arguments: Sequence[str] | None
    ) -> tuple[str, ...] | frozenset[str] | None:
        """Return what the model is passed: in order, by name, or None for all in one batch."""
        known = {*_MADE, *self.data.level_of}
        if arguments is not None:
            given = tuple(checks.items("arguments", arguments))
            for name in given:
                if name not in known:
                    raise ValueError(f"arguments must be of {sorted(known)}, hold {name!r}")
            return given
        parameters = inspect.signature(model.forward).parameters.values()
        if any(each.kind is each.VAR_POSITIONAL for each in parameters):
            raise ValueError(
                "arguments must say what model is passed, whose forward does not name it, as "
                "arguments=['x', 'edge_index', 'batch']"
            )
        named = frozenset(each.name for each in parameters) & known
        needed = [
            each.name
            for each in parameters
            if each.default is each.empty and each.kind is not each.VAR_KEYWORD
        ]
        unknown = [name for name in needed if name not in known]
        if not unknown:
            return named
        if len(needed) == 1:
            return None
        raise ValueError(
            f"graphs must all hold {', '.join(unknown)}, which model's forward needs, hold "
            f"{sorted(self.data.level_of)}: or say by arguments= what it is passed"
        )


@dataclass(frozen=True)
class _Layout:
    """The elements of one graph.

    Attributes
    ----------
    places : array of int64, shape (elements, 1 or 2)
        See :meth:`Graphs.places`.
    columns : Tensor, int64, shape (edges,), (nodes,) or (nodes · F,)
        The element of each value of an explanation.
    shape : tuple of int
        An explanation's own.
    """

    places: NDArray[np.int64]
    columns: Tensor
    shape: tuple[int, ...]


def _check(graphs: list[Any], element: str) -> None:
    """Raise TypeError or ValueError for what are no graphs with such elements."""
    if not graphs:
        raise ValueError("graphs must hold at least one graph, is empty")
    for place, graph in enumerate(graphs):
        edges = getattr(graph, "edge_index", None)
        if not isinstance(edges, Tensor) or isinstance(getattr(graph, "num_nodes", None), dict):
            raise TypeError(
                "graphs must hold torch_geometric.data.Data with an edge_index, graph "
                f"{place} is {checks.shown(graph)}"
            )
        if edges.numel() and int(edges.max()) >= graph.num_nodes:
            raise ValueError(
                f"graphs must have edges between their nodes, graph {place} has one of node "
                f"{int(edges.max())} and {graph.num_nodes} nodes"
            )
        x = getattr(graph, "x", None)
        if element == "feature" and (not isinstance(x, Tensor) or x.ndim != 2):
            raise ValueError(
                f"graphs must hold features x of shape (N, F) with element='feature', graph {place}"
                f" holds {'none' if x is None else tuple(x.shape)}"
            )


def _targets(nodes: Sequence[int], graphs: list[Any]) -> list[int]:
    """Return the explained nodes, one a sample, or raise ValueError."""
    targets = checks.naturals("nodes", nodes)
    if len(targets) != len(graphs):
        raise ValueError(
            f"nodes must hold one for each of {len(graphs)} graphs, hold {len(targets)}"
        )
    for place, (node, graph) in enumerate(zip(targets, graphs, strict=True)):
        if node >= graph.num_nodes:
            raise ValueError(
                f"nodes must be in their graphs, graph {place} has {graph.num_nodes}, not {node}"
            )
    return targets


def _layout(graph: Any, element: str, undirected: bool | None) -> _Layout:
    edges = graph.edge_index.cpu()
    if element == "edge":
        if undirected is None:
            one_way, back = (edges[i] * graph.num_nodes + edges[1 - i] for i in (0, 1))
            undirected = torch.equal(one_way.sort().values, back.sort().values)
        if not undirected:
            each = torch.arange(edges.shape[1])
            return _Layout(edges.T.numpy().copy(), each, (len(each),))
        pairs, columns = edges.sort(0).values.unique(dim=1, return_inverse=True)
        return _Layout(pairs.T.numpy().copy(), columns, (edges.shape[1],))
    nodes = np.arange(graph.num_nodes)
    if element == "node":
        return _Layout(nodes[:, np.newaxis], torch.from_numpy(nodes), (graph.num_nodes,))
    shape = tuple(graph.x.shape)
    every = np.arange(graph.x.numel())
    places = np.stack(np.unravel_index(every, shape), 1)
    return _Layout(places, torch.from_numpy(every), shape)


def _removable(
    graph: Any, layout: _Layout, element: str, target: int | None, hops: int | None
) -> Tensor:
    """Return which elements of a sample can be removed, bool, shape (elements,)."""
    near = torch.ones(graph.num_nodes, dtype=torch.bool)
    if hops is not None and target is not None:
        edges = graph.edge_index.cpu()
        near = torch.arange(graph.num_nodes) == target
        for _ in range(hops):
            # Messages come along edges, from the first node to the second.
            near[edges[0, near[edges[1]]]] = True
    ends = layout.places if element == "edge" else layout.places[:, :1]
    own = near[torch.from_numpy(ends)].all(1)
    if element == "node" and target is not None:
        own[target] = False
    return own


def _values(given: Any, layout: _Layout, element: str, place: int) -> NDArray[np.float64]:
    """Return an explanation's values in the order of its elements' columns."""
    name = "edge_mask" if element == "edge" else "node_mask"
    if hasattr(given, "edge_index"):
        # A value that an explanation does not have is None there.
        values = given.get(name)
        if values is None:
            raise ValueError(
                f"explanations must have an {name} where elements are {element}s, that of sample "
                f"{place} has none: pass {name}_type to its Explainer"
            )
    else:
        values = given
    found = checks.float64("explanations", values)
    if element == "node" and found.ndim == 2 and len(found) == layout.shape[0]:
        found = found.sum(1)
    if element == "feature" and found.shape == (1, layout.shape[1]):
        found = np.broadcast_to(found / layout.shape[0], layout.shape)
    if found.shape != layout.shape:
        raise ValueError(
            f"explanations must have shape {layout.shape} where elements are {element}s, that of "
            f"sample {place} has {found.shape}"
        )
    return found.ravel()


def _as_batch(values: dict[str, Any]) -> Any:
    """Return what a model of a single argument is passed."""
    from torch_geometric.data import Batch  # an extra

    held = {name: value for name, value in values.items() if name not in ("batch_size", "kept")}
    return Batch(num_nodes=len(values["batch"]), **held)
