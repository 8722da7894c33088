"""RandAugment: `layers` random operations per image, all with one magnitude.

Only the drawn operation of each image is executed. `vmap` over a `switch` would run all of them and
throw all but one away (23 times slower on CPU), so the policy is a loop: over images on CPU, over
chunks of images that share an operation elsewhere. Both give the same pixels.

Source: Cubuk et al. 2019 (arXiv 1909.13719), with the operation list, magnitudes and constants of
the official EfficientNet code (`code16`) or the list of the paper (`paper14`).
"""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8, UInt32

from effnets import errors
from effnets.augment import operations as ops

OPERATION_LISTS: dict[str, tuple[str, ...]] = {
  "paper14": (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
  ),
  "code16": (
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "cutout",
    "solarize_add",
  ),
}

EXECUTIONS = ("auto", "map", "chunks")
MAX_MAGNITUDE = 31
MAX_LAYERS = 10
_CHUNK = 8
_KEY = "config.augment.randaugment"


def argument(
  name: str,
  magnitude: float,
  *,
  cutout_const: float = 40,
  translate_const: float = 100,
  increasing: bool = False,
) -> float | None:
  """Returns the argument of an operation at a magnitude, or None where it takes none.

  Units are those of `operations.OPERATIONS`; signed operations get their positive argument.
  posterize and solarize grow *weaker* with the magnitude up to 20 and 10, then wrap, as published;
  `increasing` gives the variants that grow stronger (4 - bits, 256 - threshold, not below 0).

  Args:
    name: an operation. magnitude: in [0, 31]; 10 is AutoAugment's largest.
    cutout_const: half the side of the cutout square in pixels at magnitude 10.
    translate_const: translation in pixels at magnitude 10; absolute, so 32-pixel images want 4.

  >>> argument("rotate", 9), argument("posterize", 9), argument("translate_x", 9)
  (27.0, 3, 90.0)
  """
  if name not in ops.OPERATIONS:
    raise errors.unknown("operation", name, "an operation", ops.OPERATIONS)
  level = magnitude / 10
  if name == "rotate":
    return level * 30
  if name == "posterize":
    return max(0, 4 - int(level * 4)) if increasing else int(level * 4)
  if name == "solarize":
    return max(0, 256 - int(level * 256)) if increasing else int(level * 256)
  if name == "solarize_add":
    return int(level * 110)
  if name in ("color", "contrast", "contrast_fixed", "brightness", "sharpness"):
    return level * 1.8 + 0.1
  if name in ("shear_x", "shear_y"):
    return level * 0.3
  if name in ("translate_x", "translate_y"):
    return level * translate_const
  if name == "cutout":
    return int(level * cutout_const)
  return None


