"""From gathered per-example predictions to figures."""

from effnets.evaluation import comparison as comparison
from effnets.evaluation import timing as timing
from effnets.evaluation.classification import CLASSIFICATION_FIGURES as CLASSIFICATION_FIGURES
from effnets.evaluation.classification import classification as classification
from effnets.evaluation.few_shot import L2 as L2
from effnets.evaluation.few_shot import FewShot as FewShot
from effnets.evaluation.few_shot import few_shot_accuracy as few_shot_accuracy
