"""Training recipes that several papers share, as changes to a config."""

from effnets.recipes.classification import SMALL_SETS as SMALL_SETS
from effnets.recipes.classification import efficientnet_imagenet as efficientnet_imagenet
from effnets.recipes.classification import imagenet as imagenet
from effnets.recipes.classification import mobile_imagenet as mobile_imagenet
from effnets.recipes.classification import one_model as one_model
from effnets.recipes.classification import residual as residual
from effnets.recipes.classification import resnet_imagenet as resnet_imagenet
from effnets.recipes.classification import small_set as small_set
from effnets.recipes.detection import coco as coco
from effnets.recipes.detection import detector as detector
from effnets.recipes.detection import digit_scenes as digit_scenes
from effnets.recipes.detection import efficientdet_coco as efficientdet_coco
from effnets.recipes.pipelines import learned_operations as learned_operations
from effnets.recipes.pipelines import noisy_student as noisy_student
from effnets.recipes.pipelines import randaugment_grid as randaugment_grid
from effnets.recipes.pipelines import scaling_grid as scaling_grid
from effnets.recipes.pipelines import sweep as sweep
from effnets.recipes.small import few_labels as few_labels
from effnets.recipes.small import small_clutter as small_clutter
from effnets.recipes.small import small_images as small_images
from effnets.recipes.small import small_wide_resnet as small_wide_resnet
from effnets.recipes.transfer import TRANSFER as TRANSFER
from effnets.recipes.transfer import arguments as arguments
from effnets.recipes.transfer import transfer as transfer
