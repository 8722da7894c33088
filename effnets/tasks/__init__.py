"""Learning problems: how a model's outputs become a loss, predictions and metrics."""

from effnets.tasks import glimpses as glimpses
from effnets.tasks import image_tasks as image_tasks
from effnets.tasks import learned_operations as learned_operations
from effnets.tasks.base import Aux as Aux
from effnets.tasks.base import Task as Task
from effnets.tasks.base import halves as halves
from effnets.tasks.classification import Classification as Classification
from effnets.tasks.detection import Detection as Detection
from effnets.tasks.distillation import Distillation as Distillation
from effnets.tasks.instances import Instances as Instances
from effnets.tasks.objects import ObjectTask as ObjectTask
from effnets.tasks.prediction import Prediction as Prediction
from effnets.tasks.registry import create as create
from effnets.tasks.registry import register as register
from effnets.tasks.registry import transform as transform
from effnets.tasks.scene_tasks import box_policy as box_policy
from effnets.tasks.scenes import SceneTask as SceneTask
from effnets.tasks.segmentation import Segmentation as Segmentation
from effnets.tasks.settings import policy as policy
from effnets.tasks.text import Text as Text
