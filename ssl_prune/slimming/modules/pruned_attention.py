"""What `nn.MultiheadAttention` becomes where heads, or dimensions of heads, are cut."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CutAttention", "attention_plan", "cut_attention"]


class CutAttention(nn.Module):
    r"""Multi-head attention of which heads and dimensions are gone: called like `nn.MultiheadAttention`.

    softmax(Q Kᵀ · scale + mask) V for each head that is left, with the scale of the dense module, whose heads were wider.

    Args:
        features: of query, key, value and output.
        widths: dimensions of a head of queries and keys, and of values.
        heads: the dense module's heads that are left.
        dense_heads: how many it had: a mask of three axes has one for each.
        scale: factor of the scores.
        bias, dropout, batch_first, add_zero_attn: as in `nn.MultiheadAttention`.

    Raises:
        RuntimeError: at the call, `is_causal` without a mask.

    Example:
        >>> layer = CutAttention((8, 8, 8, 8), (4, 3), [1], 2, 0.5, batch_first=True)
        >>> output, weights = layer(*[torch.randn(2, 5, 8)] * 3)
        >>> output.shape, weights is None  # the mean over heads is not known without the others
        (torch.Size([2, 5, 8]), True)
    """

    # What torch's encoder layers ask: they must not run their fused form, which reads the dense tensors.
    _qkv_same_embed_dim = False
    in_proj_weight = None
    in_proj_bias = None

    def __init__(
        self,
        features: Sequence[int],
        widths: tuple[int, int],
        heads: Sequence[int],
        dense_heads: int,
        scale: float,
        bias: bool = True,
        dropout: float = 0.0,
        batch_first: bool = False,
        add_zero_attn: bool = False,
    ) -> None:
        super().__init__()
        query, key, value, output = features
        self.num_heads, self.heads, self.dense_heads, self.scale = len(heads), list(heads), dense_heads, scale
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self.q_proj = nn.Linear(query, self.num_heads * widths[0], bias)
        self.k_proj = nn.Linear(key, self.num_heads * widths[0], bias)
        self.v_proj = nn.Linear(value, self.num_heads * widths[1], bias)
        self.out_proj = nn.Linear(self.num_heads * widths[1], output, bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Output and weights as `nn.MultiheadAttention` returns them; no weights where heads are gone."""
        if is_causal and attn_mask is None:
            raise RuntimeError(
                "CutAttention: got is_causal without attn_mask, expected both, as nn.MultiheadAttention does"
            )
        if query.is_nested:  # `nn.TransformerEncoder` leaves padding out where it can
            return self._ragged(query), None
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        need_weights = need_weights and len(self.heads) == self.dense_heads
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = self._mask(None if causal else attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.scale @ k.transpose(-2, -1)
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=self.scale)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return output.squeeze(0), weights
        return output if self.batch_first else output.transpose(0, 1), weights

    def _ragged(self, x: Tensor) -> Tensor:
        """Self-attention over sequences of several lengths in one nested tensor."""
        lengths = torch.tensor([len(row) for row in x.unbind()], device=x.device)
        padded = torch.nested.to_padded_tensor(x, 0.0)
        padding = torch.arange(padded.shape[1], device=x.device) >= lengths[:, None]
        output = self(padded, padded, padded, key_padding_mask=padding, need_weights=False)[0]
        return torch.nested.as_nested_tensor([row[:n] for row, n in zip(output, lengths.tolist(), strict=True)])

    def _mask(self, attention: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as what is added to the scores, (N or 1, heads or 1, T or 1, S)."""
        masks = []
        if attention is not None:
            if attention.dim() == 3:  # one for each dense head of each sample
                attention = attention.unflatten(0, (-1, self.dense_heads))[:, self.heads]
            masks.append(attention if attention.dim() == 4 else attention[None, None])
        if padding is not None:
            masks.append(padding[:, None, None])
        added: Tensor | None = None
        for mask in masks:
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
            added = mask if added is None else added + mask
        return F.pad(added, (0, 1)) if added is not None and self.add_zero_attn else added

    def extra_repr(self) -> str:
        """Sizes, for `print(model)`."""
        return f"{self.num_heads} of {self.dense_heads} heads, scale={self.scale:.4g}, batch_first={self.batch_first}"


def attention_plan(module: Any, keep: dict[str, dict[int, list[int]]]) -> dict[str, Any] | None:
    """What becomes of an `nn.MultiheadAttention`: {"kind": "Attention", "sizes", "heads"}.

    Args:
        module: the dense module.
        keep: own tensor -> axis -> positions that stay.

    Returns:
        The entry, with the rows of each projection and the heads that stay; None for any other module, one with hooks,
        and where the projections keep different heads.
    """
    if type(module) is not nn.MultiheadAttention or module.bias_k is not None:
        return None
    if module._forward_hooks or module._forward_pre_hooks:
        return None  # they would be lost
    width = module.embed_dim
    if module._qkv_same_embed_dim:
        rows = keep.get("in_proj_weight", {}).get(0, list(range(3 * width)))
        parts = [[row - i * width for row in rows if row // width == i] for i in range(3)]
    else:
        parts = [keep.get(f"{name}_proj_weight", {}).get(0, list(range(width))) for name in "qkv"]
    heads = [sorted({row // module.head_dim for row in part}) for part in parts]
    if heads[0] != heads[1] or heads[0] != heads[2] or any(len(part) % len(heads[0]) for part in parts):
        return None
    return {"kind": "Attention", "sizes": [len(part) for part in parts], "heads": heads[0]}


def cut_attention(module: Any, becomes: dict[str, Any]) -> CutAttention:
    """The form of an `nn.MultiheadAttention` whose tensors were cut, with its parameters; see `attention_plan`."""
    sizes, heads = becomes["sizes"], becomes["heads"]
    if module._qkv_same_embed_dim:
        weights = list(module.in_proj_weight.split(sizes))
    else:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.split(sizes))
    new = CutAttention(
        [*(weight.shape[1] for weight in weights), module.out_proj.out_features],
        (sizes[0] // len(heads), sizes[2] // len(heads)),
        heads,
        module.num_heads,
        float(module.head_dim) ** -0.5,
        module.in_proj_bias is not None,
        module.dropout,
        module.batch_first,
        module.add_zero_attn,
    )
    for projection, weight, bias in zip((new.q_proj, new.k_proj, new.v_proj), weights, biases, strict=True):
        projection.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        learns = None if bias is None else nn.Parameter(bias.detach().clone(), bias.requires_grad)
        projection.register_parameter("bias", learns)
    new.out_proj = module.out_proj
    return new
