"""Flax modules, the model registry, initial values and counts."""

from effnets.models import cifar as cifar
from effnets.models import detector as detector
from effnets.models import efficientdet as efficientdet
from effnets.models import efficientnet as efficientnet
from effnets.models import mixnet as mixnet
from effnets.models import mnasnet as mnasnet
from effnets.models import mobilenet as mobilenet
from effnets.models import pyramids as pyramids
from effnets.models import resnet as resnet
from effnets.models import scaling as scaling
from effnets.models.counting import Count as Count
from effnets.models.counting import count as count
from effnets.models.folding import fold as fold
from effnets.models.initialize import abstract as abstract
from effnets.models.initialize import init as init
from effnets.models.layers import main_name as main_name
from effnets.models.layers import main_set as main_set
from effnets.models.registry import Entry as Entry
from effnets.models.registry import create as create
from effnets.models.registry import entry as entry
from effnets.models.registry import list_models as list_models
from effnets.models.registry import register as register
