"""Tables, plots and JSON files."""

from ssl_prune.report.files import write_json
from ssl_prune.report.plots import plot_widths
from ssl_prune.report.table import table

__all__ = ["plot_widths", "table", "write_json"]
