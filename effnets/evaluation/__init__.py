"""From gathered per-example predictions to figures."""

from effnets.evaluation.classification import classification as classification
