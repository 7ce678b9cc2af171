"""LSTM, GRU and RNN: inputs are read, hidden units live through all gates and all times."""

from typing import Any

import torch
from torch import Tensor, fx

from ssl_prune.graph.labels import Contraction, LabelPass, Parameter
from ssl_prune.graph.program import module_of
from ssl_prune.graph.rules.registry import rule
from ssl_prune.graph.unionfind import PINNED, WILDCARD

__all__ = ["recurrent"]

aten = torch.ops.aten


@rule(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def recurrent(
    labels: LabelPass,
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

    All layers of one module have one width, so they keep equally many units each.
    """
    states = list(state) if isinstance(state, (tuple, list)) else [state]
    directions = 2 if bidirectional else 1
    each = 4 if biased else 2
    if (
        not isinstance(x, Tensor)
        or len(params) != layers * directions * each
        or any(not isinstance(p, Parameter) or p.computed for p in params)
    ):
        labels.pin(node, "a recurrent layer with a projection or computed weights", x, states, params)
        return tuple(torch.full((), PINNED).expand(v.shape) for v in node.meta["val"])
    read, source, hidden = labels.channels(x, x.dim() - 1), node.args[0], []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            own = params[(layer * directions + direction) * each :][:each]
            outputs.append(_cell(labels, node, own, read, source if layer == 0 else None))
            for value in states:
                # An initial state of the user's own keeps its width; zeros that the layer makes follow it.
                labels.unite(outputs[-1], _last(value)) if bool((value != WILDCARD).any()) else None
        read, source = torch.cat(outputs), None
        hidden += outputs
    every = torch.stack(hidden)
    labels.equal(every)
    out, *last = node.meta["val"]
    stacked = every.view(len(hidden), *[1] * (last[0].dim() - 2), -1)
    return (
        read.view(*[1] * (out.dim() - 1), -1).expand(out.shape),
        *(stacked.expand(v.shape) for v in last),
    )


def _last(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])[0]


def _cell(labels: LabelPass, node: fx.Node, params: Any, read: Tensor, source: Any) -> Tensor:
    """One layer in one direction; returns the labels of its hidden units."""
    inputs, recurrences = params[:2]
    hidden = labels.axes[recurrences.name, 1]
    size = len(hidden)
    gates = recurrences.shape[0] // size
    rows = hidden.repeat(gates)
    for parameter in params:
        labels.role(parameter, 0, "writer")
        labels.unite(labels.axes[parameter.name, 0], rows)
    labels.role(inputs, 1, "reader")
    labels.role(recurrences, 1, "reader")
    labels.unite(read, labels.axes[inputs.name, 1])
    # The state stays zero where the candidate (LSTM: gate 2 of 4, GRU: 2 of 3, RNN: the only one) is zero.
    candidate = torch.arange(size) + (2 * size if gates > 1 else 0)
    state = tuple(p.name for p in params)
    place = labels.positions
    for weight, labels_read, origin in ((inputs, read, source), (recurrences, hidden, None)):
        axes = (len(origin.meta["val"].shape) - 1,) if isinstance(origin, fx.Node) else ()
        labels.contractions.append(
            Contraction(
                node, module_of(node), weight.name, origin if isinstance(origin, fx.Node) else None, axes,
                labels_read, rows, 1, place(weight.name, 0, labels.axes[weight.name, 0]),
                place(weight.name, 1, labels.axes[weight.name, 1]),
                state=state if weight is recurrences else (), state_rows=candidate if weight is recurrences else None,
            )
        )  # fmt: skip
    return hidden
