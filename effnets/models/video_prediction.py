"""Video predictors by name: SVG' and its sizes and ablations, SVG-LP and SVG-FP.

Source: see `video_predictor`, which has the network.
"""

import functools
import math
from typing import Any

import jax.numpy as jnp

from effnets import errors, ops
from effnets.models import frame_coders, registry
from effnets.models.video_predictor import (
  BN_MODES,
  KINDS,
  PRIORS,
  REMAT,
  SKIPS,
  STARTS,
  VideoPredictor,
)
from effnets.models.video_predictor import Predicted as Predicted


def build(
  *,
  num_classes: int = 1,
  kind: str = "stochastic",
  coder: str = "shallow",
  k: float = 1.0,
  m: float = 1.0,
  base: int = 256,
  code: int = 128,
  scale_code: bool = False,
  latent: int = 10,
  prior: str = "learned",
  actions: int = 0,
  context: int = 2,
  skips: str = "context",
  bn_mode: str = "running",
  start: str = "official",
  channels: int = 3,
  frames: int = 12,
  image_size: int = 64,
  remat: str = "none",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
) -> VideoPredictor:
  """Returns the network. num_classes: of films, which nothing here asks for.

  Args: as of `VideoPredictor`.
  Raises: UserError for impossible values.
  """
  del num_classes
  for key, value, options in (
    ("kind", kind, KINDS),
    ("coder", coder, frame_coders.CODERS),
    ("prior", prior, PRIORS),
    ("skips", skips, SKIPS),
    ("bn_mode", bn_mode, BN_MODES),
    ("start", start, STARTS),
    ("remat", remat, REMAT),
    ("dtype", jnp.dtype(dtype).name, ("float32", "bfloat16")),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  for key, value in (("k", k), ("m", m)):
    if not 0 < value < math.inf:
      raise errors.UserError(f"config.model.{key}={value!r} should be above 0, such as 1.0.")
  least = {"base": base, "code": code, "latent": latent, "context": context, "channels": channels}
  for key, value in least.items():
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1.")
  for key, value, low in (("actions", actions, 0), ("frames", frames, 2)):
    if value < low:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least {low}.")
  halvings = frame_coders.reduction(coder)
  if image_size < 2**halvings or image_size % 2**halvings:
    near = max(1, round(image_size / 2**halvings)) * 2**halvings
    raise errors.UserError(
      f"config.model.image_size={image_size!r} does not halve {halvings} times as coder={coder!r} "
      f"does; nearest: {near}."
    )
  return VideoPredictor(
    kind=kind,
    coder=coder,
    k=k,
    m=m,
    base=base,
    code=code,
    scale_code=scale_code,
    latent=latent,
    prior=prior,
    actions=actions,
    context=context,
    skips=skips,
    bn_mode=bn_mode,
    start=start,
    channels=channels,
    frames=frames,
    image_size=image_size,
    remat=remat,
    plain=plain,
    dtype=dtype,
    momentum=momentum,
    epsilon=epsilon,
    group=group,
  )


def _add(name: str, *, params: int, madds: int, paper: str = "1911.01655", **own: Any) -> None:
  size, frames = own.get("image_size", 64), own.get("frames", 12)
  registry.register(
    registry.Entry(
      name=name,
      build=functools.partial(build, **own),
      paper=paper,
      image_size=size,
      dropout_rate=0.0,
      drop_path_rate=0.0,
      params=params,
      madds=madds,
      mean=(0.0, 0.0, 0.0),
      std=(1.0, 1.0, 1.0),
      num_classes=1,
      task="prediction",
      frames=frames,
    )
  )


_TINY = {"k": 0.25, "m": 0.125, "code": 32, "latent": 4, "image_size": 32, "start": "fan_in"}
_add("svg_prime", params=25_013_419, madds=37_143_281_664)
_add("svg_prime_large", params=282_751_147, madds=683_988_516_864, k=5.0, m=3.0)
_add("svg_prime_lstm", params=14_868_611, madds=29_222_240_256, kind="recurrent")
_add("svg_prime_cnn", params=6_904_451, madds=23_616_552_960, kind="feedforward")
_add("svg_lp", params=22_831_747, madds=33_075_740_672, paper="1802.07687", coder="vgg", latent=64)
_add("svg_lp_dcgan", params=12_620_203, madds=3_751_290_368, paper="1802.07687", coder="dcgan")
_add(
  "svg_fp",
  params=22_208_691,
  madds=33_068_914_688,
  paper="1802.07687",
  coder="vgg",
  latent=24,
  prior="fixed",
)
_add("svg_prime_tiny", params=642_515, madds=425_539_584, **_TINY)
_add("svg_lp_tiny", params=1_330_291, madds=523_425_536, coder="vgg", **_TINY | {"m": 0.25})
_add("svg_prime_lstm_tiny", params=470_531, madds=382_795_776, kind="recurrent", **_TINY)
_add("svg_prime_cnn_tiny", params=350_531, madds=361_709_568, kind="feedforward", **_TINY)
