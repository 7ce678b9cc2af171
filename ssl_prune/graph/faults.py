"""Rules that fail: a fault of this library, which its own tests raise; elsewhere what the rule was for is kept."""

from torch import fx

from ssl_prune.errors import first_line

__all__ = ["fault", "name_of"]

RAISE = False  # what a rule raises goes on; the tests set it


def fault(node: fx.Node, error: Exception) -> str:
    """What the report says where the rule of an operator has failed.

    Raises:
        Exception: the error itself, under the tests.
    """
    if RAISE:
        raise error
    return f"the rule of operator {name_of(node)} failed with {type(error).__name__}: {first_line(error)}"


def name_of(node: fx.Node) -> str:
    """The operator's name with its overload, such as add.Tensor."""
    return getattr(node.target, "__name__", str(node.target))
