"""Parameters that the forward did not use on the example: code that was not run may read what stands beside them."""

from torch import Tensor

from ssl_prune.graph.export.program import Program, modules_of

__all__ = ["unreached"]


def unreached(program: Program, tensors: dict[str, Tensor]) -> tuple[tuple[str, ...], dict[str, tuple[str, set[int]]]]:
    """Owners of parameters that the program does not use, each with the innermost module around it that ran and its
    parameters' sizes."""
    ran = {""}
    unused: dict[str, set[int]] = {}
    used = {id(tensors[program.tensors[n.name]]) for n in program.graph.nodes if n.name in program.tensors and n.users}
    for node in program.graph.nodes:
        ran.update(modules_of(node))
    for name in program.tensors.values():
        if name in program.parameters and id(tensors[name]) not in used:
            unused.setdefault(name.rpartition(".")[0], set()).update(tensors[name].shape)
    beside = {}
    for owner, sizes in unused.items():
        scope = owner
        while scope not in ran:
            scope = scope.rpartition(".")[0]
        beside[owner] = (scope, sizes)
    return tuple(unused), beside
