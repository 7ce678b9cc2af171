"""What of a network is constant, depends on the input, or is needed by an output."""
