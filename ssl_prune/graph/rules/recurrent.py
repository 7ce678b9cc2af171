"""LSTM, GRU and RNN: inputs are read, hidden units live through all gates and all times."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.export.module_kinds import kind_of
from ssl_prune.graph.export.program import module_of
from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.labels.hidden_state import State
from ssl_prune.graph.labels.label_types import Contraction, Parameter
from ssl_prune.graph.labels.labels import Labels
from ssl_prune.graph.labels.rule_registry import rule
from ssl_prune.graph.labels.union_find import PINNED

__all__ = ["candidates", "recurrent", "step"]

aten = torch.ops.aten


@rule(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def recurrent(
    labels: Labels,
    node: fx.Node,
    x: Any,
    state: Any,
    params: Any,
    biased: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """Hidden unit j is row j of every gate, and column j of the weights that read the state or the layer's output.

    All layers of one module have one width, so they keep equally many units each; PyTorch's own modules may become one
    whose layers have widths of their own, where nothing else meets their states.
    """
    states = list(state) if isinstance(state, (tuple, list)) else [state]
    directions = 2 if bidirectional else 1
    each = 4 if biased else 2
    if not isinstance(x, Tensor) or len(params) != layers * directions * each or not _plain(params):
        labels.pin(node, "a recurrent layer with a projection or computed weights", x, states, params)
        return tuple(torch.full((), PINNED).expand(v.shape) for v in node.meta["val"])
    initial = _nodes(node.args[1])
    read, source, before, hidden = labels.channels(x, x.dim() - 1), node.args[0], tuple[State, ...](), list[Tensor]()
    for layer in range(layers):
        after = []
        for _ in range(directions):
            own = params[len(hidden) * each :][:each]
            here = State(tuple(p.name for p in own), candidates(own[1].shape), initial, len(hidden))
            hidden.append(_cell(labels, node, own, read, source if layer == 0 else None, before, None, (here,)))
            for value in states:
                _start(labels, node, value, hidden[-1], len(hidden) - 1)
            after.append(here)
        read, before = torch.cat(hidden[-directions:]), tuple(after)
    every = torch.stack(hidden)
    labels.equal(every) if _states_are_met(node, initial) else labels.level(every)
    out, *last = node.meta["val"]
    stacked = every.view(len(hidden), *[1] * (last[0].dim() - 2), -1)
    return (
        read.view(*[1] * (out.dim() - 1), -1).expand(out.shape),
        *(stacked.expand(v.shape) for v in last),
    )


@rule(aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell)
def step(labels: Labels, node: fx.Node, x: Any, state: Any, *params: Any) -> Any:
    """One step of a cell that the user's own code calls: the state is a value like any other."""
    states = list(state) if isinstance(state, (tuple, list)) else [state]
    own = [p for p in params if p is not None]
    if not isinstance(x, Tensor) or not _plain(own):
        labels.pin(node, "a recurrent cell with computed weights", x, states, params)
        return torch.utils._pytree.tree_map(lambda v: torch.full((), PINNED).expand(v.shape), node.meta["val"])
    read = labels.channels(x, x.dim() - 1)
    hidden = _cell(labels, node, own, read, node.args[0], (), _nodes(node.args[1])[0], ())
    for value in states:
        _start(labels, node, value, hidden, None)
    value = node.meta["val"]
    results = value if isinstance(value, (tuple, list)) else (value,)
    found = tuple(hidden.view(*[1] * (v.dim() - 1), -1).expand(v.shape) for v in results)
    return found if isinstance(value, (tuple, list)) else found[0]


def candidates(shape: Any) -> Tensor:
    """Rows of a recurrent weight (gates · H, H) that make the new content: LSTM: gate 2 of 4, GRU: 2 of 3, RNN: all."""
    return torch.arange(shape[1]) + (2 * shape[1] if shape[0] > shape[1] else 0)


def _plain(params: Any) -> bool:
    return all(isinstance(p, Parameter) and not p.computed for p in params)


def _nodes(states: Any) -> tuple[fx.Node, ...]:
    return tuple(states) if isinstance(states, (tuple, list)) else (states,)


def _states_are_met(node: fx.Node, initial: tuple[fx.Node, ...]) -> bool:
    """The user's code gives or takes states, or the module is not one of PyTorch's own."""
    own = kind_of(node) in {f"torch.nn.modules.rnn.{each}" for each in ("LSTM", "GRU", "RNN")}
    given = any(module_of(value) != module_of(node) or value.op == "placeholder" for value in initial)
    taken = any(user.args[1] != 0 and user.users for user in node.users)
    return not own or given or taken


def _start(labels: Labels, node: fx.Node, value: Any, hidden: Tensor, cell: int | None) -> None:
    """A state that the user's code gives is as wide as the hidden units; the zeros that a layer makes follow it."""
    if isinstance(value, Tensor):
        labels.unite(hidden, labels.channels(value if cell is None else value[cell], -1))
        return
    moving = [i for i, plane in enumerate(value.planes) if base(plane).shape[-1] > 1]
    plane = base(value.planes[moving[0]]) if len(moving) == 1 else None
    if value.computed or plane is None or plane.numel() != len(hidden):
        labels.pin(node, "an initial state computed from a parameter", value, hidden)
        return
    labels.role(value, moving[0], "other")
    labels.unite(hidden, plane.reshape(-1))


def _cell(
    labels: Labels,
    node: fx.Node,
    params: Any,
    read: Tensor,
    source: Any,
    before: tuple[State, ...],
    state_source: Any,
    state: tuple[State, ...],
) -> Tensor:
    """One layer in one direction; returns the labels of its hidden units.

    What it reads is a node's value, or hidden units: of the layer `before`, and its own `state`.
    """
    inputs, recurrences = params[:2]
    hidden = labels.axes[recurrences.name, 1]
    rows = hidden.repeat(recurrences.shape[0] // len(hidden))
    for parameter in params:
        labels.role(parameter, 0, "writer")
        labels.unite(labels.axes[parameter.name, 0], rows)
    labels.role(inputs, 1, "reader")
    labels.role(recurrences, 1, "reader")
    labels.unite(read, labels.axes[inputs.name, 1])
    place = labels.positions
    for weight, labels_read, origin, units in (
        (inputs, read, source, before),
        (recurrences, hidden, state_source, state),
    ):
        axes = (len(origin.meta["val"].shape) - 1,) if isinstance(origin, fx.Node) else ()
        labels.contractions.append(
            Contraction(
                node, module_of(node), weight.name, origin if isinstance(origin, fx.Node) else None, axes,
                labels_read, rows, 1, place(weight.name, 0, labels.axes[weight.name, 0]),
                place(weight.name, 1, labels.axes[weight.name, 1]), state=units,
            )
        )  # fmt: skip
    return hidden
