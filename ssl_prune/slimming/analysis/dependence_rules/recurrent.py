"""LSTM, GRU and RNN: hidden units that start at zero and whose candidate is zero stay zero, everything else varies."""

from typing import Any

import torch
from torch import Tensor

from ssl_prune.graph.rules.recurrent import candidates
from ssl_prune.slimming.analysis.dependence_rules.registry import Call, everything, rule
from ssl_prune.slimming.analysis.known import Known
from ssl_prune.slimming.analysis.resting_units import resting

__all__ = ["recurrent", "step"]

aten = torch.ops.aten


@rule(aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu, deterministic=lambda call: not call.args[6])
def recurrent(call: Call) -> Any:
    """In all layers and directions."""
    value = call.value
    states, params, biased, layers, bidirectional = (call.args[i] for i in (1, 2, 3, 4, 7))
    each, directions = (4 if biased else 2), (2 if bidirectional else 1)
    cells = layers * directions
    if len(params) != cells * each:  # with projections
        return everything(call)
    states = states if isinstance(states, (tuple, list)) else [states]
    busy = []
    for i in range(cells):
        start = [Known(s.value[i], s.varies[i]) for s in states]
        busy.append(_hidden(params[i * each : (i + 1) * each], start))
    last = torch.stack(busy).view(cells, *[1] * (value[1].dim() - 2), -1)
    return [torch.cat(busy[-directions:]), *(last,) * (len(value) - 1)]


@rule(aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell)
def step(call: Call) -> Any:
    """One step of one cell."""
    moves = _hidden([p for p in call.args[2:] if p is not None], call.args[1])
    return [moves] * len(call.value) if isinstance(call.value, (tuple, list)) else moves


def _hidden(params: list[Known], states: Any) -> Tensor:
    """``(H,)`` hidden units of a cell that do not start at zero, or do not stay there."""
    tensors = [p.value for p in params]
    busy = ~resting(tensors, candidates(tensors[1].shape))
    for state in states if isinstance(states, (tuple, list)) else [states]:
        busy |= (state.varies | (state.value != 0)).reshape(-1, len(busy)).any(0).cpu()
    return busy
