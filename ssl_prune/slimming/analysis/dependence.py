"""Which elements of an operator's result depend on the input: the rules of the taint mask, beside a concrete run."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from ssl_prune.graph.labels.broadcast import base
from ssl_prune.graph.rules.movement import MOVEMENT
from ssl_prune.graph.rules.pointwise import UNTAGGED
from ssl_prune.graph.rules.pooling import POOLING
from ssl_prune.graph.rules.recurrent import candidates
from ssl_prune.slimming.analysis.dependence_masks import busy, convolved, multiplied, uneven
from ssl_prune.slimming.analysis.resting_units import resting

__all__ = ["Known", "varying"]

aten = torch.ops.aten

_SAME = {
    aten.clone, aten.alias, aten.detach, aten._to_copy, aten.to, aten.type_as, aten.contiguous, aten.dropout,
    aten.lift_fresh_copy,
}  # fmt: skip
_CONVOLUTION = {aten.conv1d, aten.conv2d, aten.conv3d}
_TRANSPOSED = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
_REDUCTIONS = {aten.mean, aten.sum, aten.amax, aten.amin}
_VIEWS = {aten.view, aten._unsafe_view}
_FIXED = {
    aten.linear, aten.embedding, aten.prelu, aten._prelu_kernel, aten.glu,
    aten.constant_pad_nd, aten.pad, aten.zeros, aten.ones, aten.full, aten.zeros_like, aten.ones_like, aten.full_like,
    aten.scalar_tensor, aten.index, aten.index_select, aten.empty, aten.im2col, aten.new_zeros, aten.new_ones,
    aten.new_full, aten.empty_like,
}  # fmt: skip
# Of their argument they take the shape, the type and the device.
_LIKE = {aten.zeros_like, aten.ones_like, aten.full_like, aten.new_zeros, aten.new_ones, aten.new_full}
_PRODUCTS = {aten.matmul, aten.bmm, aten.mm, aten.einsum}
_CELLS = {aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell}
_RECURRENT = {aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu}
_SCALED = {aten.layer_norm, aten.native_layer_norm, aten.rms_norm, aten._fused_rms_norm}
_ALONG = {aten.cumsum, aten.cumprod, aten.cummax, aten.sort, aten.argsort, aten.topk}


@dataclass(frozen=True)
class Known:
    """A value and, of the same shape, which of its elements depend on the input.

    The mask is a stride-0 view along axes where it is the same. `free` says that its shape does not depend on the input
    either: it is computed from parameters alone.
    """

    value: Tensor
    varies: Tensor
    free: bool = False


def varying(node: fx.Node, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any], free: bool) -> Any:
    """Which elements of the node's result depend on the input, or on how large it is."""
    target: Any = node.target
    packet = getattr(target, "overloadpacket", target)
    known = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Known)]
    tags = getattr(target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags and not _without_dropout(packet, args, kwargs):
        return torch.ones((), dtype=torch.bool)
    if packet in _LIKE:
        return torch.zeros((), dtype=torch.bool)
    frozen = packet is aten._native_batch_norm_legit_no_training or (packet is aten.batch_norm and not args[5])
    if packet not in (aten.slice, aten.narrow) and _still(known) and (free or frozen or _settled(packet, tags)):
        return torch.zeros((), dtype=torch.bool)
    if packet in _CONVOLUTION and _still(known[1:2]):
        small = convolved(target, known[0].varies, known[1].value, args[3:6], args[6] if len(args) > 6 else 1)
        if small is not None:
            return small
    if packet in _CONVOLUTION | _TRANSPOSED and _still(known[1:2]):
        connected = [(known[1].value != 0).float(), None, *args[3:]]
        return target(known[0].varies.float(), *connected) > 0.5  # counts of connections, so 0 or at least 1
    if packet is aten.linear and _still(known[1:2]):
        return multiplied(known[0].varies, known[1].value)
    if frozen:
        scale = args[1]
        on = torch.ones((), dtype=torch.bool) if scale is None else (scale.value != 0)
        view = [1, -1] + [1] * (args[0].value.dim() - 2)
        varies = base(args[0].varies) & (on if scale is None else on.view(view))
        return varies if packet is aten.batch_norm else [varies, *(torch.zeros((), dtype=torch.bool),) * 2]
    if packet in _SAME:
        return known[0].varies
    if packet in _VIEWS:
        return known[0].varies.reshape(args[1])
    if packet is aten.constant_pad_nd:
        return target(known[0].varies, args[1])
    if packet is aten.pad:
        return target(known[0].varies.float(), *args[1:3]) > 0  # constants around it do not vary
    if packet in (aten.slice, aten.narrow) and free:
        # A longer input may read on in a table: what is one number here must be it everywhere.
        x, dim = known[0], args[1] if len(args) > 1 else 0
        other = x.varies | (x.value != x.value.narrow(dim, 0, 1))
        return other.any(dim, keepdim=True).expand(value.shape)
    if packet in MOVEMENT:
        moved = pytree.tree_map(lambda a: a.varies if isinstance(a, Known) else a, (args, kwargs))
        return target(*moved[0], **moved[1])
    if packet in POOLING:
        # Pooling a constant that padding made uneven depends on the size of the image.
        x = known[0]
        rank = x.value.dim()
        over = min(next((int(c) for c in str(packet) if c.isdigit()), rank - 2), rank - 1)  # axes of positions
        differs = uneven(x.value, x.varies, range(rank - over, rank))
        first = value[0] if isinstance(value, (tuple, list)) else value
        if base(x.varies).shape[-over:].numel() == 1 and first.shape[:-over] == x.value.shape[:-over]:
            everywhere = base(x.varies) | differs
            return everywhere if first is value else [everywhere, torch.ones((), dtype=torch.bool)]
        if isinstance(value, (tuple, list)):  # with positions, which differ between constants
            pooled = target(x.varies.float(), *args[1:], **kwargs)[0] > 0
            return [pooled | differs, torch.ones((), dtype=torch.bool)]
        if packet is aten.upsample_bicubic2d:  # weights of both signs
            return x.varies.any((-2, -1), keepdim=True) | differs
        return (target(x.varies.float(), *args[1:], **kwargs) > 0) | differs
    if packet in _REDUCTIONS:
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = value.dim() == known[0].value.dim()
        dims = dims or list(range(known[0].value.dim()))
        dims = [dims] if isinstance(dims, int) else list(dims)
        # As in pooling; and a sum of equal numbers is as large as the image.
        small = base(known[0].varies)
        found = aten.amax(small, dims, True) | uneven(known[0].value, known[0].varies, dims)
        if not keep:
            gone = {dim % found.dim() for dim in dims}
            found = found[tuple(0 if axis in gone else slice(None) for axis in range(found.dim()))]
        return found | (value != 0) if packet is aten.sum else found
    if packet is aten.mul and len(known) == 2:
        a, b = known
        # A proven zero stays zero whatever it is multiplied with.
        return (base(a.varies) & busy(b.value, b.varies)) | (base(b.varies) & busy(a.value, a.varies))
    if packet in _PRODUCTS and len(known) == 2:
        return busy(value, _product(node, known[0], known[1]).expand(value.shape))
    if packet is aten.scaled_dot_product_attention:
        # Weights add up to one only up to rounding: a channel of v is a constant where it is zero.
        filled = busy(known[2].value, known[2].varies).any(-2, keepdim=True)
        if kwargs.get("enable_gqa") and filled.shape[-3] not in (1, value.shape[-3]):
            filled = filled.repeat_interleave(value.shape[-3] // filled.shape[-3], -3)
        return filled.expand(value.shape)
    if packet in (aten.masked_fill, aten.where) and len(args) == 3:
        # Whatever is chosen, it is the same number.
        mask, one, other = (args[1], args[0], args[2]) if packet is aten.masked_fill else args
        either = [
            side if isinstance(side, Known) else Known(torch.as_tensor(side), torch.tensor(False))
            for side in (one, other)
        ]
        differ = either[0].value != either[1].value
        return either[0].varies | either[1].varies | (mask.varies & differ)
    if packet is aten.embedding:
        return (known[0].value != known[0].value[:1]).any(0).expand(value.shape)
    if packet is aten.embedding_bag:  # sums of a constant are as large as the bag is long
        return [(known[0].value != 0).any(0), *(torch.ones((), dtype=torch.bool),) * (len(value) - 1)]
    if packet is aten.bilinear and not known[2].varies.any():
        return _bilinear(known[0], known[1], known[2].value)
    if packet in _RECURRENT:
        return _recurrent(value, args)
    if packet in _CELLS:
        moves = _hidden([p for p in args[2:] if p is not None], args[1])
        return [moves] * len(value) if isinstance(value, (tuple, list)) else moves
    if packet in (aten.instance_norm, aten._native_batch_norm_legit, aten.batch_norm):
        return _normalised(value, args[0], args[1], args[0].value.shape[1], known[1:])
    if packet is aten.group_norm:
        return _normalised(value, args[0], args[2] if len(args) > 2 else None, args[1], known[1:])
    if packet in _SCALED:
        return _scaled(value, args)
    if packet is aten.glu:
        return _gated(known[0], args[1] if len(args) > 1 else -1)
    if packet in _ALONG:
        return _in_order(packet, value, known[0], args)
    if packet in (aten.im2col, aten.col2im):
        return target(known[0].varies.float(), *args[1:]) > 0
    if packet in (aten.index, aten.index_select) and _still(known[1:]):
        plain = pytree.tree_map(lambda a: a.value if isinstance(a, Known) else a, args[1:])
        return target(known[0].varies, *plain)
    if packet in (aten.prelu, aten._prelu_kernel) and _still(known[1:2]):
        return known[0].varies
    if torch.Tag.pointwise in tags or packet in UNTAGGED:
        merged = torch.zeros((), dtype=torch.bool)
        for k in known:
            merged = merged | base(k.varies)
        return merged
    return torch.ones((), dtype=torch.bool)


def _still(known: list[Known]) -> bool:
    return not any(bool(base(k.varies).any()) for k in known)


def _without_dropout(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Attention and recurrent layers draw random numbers for dropout only, and not in evaluation mode."""
    if packet is aten.dropout:
        return not args[2]
    if packet is aten.scaled_dot_product_attention:
        return not (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))
    return packet in _RECURRENT and not args[6]


def _settled(packet: Any, tags: Any) -> bool:
    """An operator whose results at each position do not depend on how many positions there are."""
    return (
        torch.Tag.pointwise in tags
        or packet in UNTAGGED
        or packet in MOVEMENT
        or packet in _SAME | _VIEWS | _CONVOLUTION | _TRANSPOSED | _FIXED
    )


def _product(node: fx.Node, a: Known, b: Known) -> Tensor:
    """Something that varies meets something that is not a proven zero."""
    target: Any = node.target

    def run(first: Tensor, second: Tensor) -> Tensor:
        if target.overloadpacket is aten.einsum or min(a.value.dim(), b.value.dim()) < 2:
            pair = first.expand(a.value.shape).float(), second.expand(b.value.shape).float()
            result: Tensor = target(node.args[0], pair) if target.overloadpacket is aten.einsum else target(*pair)
            return result > 0.5
        terms = max(first.shape[-1], second.shape[-2])
        first = first.expand(*first.shape[:-1], terms)
        return first.float() @ second.expand(*second.shape[:-2], terms, second.shape[-1]).float() > 0.5

    return run(base(a.varies), busy(b.value, b.varies)) | run(busy(a.value, a.varies), base(b.varies))


def _bilinear(a: Known, b: Known, weight: Tensor) -> Tensor:
    matrix = (weight != 0).float()

    def met(first: Tensor, second: Tensor) -> Tensor:
        return F.bilinear(first.float(), second.float(), matrix) > 0.5

    return met(a.varies, b.varies | (b.value != 0)) | met(a.varies | (a.value != 0), b.varies)


def _normalised(value: Any, x: Known, scale: Known | None, groups: int, parameters: list[Known]) -> Any:
    """By the numbers of the image itself: constant where the scale is zero, or all of a group is; no variance of other
    constants is an accident."""
    channels = x.value.shape[1]
    busy = (x.varies | (x.value != 0)).transpose(0, 1).reshape(channels, -1).any(1)
    busy = busy.view(groups, -1).any(1).repeat_interleave(channels // groups)
    if scale is not None:
        busy &= scale.value != 0
    if not _still(parameters):
        busy = torch.ones_like(busy)
    varies = busy.view([1, -1] + [1] * (x.value.dim() - 2)).expand(x.value.shape)
    return [varies, *(torch.ones((), dtype=torch.bool),) * 2] if isinstance(value, (tuple, list)) else varies


def _scaled(value: Any, args: tuple[Any, ...]) -> Any:
    """By the numbers along its channels: constant only where the scale is zero."""
    scale = args[2] if len(args) > 2 else None
    first = value if isinstance(value, Tensor) else value[0]
    on = torch.ones((), dtype=torch.bool) if scale is None else scale.varies | (scale.value != 0)
    varies = on.expand(first.shape)
    return varies if first is value else [varies, *(torch.ones((), dtype=torch.bool),) * (len(value) - 1)]


def _gated(x: Known, dim: int) -> Tensor:
    (value, _), (varies, gate) = x.value.chunk(2, dim), x.varies.chunk(2, dim)
    return varies | (gate & (value != 0))


def _in_order(packet: Any, value: Any, x: Known, args: tuple[Any, ...]) -> Any:
    """Sorted or added up along an axis: constant where everything along it is one constant."""
    dims = [a for a in args[1:] if isinstance(a, int) and not isinstance(a, bool)]
    dim = (dims[1] if len(dims) > 1 else -1) if packet is aten.topk else (dims[0] if dims else -1)
    uneven = (x.value != 0) if packet is aten.cumsum else x.value != x.value.narrow(dim, 0, 1)
    found = (x.varies | uneven).any(dim, keepdim=True)
    return [found] * len(value) if isinstance(value, (tuple, list)) else found


def _recurrent(value: Any, args: tuple[Any, ...]) -> Any:
    """Hidden units that stay zero, in all layers and directions; everything else varies."""
    states, params, biased, layers, bidirectional = args[1], args[2], args[3], args[4], args[7]
    each, directions = (4 if biased else 2), (2 if bidirectional else 1)
    cells = layers * directions
    if len(params) != cells * each:  # with projections
        return torch.ones((), dtype=torch.bool)
    states = states if isinstance(states, (tuple, list)) else [states]
    busy = []
    for i in range(cells):
        start = [Known(s.value[i], s.varies[i]) for s in states]
        busy.append(_hidden(params[i * each : (i + 1) * each], start))
    last = torch.stack(busy).view(cells, *[1] * (value[1].dim() - 2), -1)
    return [torch.cat(busy[-directions:]), *(last,) * (len(value) - 1)]


def _hidden(params: list[Known], states: Any) -> Tensor:
    """(H,) hidden units of a cell that do not start at zero, or do not stay there."""
    tensors = [p.value for p in params]
    busy = ~resting(tensors, candidates(tensors[1].shape))
    for state in states if isinstance(states, (tuple, list)) else [states]:
        busy |= (state.varies | (state.value != 0)).reshape(-1, len(busy)).any(0).cpu()
    return busy
