"""From gathered per-example predictions to figures.

`detection` is imported by whoever needs it: the official tool behind it brings matplotlib.
"""

from effnets.evaluation import comparison as comparison
from effnets.evaluation import glimpses as glimpses
from effnets.evaluation import glue as glue
from effnets.evaluation import perceptual as perceptual
from effnets.evaluation import prediction as prediction
from effnets.evaluation import robustness as robustness
from effnets.evaluation import timing as timing
from effnets.evaluation import voc as voc
from effnets.evaluation.classification import CLASSIFICATION_FIGURES as CLASSIFICATION_FIGURES
from effnets.evaluation.classification import calibration_error as calibration_error
from effnets.evaluation.classification import classification as classification
from effnets.evaluation.few_shot import L2 as L2
from effnets.evaluation.few_shot import FewShot as FewShot
from effnets.evaluation.few_shot import few_shot_accuracy as few_shot_accuracy
from effnets.evaluation.multi_label import MULTI_LABEL_FIGURES as MULTI_LABEL_FIGURES
from effnets.evaluation.multi_label import average_precisions as average_precisions
from effnets.evaluation.multi_label import multi_label as multi_label
from effnets.evaluation.segmentation import SEGMENTATION_FIGURES as SEGMENTATION_FIGURES
from effnets.evaluation.segmentation import segmentation as segmentation
