from tied_networks import network

__all__ = ["network"]
