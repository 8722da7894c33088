"""What predicted films are worth: figures of frames, best of many, Fréchet distances of sets.

Frames are compared by PSNR, SSIM and, if its weights are at hand, by VGG16's features; what is kept
of a clip are `b n t` figures: clips, samples of each, frames. Sets of films are compared by the
Fréchet distance of features: FVD by I3D's logits, if its weights are at hand; `frechet_digits` by
those of a small network, see `perceptual`, which no paper's figure compares with.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from effnets import errors
from effnets.evaluation import perceptual
from effnets.models import i3d

MEASURES = ("psnr", "ssim", "cosine")
"""Of single frames; higher is better."""

_LEAST_EIGENVALUE = 1e-10


def frechet(real: Float[np.ndarray, "n d"], made: Float[np.ndarray, "m d"]) -> float:
  """Returns the Fréchet distance of two sets of features, each taken to be normal.

  Covariances are divided by n - 1; a set has at least two.
  Raises: UserError if a set is too small, widths differ, or anything is not finite.
  Source: Unterthiner et al. 2018 (arXiv 1812.01717).

  >>> n, k = np.mgrid[:12, :3]
  >>> round(frechet(np.sin(n + k), np.cos(0.7 * n * (k + 1))), 6)
  0.496144
  """
  sets = []
  for name, features in (("real", real), ("generated", made)):
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
      raise errors.UserError(
        f"a Fréchet distance needs features of at least two {name} clips, one row each; they are "
        f"{features.shape}."
      )
    if not np.isfinite(features).all():
      raise errors.UserError(f"features of {name} clips are not all finite.")
    sets.append(features)
  if sets[0].shape[1] != sets[1].shape[1]:
    raise errors.UserError(
      f"real clips have {sets[0].shape[1]} features, generated ones {sets[1].shape[1]}."
    )
  moments = [(x.mean(0), np.atleast_2d(np.cov(x, rowvar=False, ddof=1))) for x in sets]
  return frechet_normal(*moments[0], *moments[1])


def frechet_normal(
  mean: Float[np.ndarray, " d"],
  covariance: Float[np.ndarray, "d d"],
  other_mean: Float[np.ndarray, " d"],
  other_covariance: Float[np.ndarray, "d d"],
) -> float:
  """Returns |m - n|^2 + tr(C + D - 2 (C D)^(1/2)) of two normal distributions.

  The root's trace is that of (C^(1/2) D C^(1/2))^(1/2), symmetric; eigenvalues below 1e-10 are 0.
  """
  mean, covariance, other_mean, other_covariance = (
    np.asarray(x, np.float64) for x in (mean, covariance, other_mean, other_covariance)
  )
  root = _root(covariance)
  product = root @ other_covariance @ root
  values = np.linalg.eigvalsh((product + product.T) / 2)
  trace = np.sqrt(np.where(values > _LEAST_EIGENVALUE, values, 0)).sum()
  distance = np.square(mean - other_mean).sum()
  # Rounding may leave a little less than nothing between equal sets.
  return float(max(0.0, distance + np.trace(covariance) + np.trace(other_covariance) - 2 * trace))


def _root(matrix: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
  values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
  values = np.where(values > _LEAST_EIGENVALUE, values, 0)
  return (vectors * np.sqrt(values)) @ vectors.T


def check_clips(real: np.ndarray, made: np.ndarray, *, least_frames: int = 1) -> None:
  """Checks that two sets of clips `b t h w 3` can be compared.

  They are uint8, or floats in levels of 255. Of equal length and size; at least two of each.

  Raises: UserError that says which of this is not so.
  """
  for name, clips in (("real", real), ("generated", made)):
    if clips.ndim != 5 or clips.shape[-1] != 3:
      raise errors.UserError(f"{name} clips are of shape {clips.shape}; expected b t h w 3.")
    if len(clips) < 2:
      raise errors.UserError(f"{len(clips)} {name} clip(s); a distance of sets needs two.")
    if clips.shape[1] < least_frames:
      raise errors.UserError(
        f"{name} clips have {clips.shape[1]} frames; this measure needs {least_frames}."
      )
    if clips.dtype == np.uint8:
      continue
    if not np.issubdtype(clips.dtype, np.floating):
      raise errors.UserError(f"{name} clips are {clips.dtype}; expected uint8 or floats in 0..255.")
    if not np.isfinite(clips).all():
      raise errors.UserError(f"{name} clips have pixels that are not finite.")
    low, high = float(clips.min()), float(clips.max())
    if low < 0 or high > 255:
      raise errors.UserError(
        f"{name} clips are in [{low:g}, {high:g}]; expected levels from 0 to 255."
      )
    if 0 < high <= 1:
      raise errors.UserError(
        f"{name} clips are in [{low:g}, {high:g}], as if they were scaled to [0, 1]; expected "
        "levels from 0 to 255: multiply them."
      )
  if real.shape[1:] != made.shape[1:]:
    raise errors.UserError(
      f"real clips are {real.shape[1:]}, generated ones {made.shape[1:]} (frames, height, width, "
      "channels); distances of sets of other lengths or sizes mean nothing."
    )


def fvd(
  real: np.ndarray, made: np.ndarray, variables: Mapping[str, Any], *, batch_size: int = 8
) -> float:
  """Returns the Fréchet video distance of two sets of clips `b t h w 3` in levels of 255.

  Every frame counts: cut the context off, or leave it on both. Figures compare only between sets of
  equal length, resolution and number.

  Args: variables: of I3D, see `perceptual.i3d_variables`. batch_size: clips looked at together.
  Raises: UserError as of `check_clips`, or for clips of fewer than 9 frames.
  """
  real, made = np.asarray(real), np.asarray(made)
  check_clips(real, made, least_frames=i3d.LEAST_FRAMES)
  features = jax.jit(lambda variables, clips: perceptual.i3d_features(variables, clips / 255))

  def all_of(clips: np.ndarray) -> np.ndarray:
    parts = range(0, len(clips), batch_size)
    found = [features(variables, clips[i : i + batch_size].astype(np.float32)) for i in parts]
    return np.concatenate([np.asarray(x) for x in found])

  return frechet(all_of(real), all_of(made))


def best(values: Float[np.ndarray, "b n t"]) -> Float[np.ndarray, "b t"]:
  """Returns of every clip the sample that is best over all its frames.

  >>> best(np.array([[[1.0, 5.0], [2.0, 2.0]]])).tolist()
  [[1.0, 5.0]]
  """
  chosen = np.argmax(np.asarray(values, np.float64).mean(2), axis=1)
  return np.take_along_axis(values, chosen[:, None, None], 1)[:, 0]


def curves(outputs: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
  """Returns one figure a frame of every measure in `outputs`: mean over clips.

  NAME: over samples too; NAME_best: of every clip's best sample; NAME_copy: of the last frame of
  the context, again and again.
  """
  found = {}
  for name in MEASURES:
    if name in outputs:
      values = np.asarray(outputs[name], np.float64)
      found[name] = values.mean((0, 1)).tolist()
      found[f"{name}_best"] = best(values).mean(0).tolist()
    if f"{name}_copy" in outputs:
      found[f"{name}_copy"] = np.asarray(outputs[f"{name}_copy"], np.float64).mean(0).tolist()
  return found


def prediction(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Returns the figures of gathered outputs: means over clips and frames, and distances.

  outputs: of MEASURES `b n t`, `NAME_copy` `b t`; and for every distance NAME the features
  `NAME_real` (b d) and `NAME_made` (b n d). Of one clip alone there is no distance: nan.
  """
  figures = {name: float(np.mean(values)) for name, values in curves(outputs).items()}
  for name in perceptual.DISTANCES:
    if f"{name}_real" in outputs:
      real, made = outputs[f"{name}_real"], outputs[f"{name}_made"]
      enough = len(real) > 1
      figures[name] = frechet(real, made.reshape(-1, made.shape[-1])) if enough else float("nan")
  return figures


