"""From gathered per-example predictions to figures."""

from effnets.evaluation import robustness as robustness
from effnets.evaluation.classification import CLASSIFICATION_FIGURES as CLASSIFICATION_FIGURES
from effnets.evaluation.classification import calibration_error as calibration_error
from effnets.evaluation.classification import classification as classification
