"""Modules of PyTorch's own that can become others: what only they see need not stay what they make it."""

from torch import fx

from ssl_prune.graph.export.program import Program, module_of

__all__ = ["attention_modules", "is_attention", "kind_of"]

_ATTENTION = "torch.nn.modules.activation.MultiheadAttention"


def kind_of(node: fx.Node) -> str:
    """Full name of the class of the innermost module whose forward made `node`; "" for none."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    kind = stack[-1][1] if stack else ""
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def attention_modules(program: Program) -> tuple[tuple[str, ...], frozenset[fx.Node]]:
    """The `nn.MultiheadAttention` modules that ran, and their nodes that hold several projections in one value.

    Their code asks for its dense widths, so each is cut by becoming a module whose projections are apart.
    """
    packed: set[fx.Node] = set()
    names: dict[str, None] = {}
    for node in reversed(program.graph.nodes):
        if node.op != "call_function" or kind_of(node) != _ATTENTION:
            continue
        names[module_of(node)] = None
        chosen = "select" in str(node.target)
        if chosen or node in packed:
            packed.update(source for source in node.all_input_nodes if kind_of(source) == _ATTENTION)
    return tuple(names), frozenset(packed)


def is_attention(node: fx.Node) -> bool:
    """Made by the forward of an `nn.MultiheadAttention` itself."""
    return kind_of(node) == _ATTENTION
