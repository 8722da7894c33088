"""Learning problems: how a model's outputs become a loss, predictions and metrics."""
