"""Tables, plots and JSON files."""

from ssl_prune.report.plots import plot_widths
from ssl_prune.utils.json_file import write_json
from ssl_prune.utils.table import table

__all__ = ["plot_widths", "table", "write_json"]
