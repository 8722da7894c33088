"""Experiments of several stages."""

from effnets.pipelines.registry import run as run
