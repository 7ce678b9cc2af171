"""The modules that recurrent layers and attention become: with nothing cut they are what they stand for."""

from typing import Any

import pytest
import torch
from torch import nn

from ssl_prune import slim
from ssl_prune.costs import cost
from ssl_prune.graph import trace
from ssl_prune.sizes.remaining import remaining
from ssl_prune.slimming.modules.pruned_attention import CutAttention, attention_plan, cut_attention
from ssl_prune.slimming.modules.uneven_rnn import UnevenRecurrent, is_uneven, uneven


def close(got: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected)
    elif expected is None:
        assert got is None
    else:
        for one, other in zip(got, expected, strict=True):
            close(one, other)


RECURRENT = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4), (5, 4)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_even_recurrent_layer_is_the_dense_one(kind: str, both: bool, shape: tuple[int, ...], batch_first: bool):
    dense = RECURRENT[kind](4, 3, num_layers=2, bidirectional=both, batch_first=batch_first, bias=batch_first)
    layer, x = uneven(dense), torch.randn(shape)
    output, states = layer(x)
    close((output, states), dense(x))
    close(layer(x, states), dense(x, states))
    layer.flatten_parameters()
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in dense.parameters())


def test_narrower_cells_leave_zeros_in_the_states_and_take_them_back():
    layer = UnevenRecurrent("GRU", 4, [[3, 5], [2, 2]])
    x = torch.randn(6, 2, 4)
    output, states = layer(x)
    assert output.shape == (6, 2, 4)
    assert states.shape == (4, 2, 5)
    assert not states[0, :, 3:].any()
    assert layer(x, states)[0].isfinite().all()


def test_dropout_between_layers_is_for_training_only():
    layer, x = UnevenRecurrent("LSTM", 4, [[3], [2]], dropout=0.5), torch.randn(6, 2, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


def test_states_of_another_width_and_packed_sequences_are_refused():
    layer, x = UnevenRecurrent("GRU", 4, [[3], [2]]), torch.randn(6, 2, 4)
    with pytest.raises(ValueError, match="got states of width 2, expected 3"):
        layer(x, torch.zeros(2, 2, 2))
    with pytest.raises(TypeError, match="PackedSequence"):
        layer(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 4])))


def test_a_cut_is_uneven_where_the_widths_differ():
    assert not is_uneven(nn.Linear(2, 2), {})
    assert not is_uneven(nn.GRU(2, 3, 2), {"weight_hh_l0": {1: [0, 1]}, "weight_hh_l1": {1: [1, 2]}})
    assert is_uneven(nn.GRU(2, 3, 2), {"weight_hh_l0": {1: [0, 1]}})


CALLS: dict[str, dict[str, Any]] = {
    "weights": {},
    "heads": {"average_attn_weights": False},
    "fused": {"need_weights": False},
    "mask": {"attn_mask": torch.ones(5, 4).triu(1).bool()},
    "float-mask": {"attn_mask": torch.randn(5, 4), "need_weights": False},
    "head-mask": {"attn_mask": torch.randn(8, 5, 4)},
    "padding": {"key_padding_mask": torch.tensor([[False, False, False, True], [False] * 4])},
    "causal": {"attn_mask": torch.ones(5, 4).triu(1).bool(), "is_causal": True, "need_weights": False},
    "both": {
        "attn_mask": torch.ones(5, 4).triu(1).bool(),
        "key_padding_mask": torch.tensor([[False, False, False, True], [False] * 4]),
    },
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "options", [{}, {"kdim": 3, "vdim": 7}, {"bias": False, "batch_first": True}, {"add_zero_attn": True}], ids=str
)
def test_whole_attention_is_the_dense_one(call: str, options: dict[str, Any]):
    dense = nn.MultiheadAttention(8, 4, **options)
    becomes = attention_plan(dense, {})
    assert becomes is not None
    layer = cut_attention(dense, becomes)
    q, k, v = torch.randn(5, 2, 8), torch.randn(4, 2, options.get("kdim", 8)), torch.randn(4, 2, options.get("vdim", 8))
    if options.get("batch_first"):
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    with torch.no_grad():
        close(layer(q, k, v, **CALLS[call]), dense(q, k, v, **CALLS[call]))
        if call in ("weights", "heads", "fused", "mask") and not options.get("batch_first"):
            q, k, v = q[:, 0], k[:, 0], v[:, 0]
            close(layer(q, k, v, **CALLS[call]), dense(q, k, v, **CALLS[call]))


def test_attention_without_a_head_gives_no_weights_and_refuses_what_torch_refuses():
    layer = CutAttention((8, 8, 8, 8), (4, 3), [1], 2, 0.5)
    x = torch.randn(5, 2, 8)
    assert layer(x, x, x)[1] is None
    with pytest.raises(RuntimeError, match="is_causal without attn_mask"):
        layer(x, x, x, is_causal=True)


def test_no_plan_for_other_modules_and_for_projections_that_keep_different_heads():
    assert attention_plan(nn.Linear(2, 2), {}) is None
    assert attention_plan(nn.MultiheadAttention(4, 2, add_bias_kv=True), {}) is None
    assert attention_plan(nn.MultiheadAttention(4, 2), {"in_proj_weight": {0: [0, 1, 4, 5, 6, 7, 8, 9]}}) is None


def test_modules_with_hooks_stay_what_they_are():
    net, x = Speech().eval(), torch.randn(2, 5, 4)
    with torch.no_grad():
        net.attention.in_proj_weight[24:27] = 0
        net.attention.in_proj_bias[24:27] = 0
        for name, tensor in net.layer.named_parameters():
            if name.endswith("l0"):
                tensor[0::6] = 0
    for module in (net.layer, net.attention):
        module.register_forward_hook(lambda module, inputs, output: None)
    result = slim(net, x)
    assert type(result.model.layer) is nn.LSTM
    assert type(result.model.attention) is nn.MultiheadAttention
    assert result.report.kept


class Speech(nn.Module):
    """A recurrent layer, attention over its outputs, and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)
        self.cell = nn.GRUCell(12, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.layer(x)
        h, _ = self.attention(h, h, h)
        return self.head(self.cell(h[:, -1]))


def test_a_report_has_a_line_for_each_and_counts_what_is_left_in_it():
    net, x = Speech().eval(), torch.randn(2, 5, 4)
    assert remaining(trace(net, x), net, x).params[0] == sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        for name, tensor in net.layer.named_parameters():
            if name.endswith("l0"):
                tensor[0::6] = 0
        net.attention.in_proj_weight[24:27] = 0
        net.attention.in_proj_bias[24:27] = 0
    result = slim(net, x)
    assert isinstance(result.model.layer, UnevenRecurrent)
    assert isinstance(result.model.attention, CutAttention)
    lines = {layer.name: layer for layer in result.report.layers}
    assert list(lines) == ["layer", "attention", "attention.out_proj", "cell", "head"]
    assert lines["layer"].before == (24, 4)
    assert lines["layer"].after == (20, 4)
    assert lines["attention"].after == (9, 12)
    after = cost(result.model, x)
    assert sum(layer.params[1] for layer in lines.values()) == after.params
    assert lines["layer"].params[1] == sum(p.numel() for p in result.model.layer.parameters())


def test_what_is_left_of_recurrent_layers_is_counted():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), torch.randn(2, 5, 3)
    net.append(Last(nn.GRU(4, 6, num_layers=2, bidirectional=True, batch_first=True)))
    assert remaining(trace(net, x), net, x).macs[0] == cost(net, x).macs


class Last(nn.Module):
    """Outputs of a recurrent layer, without its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]
