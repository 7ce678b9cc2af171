"""Tables as plain text: for the terminal, log files and `str()`."""

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssl_prune.utils.numbers import number

__all__ = ["table"]


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    total: Sequence[object] | None = None,
) -> str:
    """Return a table without colours, as wide as its content.

    Numbers have thousands separators, and a column of nothing but numbers and percentages stands to the right. None is
    an empty cell.

    Args:
        columns: the heads.
        rows: one sequence of cells a row, as long as `columns`.
        title: a line above the table.
        total: a last row under a rule of its own.

    Returns:
        Lines without trailing spaces and without a last line break.

    Raises:
        ValueError: a row is not as long as the head.

    Example:
        >>> print(table(["layer", "filters"], [["conv1", 20], ["fc1", 1500]]))
        layer   filters
        ───────────────
        conv1        20
        fc1       1,500
    """
    body = [*rows] if total is None else [*rows, total]
    for row in body:
        if len(row) != len(columns):
            raise ValueError(f"the row {list(row)} has {len(row)} cells, expected {len(columns)}: {list(columns)}.")
    cells = [[number(cell) for cell in row] for row in body]
    # Text objects: a layer name in brackets is not an instruction to colour it.
    grid = Table(box=box.HORIZONTALS, show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        right = bool(cells) and all(_is_number(row[i]) for row in cells)
        grid.add_column(Text(name), justify="right" if right else "left", no_wrap=True)
    for j, row in enumerate(cells):
        last = total is not None and j == len(rows) - 1
        grid.add_row(*(Text(cell) for cell in row), end_section=last)
    out = StringIO()
    Console(file=out, width=10_000, color_system=None, force_terminal=False, legacy_windows=False).print(grid)
    lines = [line.rstrip() for line in out.getvalue().rstrip("\n").split("\n")]
    return "\n".join(lines if title is None else [title, *lines])


def _is_number(cell: str) -> bool:
    bare = cell.replace(",", "").rstrip(" %")
    try:
        float(bare)
    except ValueError:
        return not bare
    return True
