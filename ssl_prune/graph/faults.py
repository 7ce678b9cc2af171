"""What fails by a fault of this library: its own tests raise it; elsewhere a slower or coarser way is gone instead."""

from torch import fx

from ssl_prune.errors import first_line

__all__ = ["fault", "name_of"]

RAISE = False  # what our own code raises goes on; the tests set it


def fault(what: fx.Node | str, error: Exception) -> str:
    """What the report says where the rule of an operator, or another part that can be done without, has failed.

    Raises:
        Exception: the error itself, under the tests.
    """
    if RAISE:
        raise error
    name = what if isinstance(what, str) else f"the rule of operator {name_of(what)}"
    return f"{name} failed with {type(error).__name__}: {first_line(error)}"


def name_of(node: fx.Node) -> str:
    """The operator's name with its overload, such as add.Tensor."""
    return getattr(node.target, "__name__", str(node.target))
