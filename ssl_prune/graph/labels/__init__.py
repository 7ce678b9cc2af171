"""Labels that travel with the data, and the union-find they live in."""
