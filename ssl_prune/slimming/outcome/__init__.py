"""What is left behind: report, reasons, slim file, exports."""
