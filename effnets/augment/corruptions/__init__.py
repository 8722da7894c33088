"""The corruptions of ImageNet-C and the perturbation sequences of ImageNet-P, on the host.

Pictures are uint8 NumPy arrays of any size, one at a time; random numbers come from a generator
that the caller seeds by example, so a picture is corrupted alike on any number of hosts.

Source: Hendrycks and Dietterich 2019 (1903.12261).
"""

from effnets.augment.corruptions.apply import corrupt as corrupt
from effnets.augment.corruptions.sequences import NOISE_SEQUENCES as NOISE_SEQUENCES
from effnets.augment.corruptions.sequences import PERTURBATIONS as PERTURBATIONS
from effnets.augment.corruptions.sequences import sequence as sequence
from effnets.augment.corruptions.tables import CORRUPTIONS as CORRUPTIONS
from effnets.augment.corruptions.tables import EXTRA_CORRUPTIONS as EXTRA_CORRUPTIONS
from effnets.augment.corruptions.tables import SEVERITIES as SEVERITIES
from effnets.augment.corruptions.tables import table_size as table_size
