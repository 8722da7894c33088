"""effnets: efficient vision papers, reproduced by one sharded JAX/Flax loop."""

__version__ = "0.1.0"
