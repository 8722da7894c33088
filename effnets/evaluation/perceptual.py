"""Networks that look at predicted films: features for Fréchet distances and for VGG's cosine.

  fvd             I3D's logits, mean over time; weights from the user
  frechet_digits  a small network's features, trained on `digit_actions`, which comes with the
                  package: it runs everywhere, and compares with nothing published
  cosine          VGG16's features, frame by frame; weights from the user

The files that a user gives are `.npz` or `.safetensors`:

  I3D     names of the published checkpoint, with or without `RGB/inception_i3d/` before them:
          Conv3d_1a_7x7/conv_3d/w (THWIO), …/batch_norm/beta, moving_mean, moving_variance,
          Mixed_3b/Branch_0/Conv3d_0a_1x1/…, Logits/Conv3d_0c_1x1/conv_3d/w and b
  VGG16   conv1_1/kernel (HWIO, of BGR pixels less the means, in levels of 255), conv1_1/bias, up to
          conv5_3; Keras's block1_conv1_W_1:0, block1_conv1/kernel and the like are understood
"""

import functools
import pathlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float

from effnets import errors, models
from effnets.models import i3d, vgg

DISTANCES = ("fvd", "frechet_digits")

_SIDE = 224
_SMALL = "video_resnet_tiny"
SMALL_FILE = pathlib.Path(__file__).with_name("digit_features.npz")
_SCOPE = re.compile(r"^(module/)?(RGB/)?inception_i3d/")


def read(path: str, key: str) -> dict[str, np.ndarray]:
  """Returns the arrays of a file. key: of the config, for messages.

  Raises: UserError if it is none, or not whole.
  """
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise errors.UserError(f"{key}={path!r}: there is no such file.")
  try:
    if file.suffix == ".safetensors":
      return safetensors.numpy.load_file(file)
    with np.load(file, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (
    safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError,
    AttributeError, KeyError,
  ) as error:  # fmt: skip
    raise errors.UserError(
      f"{key}={path!r} is no whole .npz or .safetensors file of plain arrays: {error}."
    ) from error


def i3d_variables(arrays: Mapping[str, np.ndarray], key: str = "weights") -> dict[str, Any]:
  """Returns I3D's variables from arrays by the names of the published checkpoint.

  Raises: UserError that counts and names what is missing or of another shape.
  """
  given = i3d_arrays(arrays)
  return _fitted(models.abstract(i3d.I3D()), given, key, "I3D")


def i3d_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays by their names without scope, and without those that only training needs."""
  kept = ("w", "b", "beta", "moving_mean", "moving_variance")
  inside = {_SCOPE.sub("", name): name for name in arrays if name.rpartition("/")[2] in kept}
  return {short: np.asarray(arrays[name]) for short, name in inside.items()}


def vgg16_variables(arrays: Mapping[str, np.ndarray], key: str = "weights") -> dict[str, Any]:
  """Returns VGG16's variables from arrays by the names of the module's docstring.

  Raises: UserError that counts and names what is missing or of another shape.
  """
  given = {}
  for name, array in arrays.items():
    found = re.search(r"(?:block|conv)(\d)_(?:conv)?(\d).*?(kernel|bias|W|b)(?:_1)?(?::0)?$", name)
    if found:
      kind = {"W": "kernel", "b": "bias"}.get(found[3], found[3])
      given[f"conv{found[1]}_{found[2]}/{kind}"] = np.asarray(array)
  return _fitted(models.abstract(vgg.VGG16()), given, key, "VGG16")


def _fitted(
  abstract: Any, given: Mapping[str, np.ndarray], key: str, network: str
) -> dict[str, Any]:
  """Returns `given` as the variables of a network, whose names below their collection they have."""
  wrong: list[str] = []

  def leaf(path, shape):
    name = jax.tree_util.keystr(path, simple=True, separator="/").partition("/")[2]
    array = given.get(name)
    if array is None:
      wrong.append(f"{name} is missing")
      return None
    # Norms of the checkpoint have a dimension for everything that they do not depend on.
    if array.size == int(np.prod(shape.shape)) and len(shape.shape) == 1:
      array = array.reshape(shape.shape)
    if array.shape != shape.shape:
      wrong.append(f"{name} is {array.shape}, not {shape.shape}")
    return np.asarray(array, np.float32)

  found = jax.tree_util.tree_map_with_path(leaf, abstract)
  if wrong:
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise errors.UserError(f"{key}: no weights of {network}: {'; '.join(wrong[:3])}{more}.")
  return found


@functools.cache
def digits_variables() -> dict[str, Any]:
  """Returns the variables of the small network that comes with the package."""
  with np.load(SMALL_FILE) as stored:
    flat = {name: stored[name].astype(np.float32) for name in stored.files}
  nested: dict[str, Any] = {}
  for name, array in flat.items():
    *scopes, last = name.split("/")
    target = nested
    for scope in scopes:
      target = target.setdefault(scope, {})
    target[last] = array
  return nested


def digits_features(
  variables: Mapping[str, Any], clips: Float[Array, "b t h w 3"]
) -> Float[Array, "b d"]:
  """Returns the small network's features, before its last layer. clips: in [0, 1]."""
  entry = models.entry(_SMALL)
  module = models.create(_SMALL, 8)
  clips = (clips - jnp.asarray(entry.mean)) / jnp.asarray(entry.std)
  ends = module.apply(variables, clips, train=False, method="features")
  return ends["pooled_features"].astype(jnp.float32)


def i3d_features(
  variables: Mapping[str, Any], clips: Float[Array, "b t h w 3"]
) -> Float[Array, "b 400"]:
  """Returns I3D's logits, mean over time. clips: in [0, 1], at least 9 frames.

  Frames become 224 pixels high and wide, bilinear between pixel centres, and [-1, 1].
  """
  shape = (*clips.shape[:2], _SIDE, _SIDE, 3)
  large = jax.image.resize(clips, shape, "bilinear", antialias=False)
  return i3d.I3D().apply(variables, 2 * large - 1)


def cosine(
  variables: Mapping[str, Any], a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
) -> Float[Array, " b"]:
  """Returns the cosine of VGG16's features of pictures in [0, 1], see `vgg.cosine`."""
  module = vgg.VGG16()
  return vgg.cosine(module.apply(variables, a), module.apply(variables, b))
