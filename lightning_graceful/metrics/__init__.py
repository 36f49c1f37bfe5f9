"""Metrics over flips (torchmetrics classes)."""
