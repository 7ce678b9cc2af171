from tied_networks import network, transformer_network

__all__ = ["network", "transformer_network"]