def _check_number(name: str, value: object, low: float, high: float, whole: bool = False) -> None:
  kind = numbers.Integral if whole else numbers.Real
  good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
  if not good or not low <= value <= high:
    what = "a whole number" if whole else "a number"
    near = f" Nearest: {min(max(value, low), high)}." if good else ""
    raise errors.UserError(f"{_KEY}.{name}={value!r} is not {what} in [{low}, {high}].{near}")


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """A policy: call it with a batch of images and one key per image.

  layers: operations per image, 1 to 10; N in the paper. magnitude: 0 to 31; M in the paper.
  operations: `code16` (official code), `paper14`, or a tuple of names of `OPERATIONS`; naming one
    twice doubles its probability. cutout_const, translate_const, increasing: see `argument`.
  fixed_contrast: replaces the published contrast by the one that uses the mean grey level.
  fill: level, or red, green and blue, of uncovered pixels.
  execution: `map` (a loop over images, for CPU), `chunks` (a loop over chunks of 8 images that
    share an operation, for GPU and TPU) or `auto` (by the platform the program is compiled for).

  The call is a function of the arrays it is given. On a mesh, call it inside `jax.shard_map` over
  the batch axes: under plain `jit` both loops gather the whole batch on every device. Do not put it
  under an outer `vmap`, where the loop's switch turns into running every operation.

  Raises: UserError for a setting of the wrong kind or out of range.
  """

  layers: int = 2
  magnitude: float = 9
  operations: str | tuple[str, ...] = "code16"
  cutout_const: float = 40
  translate_const: float = 100
  fill: int | tuple[int, int, int] = ops.FILL
  increasing: bool = False
  fixed_contrast: bool = False
  execution: str = "auto"

  def __post_init__(self):
    _check_number("layers", self.layers, 1, MAX_LAYERS, whole=True)
    _check_number("magnitude", self.magnitude, 0, MAX_MAGNITUDE)
    _check_number("cutout_const", self.cutout_const, 0, 4096)
    _check_number("translate_const", self.translate_const, 0, 4096)
    for name in ("increasing", "fixed_contrast"):
      if not isinstance(getattr(self, name), bool):
        raise errors.UserError(f"{_KEY}.{name}={getattr(self, name)!r} is not True or False.")
    if isinstance(self.operations, str):
      if self.operations not in OPERATION_LISTS:
        raise errors.unknown(
          f"{_KEY}.operations", self.operations, "a list of operations", OPERATION_LISTS
        )
    else:
      object.__setattr__(self, "operations", tuple(self.operations))
      if not self.operations:
        raise errors.UserError(
          f"{_KEY}.operations=() is empty. Valid: a list's name ({', '.join(OPERATION_LISTS)}) or "
          "names of operations. To switch RandAugment off, set config.augment.randaugment to None."
        )
      for name in self.operations:
        if name not in ops.OPERATIONS:
          raise errors.unknown(f"{_KEY}.operations", name, "an operation", ops.OPERATIONS)
    if not isinstance(self.fill, (int, np.integer)):
      object.__setattr__(self, "fill", tuple(self.fill))
    try:
      ops.pack_fill(self.fill)
    except ValueError as err:
      raise errors.UserError(f"{_KEY}.{err}") from err
    if self.execution not in EXECUTIONS:
      raise errors.unknown(f"{_KEY}.execution", self.execution, "a way to execute", EXECUTIONS)

  def table(self) -> list[tuple[str, float | None]]:
    """Returns what each drawn number stands for: operation and argument (see `argument`)."""
    names = OPERATION_LISTS.get(self.operations, self.operations)
    rows = []
    for name in names:
      if self.fixed_contrast and name == "contrast":
        name = "contrast_fixed"
      value = argument(
        name,
        self.magnitude,
        cutout_const=self.cutout_const,
        translate_const=self.translate_const,
        increasing=self.increasing,
      )
      if self.increasing and name == "solarize" and value == 256:
        name, value = "identity", None  # as a byte this threshold would wrap and invert everything
      rows.append((name, value))
    return rows

  def __call__(
    self, images: UInt8[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> UInt8[Array, "b h w 3"]:
    """Returns the augmented images; each depends on its own pixels and its own key only.

    Raises: ValueError if images are not uint8 b h w 3 or keys are not one per image.
    """
    pixels = ops.pack(jnp.asarray(images))
    if pixels.ndim != 3 or jnp.shape(keys) != pixels.shape[:1]:
      raise ValueError(
        f"RandAugment takes images (b, h, w, 3) and keys (b,); got {jnp.shape(images)} and "
        f"{jnp.shape(keys)}."
      )
    table = self.table()
    draws = draw(keys, self.layers, len(table))
    if self.execution == "auto":
      augmented = jax.lax.platform_dependent(
        pixels,
        draws,
        cpu=lambda p, d: _map(p, d, table, self.fill),
        default=lambda p, d: _chunks(p, d, table, self.fill),
      )
    else:
      run = {"map": _map, "chunks": _chunks}[self.execution]
      augmented = run(pixels, draws, table, self.fill)
    return ops.unpack(augmented)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draws:
  """The random choices of a batch.

  index: which row of the policy's table, uniform. sign: 1 or -1, used by signed operations only.
  centre: two random words; modulo height and width they are the centre of a cutout.
  """

  index: Int[Array, "b n"]
  sign: Int[Array, "b n"]
  centre: UInt32[Array, "b n 2"]


def draw(keys: Key[Array, "b"], layers: int, choices: int) -> Draws:
  """Returns the choices for `layers` operations out of `choices`, each row from its own key."""
  words = jax.vmap(lambda key: jax.random.bits(key, (layers, 4), jnp.uint32))(keys)
  return Draws(
    # The remainder's bias is choices / 2**32.
    index=(words[..., 0] % jnp.uint32(choices)).astype(jnp.int32),
    sign=1 - 2 * (words[..., 1] & 1).astype(jnp.int32),
    centre=words[..., 2:],
  )


def _branches(table, fill):
  """Returns the distinct operations, the branch of each table row, its values, and its sign's use.

  Rows that repeat an operation share one branch, so a weighted list compiles nothing twice.
  """
  names = sorted({name for name, _ in table})
  branch = np.array([names.index(name) for name, _ in table], np.int32)
  values = np.stack([ops.values(name, value) for name, value in table])
  signed = np.zeros((len(table), 2), bool)
  for row, (name, _) in enumerate(table):
    if ops.OPERATIONS[name].signed:
      # An angle's sign is the sign of its sine; the cosine stays.
      signed[row, 1 if name == "rotate" else 0] = True
  functions = [ops.OPERATIONS[name].function for name in names]
  return functions, branch, values, signed, ops.pack_fill(fill)


def _inputs(index, sign, centre, size, values, signed, fill):
  """Returns the operation's inputs, for one image or any leading dimensions."""
  value = jnp.asarray(values)[index]
  value = jnp.where(jnp.asarray(signed)[index], sign[..., None].astype(jnp.float32) * value, value)
  centre = (centre % jnp.array(size, jnp.uint32)).astype(jnp.int32)
  return ops.Inputs(value, centre, jnp.broadcast_to(jnp.asarray(fill), index.shape))


def _map(pixels, draws, table, fill):
  """Returns the pixels after all layers: a loop over images with a scalar switch."""
  functions, branch, values, signed, fill = _branches(table, fill)

  def augment(example):
    picture, drawn = example
    inputs = _inputs(drawn.index, drawn.sign, drawn.centre, picture.shape, values, signed, fill)
    branches = jnp.asarray(branch)[drawn.index]

    def layer(n, picture):
      mine = jax.tree.map(lambda leaf: leaf[n], inputs)
      return jax.lax.switch(branches[n], functions, picture, mine)

    return jax.lax.fori_loop(0, branches.shape[0], layer, picture)

  return jax.lax.map(augment, (pixels, draws))


def _chunks(pixels, draws, table, fill):
  """Returns the pixels after all layers: per layer a loop over chunks that share an operation.

  Images are sorted by operation and each operation's images are cut into chunks of `_CHUNK`, so the
  number of chunks is the sum of ceil(n / _CHUNK): a traced bound with no capacity to overflow.
  """
  functions, branch, values, signed, fill = _branches(table, fill)
  batch = pixels.shape[0]
  functions = [jax.vmap(function) for function in functions]

  def layer(n, pixels):
    mine = jax.tree.map(lambda leaf: leaf[:, n], draws)
    inputs = _inputs(mine.index, mine.sign, mine.centre, pixels.shape[1:], values, signed, fill)
    branches = jnp.asarray(branch)[mine.index]
    order = jnp.argsort(branches, stable=True)
    counts = jnp.sum(branches[:, None] == jnp.arange(len(functions)), axis=0, dtype=jnp.int32)
    first_image = jnp.cumsum(counts) - counts
    chunk_counts = (counts + _CHUNK - 1) // _CHUNK
    last_chunk = jnp.cumsum(chunk_counts)

    def chunk(j, pixels):
      operation = jnp.sum(last_chunk <= j, dtype=jnp.int32)
      within = (j - (last_chunk[operation] - chunk_counts[operation])) * _CHUNK
      place = within + jnp.arange(_CHUNK)
      valid = place < counts[operation]
      image = order[jnp.where(valid, first_image[operation] + place, 0)]
      chosen = jax.tree.map(lambda leaf: leaf[image], inputs)
      result = jax.lax.switch(operation, functions, pixels[image], chosen)
      return pixels.at[jnp.where(valid, image, batch)].set(result, mode="drop")

    return jax.lax.fori_loop(0, last_chunk[-1], chunk, pixels)

  return jax.lax.fori_loop(0, draws.index.shape[1], layer, pixels)
