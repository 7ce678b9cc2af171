"""Numbers as a reader wants them."""

__all__ = ["number", "percent"]


def number(value: object) -> str:
    """Write an integer with thousands separators, a float with four digits, None as nothing.

    Example:
        >>> number(1234567), number(0.123456), number(1e-9), number(None), number("conv1")
        ('1,234,567', '0.1235', '1e-09', '', 'conv1')
    """
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(part: float, whole: float) -> str:
    """Write the share of a part in a whole; a dash if the whole is zero.

    Example:
        >>> percent(1, 8), percent(1, 1), percent(0, 0)
        ('12.5 %', '100.0 %', '-')
    """
    return f"{100 * part / whole:.1f} %" if whole else "-"
