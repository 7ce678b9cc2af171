"""What the library raises when it refuses: each message names the layer or the key, and the way out."""

__all__ = ["GraphError", "SlimError", "first_line"]


class SlimError(RuntimeError):
    """A network, a plan or a file that cannot be slimmed, applied or read exactly as asked.

    Example:
        >>> from ssl_prune import SlimPlan
        >>> try:
        ...     SlimPlan.from_json('{"format": 99}')
        ... except SlimError as error:
        ...     print(error)
        plan format 99: this version reads up to 2; install a newer version of ssl-prune
    """


class GraphError(SlimError):
    """A network whose channel graph cannot be built: `torch.export` refused it or its example input does not fit.

    Example:
        >>> issubclass(GraphError, SlimError)
        True
    """


def first_line(error: BaseException) -> str:
    r"""What an error says, to be said within another message: its first line, or "" of one without a text.

    Example:
        >>> first_line(ValueError("too narrow\nsee above")), first_line(AssertionError())
        ('too narrow', '')
    """
    return str(error).partition("\n")[0]
