"""Image augmentation as batched pure functions of (images, keys), for use inside a compiled step.

`create` makes a whole policy from a config; everything it is made of can be used alone. `detection`
and `boxes` have what pictures with boxes need.
"""

from effnets.augment import boxes as boxes
from effnets.augment import detection as detection
from effnets.augment.autoaugment import POLICIES as POLICIES
from effnets.augment.autoaugment import AutoAugment as AutoAugment
from effnets.augment.colour import recolour as recolour
from effnets.augment.crops import flip as flip
from effnets.augment.crops import random_resized_crop as random_resized_crop
from effnets.augment.crops import shift as shift
from effnets.augment.erasing import cutout as cutout
from effnets.augment.erasing import random_erasing as random_erasing
from effnets.augment.learning import Learned as Learned
from effnets.augment.mix import cutmix as cutmix
from effnets.augment.mix import mix as mix
from effnets.augment.mix import mixup as mixup
from effnets.augment.mix import smooth_one_hot as smooth_one_hot
from effnets.augment.normalization import normalize as normalize
from effnets.augment.operations import OPERATIONS as OPERATIONS
from effnets.augment.operations import apply as apply
from effnets.augment.policy import create as create
from effnets.augment.randaugment import OPERATION_LISTS as OPERATION_LISTS
from effnets.augment.randaugment import RandAugment as RandAugment
from effnets.augment.sheet import contact_sheet as contact_sheet
from effnets.augment.sheet import grid as grid
from effnets.augment.sheet import write_png as write_png
