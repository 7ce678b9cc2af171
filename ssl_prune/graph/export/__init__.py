"""The network as a graph of functional operators."""
