"""The old model, capture of outputs, and a small network for experiments."""
