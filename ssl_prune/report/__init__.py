"""What the end of a run says: its report, and plots."""

from ssl_prune.report.plots import plot_widths

__all__ = ["plot_widths"]
