"""Experiments of several stages."""
