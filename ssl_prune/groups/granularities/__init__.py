"""Granularities, one a file."""
