"""State, optimizers, the update step, checkpoints and the one loop."""
