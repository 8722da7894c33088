"""Initial values without compiling: shapes from an abstract trace, numbers from NumPy.

Every leaf is drawn from `(seed, hash of its own path)` with the initialiser its layer declared, so
a new layer moves no other leaf, and two processes draw the same. To make the initialiser known, a
layer declares its leaves through `parameter` and `state`; while `init` traces the module these
leave a note of the initialiser beside the leaf (a pytree node without leaves, in the collection
`intermediates`, which nothing but `init` asks for).
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

_NOTES = "intermediates"


@dataclasses.dataclass(frozen=True)
class Initializer:
  """A distribution of initial values that NumPy and JAX both can draw from."""

  def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> Float[np.ndarray, "*s"]:
    """Returns float32 values of `shape`."""
    raise NotImplementedError

  def __call__(
    self, key: Key[Array, ""], shape: Sequence[int], dtype: Any = jnp.float32
  ) -> Float[Array, "*s"]:
    """Returns values of `shape`, as linen calls it in an ordinary `module.init`."""
    raise NotImplementedError


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Normal(Initializer):
  """Untruncated normal values of mean 0 and standard deviation `std`."""

  std: float

  def draw(self, rng, shape):
    return rng.standard_normal(shape, np.float32) * np.float32(self.std)

  def __call__(self, key, shape, dtype=jnp.float32):
    return self.std * jax.random.normal(key, shape, dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Around(Initializer):
  """Untruncated normal values of mean `mean` and standard deviation `std`."""

  mean: float
  std: float

  def draw(self, rng, shape):
    return np.float32(self.mean) + np.float32(self.std) * rng.standard_normal(shape, np.float32)

  def __call__(self, key, shape, dtype=jnp.float32):
    return self.mean + self.std * jax.random.normal(key, shape, dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Truncated(Initializer):
  """Normal values of mean 0 and deviation `std`, drawn again wherever beyond two deviations."""

  std: float

  def draw(self, rng, shape):
    values = rng.standard_normal(shape, np.float32)
    while (beyond := np.abs(values) > 2).any():
      values[beyond] = rng.standard_normal(int(beyond.sum()), np.float32)
    return values * np.float32(self.std)

  def __call__(self, key, shape, dtype=jnp.float32):
    return self.std * jax.random.truncated_normal(key, -2, 2, shape, dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Uniform(Initializer):
  """Values uniform in [-limit, limit)."""

  limit: float

  def draw(self, rng, shape):
    return (2 * rng.random(shape, np.float32) - 1) * np.float32(self.limit)

  def __call__(self, key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -self.limit, self.limit)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Constant(Initializer):
  """`value` everywhere."""

  value: float

  def draw(self, rng, shape):
    return np.full(shape, self.value, np.float32)

  def __call__(self, key, shape, dtype=jnp.float32):
    return jnp.full(shape, self.value, dtype)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Given(Initializer):
  """These numbers, one axis of them."""

  values: tuple[float, ...]

  def draw(self, rng, shape):
    return np.asarray(self.values, np.float32).reshape(shape)

  def __call__(self, key, shape, dtype=jnp.float32):
    return jnp.asarray(self.values, dtype).reshape(shape)


# Standard deviation of a standard normal that is cut at two.
_CUT = 0.87962566103423978


def kernel_start(start: str | float, shape: Sequence[int], groups: int = 1) -> Initializer:
  """Returns the initialiser of an HWIO kernel.

  Args:
    start: its rule.
      fan_out: normal, variance 2 / fan_out, where a depthwise fan_out is its taps alone.
      glorot: uniform, variance 2 / (fan_in + fan_out).
      fan_in: normal cut at two deviations, variance 1 / fan_in.
      a number: normal of that standard deviation.
    groups: of the convolution. In `glorot` and `fan_in` a depthwise kernel's fan_in is its taps
      times all channels, as Keras counts, where PyTorch has its taps alone.
  Raises: ValueError for another rule.

  >>> kernel_start("fan_out", (3, 3, 1, 8), 8) == Normal(math.sqrt(2 / 9))
  True
  """
  if not isinstance(start, str):
    return Normal(start)
  taps, inputs, outputs = shape[0] * shape[1], shape[2], shape[3]
  if start == "fan_out":
    return Normal(math.sqrt(2 * groups / (taps * outputs)))
  fan_in, fan_out = taps * inputs * groups, taps * outputs // groups
  if start == "glorot":
    return Uniform(math.sqrt(6 / (fan_in + fan_out)))
  if start == "fan_in":
    return Truncated(math.sqrt(1 / fan_in) / _CUT)
  raise ValueError(f"start={start!r} is none of 'fan_out', 'glorot', 'fan_in' and a number.")


def _noted(
  module: nn.Module, collection: str, name: str, *, initializer: Initializer, shape: Sequence[int]
) -> bool:
  """Returns whether `init` traces the module; then the leaf exists now, and a note beside it.

  Only its shape matters there; a key and a draw per leaf would take longer than the network.
  """
  if not (module.is_initializing() and module.is_mutable_collection(_NOTES)):
    return False
  module.put_variable(_NOTES, f"{collection}:{name}", initializer)
  module.put_variable(collection, name, jnp.zeros(shape, jnp.float32))
  return True


def parameter(
  module: nn.Module, name: str, initializer: Initializer, shape: Sequence[int]
) -> Float[Array, "*s"]:
  """Returns the float32 parameter `name` of `module`, declared with its initialiser."""
  if _noted(module, "params", name, initializer=initializer, shape=shape):
    return module.get_variable("params", name)
  return module.param(name, initializer, tuple(shape), jnp.float32)


def state(
  module: nn.Module, collection: str, name: str, *, initializer: Initializer, shape: Sequence[int]
) -> nn.Variable:
  """Returns the float32 variable `name` of `module` in `collection`, which training may write."""
  _noted(module, collection, name, initializer=initializer, shape=shape)
  return module.variable(collection, name, initializer, None, tuple(shape), jnp.float32)


def leaf_path(collection: str, *names: str) -> str:
  """Returns the path of a leaf as it is hashed and matched: `params/stem/conv/kernel`."""
  return "/".join((collection, *names))


def trace(
  module: nn.Module,
  image_size: int | tuple[int, int] | None = None,
  *,
  inputs: Sequence[Any] | None = None,
  method: str | None = None,
  **kwargs: Any,
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
  """Returns an initialising function and its abstract arguments, for `eval_shape` or `make_jaxpr`.

  Args:
    image_size: height and width of one RGB image, in pixels; default the module's own `image_size`.
    inputs: instead of an image, the abstract positional inputs of a module that takes others;
      default those of its `abstract_inputs`, if it has any.
    method: the module's method to trace; default `__call__`. kwargs: its static arguments.
  """
  if inputs is None and hasattr(module, "abstract_inputs"):
    inputs = module.abstract_inputs()
  elif inputs is None:
    size = module.image_size if image_size is None else image_size
    height, width = (size, size) if isinstance(size, int) else size
    inputs = (jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32),)

  def run(key, *args):
    return module.init(key, *args, method=method, mutable=nn.DenyList(()), **kwargs)

  return run, (jax.eval_shape(lambda: jax.random.key(0)), *inputs)


def _leaves(tree: Mapping[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
  """Yields (path, leaf) of nested dictionaries in order; anything but a mapping is a leaf."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, *path, name)
    else:
      yield (*path, name), value


