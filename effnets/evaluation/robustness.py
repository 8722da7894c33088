"""Figures of robustness: from errors and predictions on changed pictures to mCE, mFR and the like.

Errors and rates are fractions, not percent, also mCE and mFR: AlexNet's are 1.

Source: Hendrycks and Dietterich 2019 (ImageNet-C, ImageNet-P), Hendrycks et al. 2021 (ImageNet-A)
and the benchmarks' code, which the normalising constants are from.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Errors = Mapping[str, Mapping[int, float]]

# Top-1 error of AlexNet at severity 1 to 5. Severity 3 of snow and of elastic_transform really is
# easier than severity 2.
ALEXNET_ERRORS: dict[str, dict[int, float]] = {
  name: dict(enumerate((round(value / 100, 8) for value in values), 1))
  for name, values in {
    "gaussian_noise": (69.528, 82.542, 93.554, 98.138, 99.452),
    "shot_noise": (71.224, 85.108, 93.574, 98.182, 99.146),
    "impulse_noise": (78.374, 89.808, 94.870, 98.720, 99.548),
    "defocus_blur": (65.624, 73.202, 85.036, 91.364, 94.714),
    "glass_blur": (64.308, 75.054, 88.806, 91.622, 93.344),
    "motion_blur": (58.430, 70.048, 82.108, 89.750, 92.638),
    "zoom_blur": (70.008, 76.992, 80.784, 84.198, 87.198),
    "snow": (71.726, 88.392, 86.468, 91.870, 94.952),
    "frost": (61.390, 79.734, 88.790, 89.942, 93.430),
    "fog": (67.474, 76.050, 84.378, 87.260, 94.500),
    "brightness": (45.140, 48.502, 54.048, 62.166, 72.440),
    "contrast": (64.548, 76.150, 88.874, 97.760, 99.270),
    "elastic_transform": (52.596, 70.116, 55.686, 64.076, 80.554),
    "pixelate": (52.218, 54.620, 73.728, 87.092, 91.262),
    "jpeg_compression": (51.002, 54.718, 57.294, 65.458, 74.778),
  }.items()
}
ALEXNET_CLEAN_ERROR = 0.435

# Flip probability of AlexNet on ImageNet-P. Its top-5 distances are published nowhere.
ALEXNET_FLIPS = {
  "gaussian_noise": 0.2365,
  "shot_noise": 0.3006,
  "motion_blur": 0.0930,
  "zoom_blur": 0.0594,
  "snow": 0.1193,
  "brightness": 0.0489,
  "translate": 0.1101,
  "rotate": 0.1310,
  "tilt": 0.0705,
  "scale": 0.2353,
}

# The 200 classes of ImageNet-A among the 1,000, in the order of their synsets.
IMAGENET_A = (
  6, 11, 13, 15, 17, 22, 23, 27, 30, 37, 39, 42, 47, 50, 57, 70, 71, 76, 79, 89, 90, 94, 96, 97, 99,
  105, 107, 108, 110, 113, 124, 125, 130, 132, 143, 144, 150, 151, 207, 234, 235, 254, 277, 283,
  287, 291, 295, 298, 301, 306, 307, 308, 309, 310, 311, 313, 314, 315, 317, 319, 323, 324, 326,
  327, 330, 334, 335, 336, 347, 361, 363, 372, 378, 386, 397, 400, 401, 402, 404, 407, 411, 416,
  417, 420, 425, 428, 430, 437, 438, 445, 456, 457, 461, 462, 470, 472, 483, 486, 488, 492, 496,
  514, 516, 528, 530, 539, 542, 543, 549, 552, 557, 561, 562, 569, 572, 573, 575, 579, 589, 606,
  607, 609, 614, 626, 627, 640, 641, 642, 643, 658, 668, 677, 682, 684, 687, 701, 704, 719, 736,
  746, 749, 752, 758, 763, 765, 768, 773, 774, 776, 779, 780, 786, 792, 797, 802, 803, 804, 813,
  815, 820, 823, 831, 833, 835, 839, 845, 847, 850, 859, 862, 870, 879, 880, 888, 890, 897, 900,
  907, 913, 924, 932, 933, 934, 937, 943, 945, 947, 951, 954, 956, 957, 959, 971, 972, 980, 981,
  984, 986, 987, 988,
)  # fmt: skip


def missing(errors: Errors, wanted: Errors) -> dict[str, list[int]]:
  """Returns which severities of which corruptions `errors` lacks; empty if it is complete."""
  lacking = {
    name: [s for s in severities if s not in errors.get(name, {})]
    for name, severities in wanted.items()
  }
  return {name: severities for name, severities in lacking.items() if severities}


def mean_error(errors: Errors) -> float:
  """Returns the mean over corruptions of their mean over severities, unnormalised."""
  return float(np.mean([np.mean(list(by.values())) for by in errors.values()]))


def corruption_errors(
  errors: Errors,
  *,
  reference: Errors = ALEXNET_ERRORS,
  clean: float = 0.0,
  reference_clean: float = 0.0,
) -> dict[str, float]:
  """Returns the corruption error of each corruption that the reference has too; 1 is equally bad.

  Where the reference makes no error there is none.

  It is the ratio of the sums over severities, those that both have. Their mean is the mCE (a mean
  of ratios of sums, not a ratio of means). With the errors on clean pictures, by which every error
  is reduced, it is the relative corruption error.

  >>> corruption_errors({"fog": {1: 0.2, 2: 0.4}}, reference={"fog": {1: 0.3, 2: 0.9, 3: 1.0}})
  {'fog': 0.5}
  """
  figures = {}
  for name, by in errors.items():
    common = [severity for severity in by if severity in reference.get(name, {})]
    theirs = sum(reference[name][s] - reference_clean for s in common)
    if theirs > 0:
      figures[name] = round(sum(by[s] - clean for s in common) / theirs, 12)
  return figures


def flip_probability(
  predictions: Int[np.ndarray, "n t"], *, noise: bool, difficulty: int = 1
) -> float:
  """Returns how often a prediction differs from the one that it is compared with.

  noise: compared with the first frame instead of the one `difficulty` frames before; noise of a
    higher difficulty has frames of its own.

  >>> frames = np.array([[3, 3, 4, 3, 3]])
  >>> flip_probability(frames, noise=False), flip_probability(frames, noise=True)
  (0.5, 0.25)
  """
  predictions = np.asarray(predictions)
  if noise:
    return float(np.mean(predictions[:, 1:] != predictions[:, :1]))
  return float(np.mean(predictions[:, difficulty:] != predictions[:, :-difficulty]))


def top5_distance(
  logits: Float[np.ndarray, "n t k"], *, noise: bool, difficulty: int = 1
) -> Float[np.ndarray, " n"]:
  """Returns per sequence how much the order of the five likeliest classes changes, not normalised.

  For two frames it is the sum over the reference's ranks i = 1..5 of |H(i) - H(s(i))|, s(i) the new
  rank of the class that was at i and H(r) = min(r - 1, 5); ties go to the lower class. 0 is no
  change, 15 that all five have left. References as in `flip_probability`.
  """
  order = np.argsort(-np.asarray(logits, np.float64), axis=-1, kind="stable")
  ranks = np.argsort(order, axis=-1, kind="stable")  # from 0
  best = order[..., :5]
  reference, later = (
    (best[:, :1], ranks[:, 1:]) if noise else (best[:, :-difficulty], ranks[:, difficulty:])
  )
  reference = np.broadcast_to(reference, (*later.shape[:2], reference.shape[-1]))
  found = np.minimum(np.take_along_axis(later, reference, -1), 5)
  return np.abs(found - np.arange(reference.shape[-1])).sum(-1).mean(-1)


def ratios(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
  """Returns each value over the reference's, where that is not 0: flip rates, T5D."""
  return {name: value / reference[name] for name, value in values.items() if reference.get(name)}


def rms_calibration_error(
  confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], *, size: int = 100
) -> float:
  """Returns the root mean square of confidence - accuracy over bins of `size` examples.

  Bins follow the confidence; the last takes the rest. (The published loop leaves it out.)
  """
  order = np.argsort(confidence, kind="stable")
  gaps = np.asarray(confidence, np.float64)[order] - np.asarray(correct, np.float64)[order]
  cuts = np.arange(size, max(len(gaps) - size, 0) + 1, size)
  return float(
    np.sqrt(sum(part.sum() ** 2 / len(part) for part in np.split(gaps, cuts)) / len(gaps))
  )


def aurra(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> float:
  """Returns the mean over k of the accuracy among the k most confident examples."""
  hits = np.asarray(correct, np.float64)[np.argsort(-np.asarray(confidence), kind="stable")]
  return float(np.mean(np.cumsum(hits) / np.arange(1, len(hits) + 1)))


def masked(
  logits: Float[np.ndarray, "n k"], classes: Sequence[int] = IMAGENET_A
) -> Float[np.ndarray, "n m"]:
  """Returns the logits of `classes` only; of 1,001 outputs the first is the background."""
  return logits[:, np.asarray(classes) + (logits.shape[1] == 1001)]
