"""From gathered per-example predictions to figures."""

from effnets.evaluation.classification import CLASSIFICATION_FIGURES as CLASSIFICATION_FIGURES
from effnets.evaluation.classification import classification as classification
