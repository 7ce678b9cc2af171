"""Zeros that are set at once, in a network that is trained already."""