def names(judges: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the names of `prediction`'s figures, with the networks that judge."""
  measures = [m for m in MEASURES if m != "cosine" or m in judges]
  of_frames = [f"{m}{end}" for m in measures for end in ("", "_best", "_copy")]
  return (*of_frames, *(name for name in perceptual.DISTANCES if name in judges))


def draw(figures: Mapping[str, list[float]], path: Any, *, first: int, label: str = "") -> None:
  """Draws the curves over time of `curves` to a PNG file; a panel for each measure.

  first: number of the first predicted frame. label: above the picture.
  """
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  measures = [name for name in MEASURES if name in figures]
  units = {"psnr": "PSNR [dB]", "ssim": "SSIM", "cosine": "cosine of VGG16's features"}
  looks = {
    "_best": ("best sample", "#0072B2", "-"),
    "": ("mean of samples", "#D55E00", "-"),
    "_copy": ("last frame again", "#555555", ":"),
  }
  figure = Figure(figsize=(5.2 * len(measures), 3.8), layout="constrained", dpi=110)
  backend_agg.FigureCanvasAgg(figure)
  for axes, name in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
    for end, (words, colour, style) in looks.items():
      values = figures.get(f"{name}{end}")
      if values is not None:
        axes.plot(range(first, first + len(values)), values, style, color=colour, label=words)
    axes.set_xlabel("frame")
    axes.set_ylabel(units[name])
    axes.grid(True, color="#DDDDDD", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
  if label:
    figure.suptitle(label)
  figure.savefig(path, format="png", metadata={"Software": None})
