"""Where a network of patches looks: its geometry, policies that choose places, pictures of them.

Places are the cells of a square grid, numbered row by row, or locations (y, x) in [-1, 1] of the
grid's corners. Every patch of the grid is a window of the picture; see `Field`.

Source: Elsayed et al. 2019 (arXiv 1908.07644), sections 2 and 3, and its official code.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

VISITED = 1e5
"""What is taken off the score of a place that was looked at; only float32 holds it and logits."""


@dataclasses.dataclass(frozen=True)
class Field:
  """What one output of a stack of VALID convolutions sees.

  size: side of the window in pixels. stride: pixels between the windows of neighbours. The window
  of output i begins at pixel `stride * i`.
  """

  size: int
  stride: int

  def grid(self, image_size: int) -> int:
    """Returns how many outputs stand in a row; 0 if the image is smaller than a window.

    >>> Field(77, 8).grid(224), Field(77, 8).grid(331), Field(77, 8).grid(76)
    (19, 32, 0)
    """
    return max(0, (image_size - self.size) // self.stride + 1)

  def patch(self, index: int, grid: int) -> tuple[int, int, int, int]:
    """Returns top, left, bottom and right, in pixels, of what output `index` of a grid sees.

    >>> Field(77, 8).patch(20, 19)
    (8, 8, 85, 85)
    """
    top, left = (self.stride * place for place in divmod(index, grid))
    return top, left, top + self.size, left + self.size


def field(layers: Iterable[tuple[int, int]]) -> Field:
  """Returns what an output of VALID convolutions sees; layers: their taps and strides, in order.

  >>> field([(3, 1), (3, 2), (3, 1)])
  Field(size=9, stride=2)
  """
  size, stride = 1, 1
  for taps, step in layers:
    size, stride = size + stride * (taps - 1), stride * step
  return Field(size, stride)


def locations(places: Int[Array, "*b"], grid: int) -> Float[Array, "*b 2"]:
  """Returns (y, x) of numbered places of a grid; its corners are at -1 and 1, one place at 0."""
  index = jnp.stack([places // grid, places % grid], -1).astype(jnp.float32)
  return 2 * index / (grid - 1) - 1 if grid > 1 else jnp.zeros_like(index)


def nearest(values: Float[Array, "*b"], grid: int) -> Int[Array, "*b"]:
  """Returns the row or column nearest to a coordinate; halves go to the even one.

  >>> nearest(jnp.array([-1, -0.97, -0.3, 0, 0.05, 0.999, 1]), 19).tolist()
  [0, 0, 6, 9, 9, 18, 18]
  """
  index = jnp.round((grid - 1) * (jnp.asarray(values, jnp.float32) + 1) / 2)
  return jnp.clip(index, 0, grid - 1).astype(jnp.int32)


def places(points: Float[Array, "*b 2"], grid: int) -> Int[Array, "*b"]:
  """Returns the numbers of the places nearest to locations (y, x)."""
  index = nearest(points, grid)
  return index[..., 0] * grid + index[..., 1]


def scale(patch: int, image_size: int) -> float:
  """Returns the factor from locations of the grid to those of the image, whose edges are at 1.

  >>> scale(77, 224)
  0.65625
  """
  return 1 - patch / image_size


def patch_top(value: Float[Array, "*b"], image_size: int, patch: int) -> Int[Array, "*b"]:
  """Returns the first row, or column, of a patch whose centre is at `value` of the image.

  It may lie outside. That is the nominal patch, which pictures and other classifiers take; what an
  output truly sees is up to a few pixels beside it: `Field.patch`.

  >>> patch_top(jnp.array([-0.65625, 0.0, 0.65625]), 224, 77).tolist()
  [0, 73, 147]
  """
  value = jnp.asarray(value, jnp.float32)
  return jnp.trunc((image_size * (value + 3) - patch) / 2).astype(jnp.int32) - image_size


def patches(
  images: Float[Array, "b h h c"], points: Float[Array, "b t 2"], patch: int
) -> Float[Array, "b t p p c"]:
  """Returns the patches around locations (y, x) of the image; beyond an edge it goes on as it ends.

  points: of the image, whose edges are at -1 and 1. patch: side in pixels.
  """
  size = images.shape[1]
  first = patch_top(points, size, patch)
  index = jnp.clip(first[..., None] + jnp.arange(patch), 0, size - 1)  # b t 2 p
  cut = jax.vmap(lambda image, at: image[at[:, 0, :, None], at[:, 1, None, :]])
  return cut(images, index)


def zoomed(
  images: Float[Array, "b h h c"], points: Float[Array, "b 2"], side: int, patch: int
) -> Float[Array, "b p p c"]:
  """Returns windows of `side` pixels around locations of the image, at `patch` pixels (bilinear).

  Beyond an edge the picture goes on as it ends; with `side == patch` they are `patches`.
  """
  size = images.shape[1]
  first = patch_top(points, size, side).astype(jnp.float32)  # b 2
  at = first[..., None] + (jnp.arange(patch) + 0.5) * (side / patch) - 0.5  # b 2 p
  at = jnp.clip(at, 0, size - 1)[..., None]
  weights = jnp.maximum(0, 1 - jnp.abs(at - jnp.arange(size)))  # b 2 p h
  weights = weights.astype(images.dtype)
  return jnp.einsum("byh,bxw,bhwc->byxc", weights[:, 0], weights[:, 1], images)


def seen(
  chosen: Int[Array, "b t"], window: Field, grid: int, image_size: int
) -> Bool[Array, "b h h"]:
  """Returns which pixels are in one of the patches at numbered places of a grid."""
  tops = window.stride * jnp.stack([chosen // grid, chosen % grid], -1)[..., None]  # b t 2 1
  at = jnp.arange(image_size)
  inside = (at >= tops) & (at < tops + window.size)
  return (inside[:, :, 0, :, None] & inside[:, :, 1, None, :]).any(1)


def location_logits(
  features: Float[Array, "b n d"], vector: Float[Array, " d"], visited: Float[Array, "b n"]
) -> Float[Array, "b n"]:
  """Returns the Saccader cell's scores of all places, float32; visited: 1 where it has looked.

  Source: section 2 of the paper, in the form of its code: a softmax over places weighs the
  features, one over channels weighs what that gives.
  """
  features, vector = features.astype(jnp.float32), vector.astype(jnp.float32)
  visited = VISITED * visited
  exact = {"precision": jax.lax.Precision.HIGHEST}
  scores = jnp.einsum("bnd,d->bn", features, vector, **exact) / math.sqrt(features.shape[-1])
  weights = jax.nn.softmax(scores - visited, -1)
  channels = jax.nn.softmax(jnp.einsum("bnd,bn->bd", features, weights, **exact), -1)
  return jnp.einsum("bnd,bd->bn", features, channels, **exact) - visited


Choose = Callable[[Int[Array, ""], Float[Array, "b n"]], Int[Array, " b"]]
"""(step, location logits) -> the places to look at."""


def look(
  features: Float[Array, "b n d"], vector: Float[Array, " d"], count: int, choose: Choose
) -> tuple[Int[Array, "b t"], Float[Array, "b t n"]]:
  """Returns the places that the cell visits one after the other, and its location logits there.

  Args: count: of glimpses. choose: which place a step takes, such as `greedy`; it is marked as
    visited for the steps behind it.
  """
  number = features.shape[1]

  def step(visited, index):
    logits = location_logits(features, vector, visited)
    chosen = choose(index, logits)
    marked = visited + jax.nn.one_hot(chosen, number, dtype=jnp.float32)
    return jnp.clip(marked, 0, 1), (chosen, logits)

  start = jnp.zeros(features.shape[:2], jnp.float32)
  _, (chosen, logits) = jax.lax.scan(step, start, jnp.arange(count))
  return chosen.T, jnp.swapaxes(logits, 0, 1)


def greedy(index: Int[Array, ""], logits: Float[Array, "b n"]) -> Int[Array, " b"]:
  """Returns the likeliest place; as `Choose`."""
  del index
  return jnp.argmax(logits, -1).astype(jnp.int32)


def sampled(keys: Array) -> Choose:
  """Returns a draw from the location probabilities; keys: one an example."""

  def choose(index, logits):
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
    return jax.vmap(jax.random.categorical)(own, logits).astype(jnp.int32)

  return choose


def given(chosen: Int[Array, "b t"]) -> Choose:
  """Returns a choice of places that are known before."""
  return lambda index, logits: jnp.take(chosen, index, axis=1)


def ordered(logits: Float[Array, "b n k"], count: int) -> Int[Array, "b t"]:
  """Returns the places where the class that all places together predict scores highest, best first.

  They are the targets of the location network's pre-training. Of equal ones the first comes first.
  """
  predicted = jnp.argmax(logits.mean(1), -1)
  scores = jnp.take_along_axis(logits, predicted[:, None, None], -1)[..., 0]
  return jax.lax.top_k(scores, count)[1].astype(jnp.int32)


def sobel(
  images: Float[Array, "b h h 3"], window: Field, count: int, *, variance: bool = False
) -> Int[Array, "b t"]:
  """Returns the places whose windows have the strongest edges, best first.

  Args: variance: rank windows by the unbiased variance of the edges' strength, not by its mean.
  Source: the official code; TensorFlow's Sobel filters of luma, mirrored at the edges.
  """
  luma = images.astype(jnp.float32) @ jnp.array([0.2989, 0.5870, 0.1140])
  padded = jnp.pad(luma, ((0, 0), (1, 1), (1, 1)), mode="reflect")
  smooth, slope = np.array([1.0, 2.0, 1.0]), np.array([-1.0, 0.0, 1.0])
  taps = np.stack([np.outer(slope, smooth), np.outer(smooth, slope)], -1)[:, :, None]
  edges = jax.lax.conv_general_dilated(
    padded[..., None],
    jnp.asarray(taps, jnp.float32),
    (1, 1),
    "VALID",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  strength = jnp.sqrt(jnp.sum(edges**2, -1))

  def pooled(x):
    side, step = window.size, window.stride
    total = jax.lax.reduce_window(
      x, 0.0, jax.lax.add, (1, side, side), (1, step, step), padding="VALID"
    )
    return total.reshape(len(x), -1) / side**2

  mean = pooled(strength)
  number = window.size**2
  spread = number / (number - 1) * (pooled(strength**2) - mean**2)
  return jax.lax.top_k(spread if variance else mean, count)[1].astype(jnp.int32)


def at_random(keys: Array, grid: int, count: int) -> Int[Array, "b t"]:
  """Returns places near locations uniform in the square, which may repeat; keys: one an example."""
  draw = jax.vmap(lambda key: jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0))
  return places(draw(keys), grid)


def centre(batch: int, grid: int, count: int) -> Int[Array, "b t"]:
  """Returns the middle place, again and again."""
  return jnp.broadcast_to(places(jnp.zeros(2), grid), (batch, count))
