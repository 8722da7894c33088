"""Arithmetic on arrays, without parameters: convolutions and batch moments."""

from effnets.ops.convolution import conv as conv
from effnets.ops.convolution import resolve_padding as resolve_padding
from effnets.ops.normalization import Group as Group
from effnets.ops.normalization import moments as moments
