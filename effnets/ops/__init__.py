"""Arithmetic on arrays, without parameters: convolutions, moments, resampling, boxes."""

from effnets.ops import anchors as anchors
from effnets.ops import attacks as attacks
from effnets.ops import boxes as boxes
from effnets.ops import flow as flow
from effnets.ops import glimpses as glimpses
from effnets.ops import losses as losses
from effnets.ops import masks as masks
from effnets.ops import matching as matching
from effnets.ops import nms as nms
from effnets.ops import resampling as resampling
from effnets.ops import roi_align as roi_align
from effnets.ops import similarity as similarity
from effnets.ops.convolution import conv as conv
from effnets.ops.convolution import resolve_padding as resolve_padding
from effnets.ops.normalization import ACTIVATIONS as ACTIVATIONS
from effnets.ops.normalization import Group as Group
from effnets.ops.normalization import moments as moments
from effnets.ops.normalization import normalize as normalize
from effnets.ops.normalization import shift as shift
from effnets.ops.pointwise import gated as gated
from effnets.ops.split import Split as Split
from effnets.ops.temporal import temporal_conv as temporal_conv
