"""Losses that keep what the old model got right."""