def abstract(
  module: nn.Module, image_size: int | tuple[int, int] | None = None, **kwargs: Any
) -> dict[str, Any]:
  """Returns the module's variables as shapes and dtypes; nothing is computed.

  Args: as of `trace`.
  """
  run, arguments = trace(module, image_size, **kwargs)
  shapes = jax.eval_shape(run, *arguments)
  return {name: tree for name, tree in shapes.items() if name != _NOTES}


def init(
  module: nn.Module,
  seed: int,
  *,
  image_size: int | tuple[int, int] | None = None,
  **kwargs: Any,
) -> dict[str, Any]:
  """Returns the module's initial variables as float32 NumPy arrays.

  Args:
    seed: non-negative. A leaf's values depend on it, on the leaf's path and shape, and on nothing
      else. image_size, kwargs: as of `trace`.
  Raises: ValueError if a leaf was not declared through `parameter` or `state`.
  """
  return draw(declared(module, image_size, **kwargs), seed)


Declared = dict[tuple[str, ...], tuple[Initializer, tuple[int, ...]]]
"""Initialiser and shape of every leaf, by collection and names."""


def declared(
  module: nn.Module, image_size: int | tuple[int, int] | None = None, **kwargs: Any
) -> Declared:
  """Returns what `draw` needs to know of the module's leaves.

  Args: as of `trace`.
  Raises: ValueError if a leaf was not declared through `parameter` or `state`.
  """
  run, arguments = trace(module, image_size, **kwargs)
  shapes = dict(jax.eval_shape(run, *arguments))
  initializers = {}
  for (*scope, last), initializer in _leaves(shapes.pop(_NOTES, {})):
    collection, separator, name = last.partition(":")
    if separator:
      initializers[(collection, *scope, name)] = initializer
  found = {}
  for names, shape in _leaves(shapes):
    if names not in initializers:
      raise ValueError(
        f"{leaf_path(*names)} has no known initialiser; declare it with initialize.parameter or "
        ".state."
      )
    found[names] = initializers[names], shape.shape
  return found


def draw(leaves: Declared, seed: int) -> dict[str, Any]:
  """Returns the initial values of `leaves`, nested by their names; see `init`."""
  variables: dict[str, Any] = {}
  for names, (initializer, shape) in leaves.items():
    rng = np.random.default_rng((seed, zlib.crc32(leaf_path(*names).encode())))
    target = variables
    for name in names[:-1]:
      target = target.setdefault(name, {})
    target[names[-1]] = initializer.draw(rng, shape)
  return variables
