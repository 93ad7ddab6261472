"""Many graphs in a few tensors, and batches made of them without a loop over graphs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

Level = Literal["node", "edge", "graph"]
ELEMENTS = ("edge", "node", "feature")


@dataclass(frozen=True)
class GraphData:
    """All graphs of an adapter, one after the other; copies of a model share it.

    Attributes
    ----------
    element : {"edge", "node", "feature"}
        What rows say is there.
    feature_value : float
        What features that are gone become.
    level_of : dict of str to {"node", "edge", "graph"}
        What the graphs hold besides ``edge_index``, and of what that is.
    values : dict of str to Tensor
        The same, of all graphs.
    edge_index : Tensor, int64, shape (2, edges of all graphs)
        Nodes are counted in each graph by itself.
    elements : Tensor, int64, shape (edges of all graphs,)
        The element of each edge in its graph; not read where elements are no edges.
    counts, first : Tensor, int64, shape (graphs, 2)
        Of each graph how many nodes and edges it has, and the places of its first ones among all.
    """

    element: str
    feature_value: float
    level_of: dict[str, Level]
    values: dict[str, Tensor]
    edge_index: Tensor
    elements: Tensor
    counts: Tensor
    first: Tensor
    _elsewhere: dict[torch.device, GraphData] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, graphs: Sequence[Any], elements: Sequence[Tensor], element: str, feature_value: float
    ) -> GraphData:
        """Copy graphs.

        Parameters
        ----------
        graphs : sequence of torch_geometric.data.Data
            Checked ones.
        elements : sequence of Tensor, int64, shape (edges,)
        element, feature_value
            See the class.
        """
        level_of = levels(graphs)
        values = {}
        for name, level in level_of.items():
            each = [graph[name].detach().cpu() for graph in graphs]
            values[name] = torch.stack(each) if level == "graph" else torch.cat(each)
        counts = torch.tensor([[graph.num_nodes, graph.edge_index.shape[1]] for graph in graphs])
        return cls(
            element=element,
            feature_value=feature_value,
            level_of=level_of,
            values=values,
            edge_index=torch.cat([graph.edge_index.cpu() for graph in graphs], 1),
            elements=torch.cat(list(elements)),
            counts=counts,
            first=counts.cumsum(0) - counts,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphData:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_elsewhere": {}}

    def on(self, device: torch.device) -> GraphData:
        """Return the graphs on a device, to which they are copied once."""
        if device == self.edge_index.device:
            return self
        if device not in self._elsewhere:
            tensors = {
                each.name: getattr(self, each.name).to(device)
                for each in fields(self)
                if isinstance(getattr(self, each.name), Tensor)
            }
            values = {name: value.to(device) for name, value in self.values.items()}
            self._elsewhere[device] = replace(self, values=values, _elsewhere={}, **tensors)
        return self._elsewhere[device]

    def batch(
        self,
        graphs: Tensor,
        there: Tensor,
        kept: Tensor | None = None,
        wanted: Collection[str] | None = None,
    ) -> dict[str, Tensor]:
        """Return graphs side by side without what is gone, as PyTorch Geometric batches them.

        Parameters
        ----------
        graphs : Tensor, int64, shape (b,)
            Which ones.
        there : Tensor, bool, shape (b, M)
            The elements that are there.
        kept : Tensor, int64, shape (b,), optional
            A node of each graph that is never taken out.
        wanted : collection of str, optional
            What is looked at, by default all.

        Returns
        -------
        dict of Tensor
            ``edge_index``, ``batch``, ``ptr``, what else the graphs hold, and ``kept``, the places
            of the nodes that are.
        """
        # Few and plain operations: for a small model, each costs as much as one of its own.
        both, first_of_all = self.counts.index_select(0, graphs), self.first.index_select(0, graphs)
        first_here = both.cumsum(0) - both
        (counts, edge_counts), (first, _) = both.unbind(1), first_here.unbind(1)
        to_all = first_of_all - first_here
        graph_of_node, nodes = _places(counts, to_all[:, 0])
        graph_of_edge, edges = _places(edge_counts, to_all[:, 1])
        if self.element == "edge":
            own = self.elements.index_select(0, edges)
            linked = there[graph_of_edge, own].nonzero().squeeze(1)
            edges = edges.index_select(0, linked)
            graph_of_edge = graph_of_edge.index_select(0, linked)
        edge_index = self.edge_index.index_select(1, edges) + first.index_select(0, graph_of_edge)
        place = first if kept is None else first + kept
        alone = None
        if self.element == "node":
            there_node = there[graph_of_node, nodes - first_of_all[:, 0][graph_of_node]]
            if kept is not None:
                there_node[place] = True
            # Models answer for graphs that have a node: of none, the first stays, without values.
            some = torch.zeros_like(counts).index_add_(0, graph_of_node, there_node.long()) > 0
            stays = there_node.clone()
            stays[first[~some]] = True
            linked = there_node[edge_index].all(0)
            new_place = stays.long().cumsum(0) - 1
            place, edges = new_place[place], edges[linked]
            edge_index = new_place[edge_index[:, linked]]
            nodes, graph_of_node, alone = nodes[stays], graph_of_node[stays], ~there_node[stays]
            counts = torch.zeros_like(counts).index_add_(0, graph_of_node, torch.ones_like(nodes))
        selected = {"node": nodes, "edge": edges, "graph": graphs}
        values = {"edge_index": edge_index, "batch": graph_of_node, "kept": place}
        for name, level in self.level_of.items():
            if wanted is None or name in wanted:
                value = self.values[name].index_select(0, selected[level])
                values[name] = value.flatten(0, 1) if level == "graph" and value.ndim > 1 else value
                if level == "node" and alone is not None:
                    values[name][alone] = 0
        if wanted is None or "ptr" in wanted:
            values["ptr"] = nn.functional.pad(counts.cumsum(0), (1, 0))
        if self.element == "feature" and "x" in values:
            width = values["x"].shape[1]
            local = (nodes - first_of_all[:, 0][graph_of_node]).unsqueeze(1)
            columns = local * width + torch.arange(width, device=local.device)
            gone = ~there[graph_of_node.unsqueeze(1), columns]
            values["x"] = values["x"].masked_fill(gone, self.feature_value)
        return values


def _places(counts: Tensor, to_all: Tensor) -> tuple[Tensor, Tensor]:
    """Return of each node (or edge) of some graphs, side by side, whose it is, and where it is.

    Parameters
    ----------
    counts, to_all : Tensor, int64, shape (b,)
        How many each of the graphs has, and how far its places here are from those among all.

    Returns
    -------
    of, place : Tensor, int64
        Which of the b graphs it is of, and its place among those of all graphs.
    """
    of = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return of, torch.arange(len(of), device=counts.device) + to_all.index_select(0, of)


def levels(graphs: Sequence[Any]) -> dict[str, Level]:
    """Return what all graphs hold as tensors, ``edge_index`` apart, and of what each is.

    By its first axis, as PyTorch Geometric has it; what has the length of both nodes and edges is
    of edges if its name says so.
    """
    names = [name for name in graphs[0].keys() if "index" not in name]  # noqa: SIM118 - no dict
    found: dict[str, Level] = {}
    for name in names:
        values = [graph.get(name) for graph in graphs]
        tensors = [value for value in values if isinstance(value, Tensor)]
        if len(tensors) < len(graphs):
            continue
        lengths = [value.shape[0] if value.ndim else None for value in tensors]
        fits = {
            "node": lengths == [graph.num_nodes for graph in graphs],
            "edge": lengths == [graph.edge_index.shape[1] for graph in graphs],
        }
        order: tuple[Level, Level] = ("edge", "node") if "edge" in name else ("node", "edge")
        level = next((each for each in order if fits[each]), None)
        if level is not None:
            found[name] = level
        elif len({tuple(value.shape) for value in tensors}) == 1:
            found[name] = "graph"
    return found
