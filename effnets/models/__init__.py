"""Flax modules and the model registry."""
