"""The second tracer, for networks that torch.export refuses."""
