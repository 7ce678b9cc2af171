"""Programs visited node by node, every value dropped after its last use."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ssl_prune.errors import GraphError
from ssl_prune.graph.export.program import Program, module_of
from ssl_prune.utils.inputs import Inputs, as_call

__all__ = ["Execution", "Interpretation"]

aten = torch.ops.aten


class Interpretation(fx.Interpreter):
    """One walk over a program in which every node stands for a value of the subclass's own kind.

    A subclass says what `placeholder`, `call_function` and `output` make of the arguments' values.

    Args:
        program: the exported network.

    Attributes:
        node: the one that is visited, for what its target alone does not tell.
    """

    node: fx.Node

    def __init__(self, program: Program) -> None:
        super().__init__(nn.Module(), graph=program.graph)
        self.program = program
        self.extra_traceback = False  # what is raised keeps its own message

    def run_node(self, n: fx.Node) -> Any:
        """The node's value.

        Raises:
            GraphError: the node is no operator, and no parameter, buffer, constant, input or output.
        """
        if n.op not in ("placeholder", "call_function", "output"):
            raise GraphError(
                f"{module_of(n) or 'the network'}: a {n.op} node ({n.name}) has no rule here, only operators, tensors and "
                "inputs have. Write torch.cond and the like with torch.where"
            )
        self.node = n
        return super().run_node(n)

    def step(self, node: fx.Node) -> Any:
        """Visit this node alone, for two walks side by side; `run` visits all of them."""
        value = self.env[node] = self.run_node(node)
        for used in self.user_to_last_uses.get(node, ()):
            del self.env[used]
        return value


class Execution(Interpretation):
    """A program run on numbers.

    Args:
        program: the exported network.
        tensors: name -> parameter or buffer.
        inputs: of the same structure as the example it was exported with.

    Example:
        >>> from ssl_prune.graph.export.program import export
        >>> from ssl_prune.utils.tensors import named_tensors
        >>> net, x = nn.Linear(4, 2), torch.randn(3, 4)
        >>> torch.equal(Execution(export(net, x, lambda node: True), named_tensors(net), x).run()[0], net(x))
        True
    """

    def __init__(self, program: Program, tensors: Mapping[str, Tensor], inputs: Inputs) -> None:
        super().__init__(program)
        self._tensors = tensors
        self._inputs = dict(zip(program.inputs, pytree.tree_leaves(as_call(inputs)), strict=True))

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The input, parameter, buffer or constant of that name."""
        name = self.node.name
        if name in self._inputs:
            return self._inputs[name]
        known = self.program.tensors.get(name)
        return (self.program.constants[name] if known is None else self._tensors[known]).detach()

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result; a view of a value that is laid out otherwise than where it was traced is a copy."""
        if getattr(target, "overloadpacket", None) in (aten.view, aten._unsafe_view):
            return args[0].reshape(args[1])
        return super().call_function(target, args, kwargs)
