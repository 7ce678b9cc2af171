"""The proof that a cut network computes the same, and the repair of one that does not."""
