"""Which sample is in a batch, and the old model's outputs on disk. Plain torch, no Lightning."""
