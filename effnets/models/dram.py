"""DRAM: glimpses of three resolutions through a ResNet, two LSTMs, locations drawn from a normal.

A glimpse is a patch and windows around it up to the whole image, each at the patch's size, with
two channels more that say where every pixel is. The first LSTM classifies; what it gives feeds the
second, which says where to look next. A look at everything comes first, for the second one alone.

Source: Ba et al. 2015 (arXiv 1412.7755) as the baseline of Elsayed et al. 2019 (arXiv 1908.07644),
official code.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import bagnet, common, initialize, layers, registry
from effnets.ops import glimpses as looks

_Keys = Mapping[str, Key[Array, " b"]] | None
_CHANNELS = 5  # three colours and two coordinates


class Unit(nn.Module):
  """A bottleneck with its norms in front. The shortcut and the last convolution have biases."""

  channels: int
  stride: int
  settings: layers.Settings

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 o"]:
    """Returns the sum; the stride is in the 3x3 convolution."""
    settings, outputs = self.settings, 4 * self.channels
    same = {"settings": settings, "start": "glorot"}
    y = layers.BatchNorm("relu", settings, alone=True, name="norm")(x, train)
    if x.shape[-1] != outputs:
      x = layers.Conv(outputs, 1, self.stride, bias=True, name="shortcut", **same)(y)
    else:
      x = x[:, :: self.stride, :: self.stride]
    y = layers.ConvNorm(self.channels, activation="relu", name="reduce", **same)(y, train)
    y = layers.ConvNorm(self.channels, 3, self.stride, activation="relu", name="spatial", **same)(
      y, train
    )
    return x + layers.Conv(outputs, bias=True, name="project", **same)(y)


class LSTM(nn.Module):
  """A long short-term memory whose one kernel has the gates i, g, f and o; f starts at 1 more."""

  width: int

  @nn.compact
  def __call__(
    self, state: tuple[Float[Array, "b d"], Float[Array, "b d"]], x: Float[Array, "b c"]
  ) -> tuple[tuple[Float[Array, "b d"], Float[Array, "b d"]], Float[Array, "b d"]]:
    """Returns the new state, (memory, output), and the output; float32."""
    shape = (x.shape[-1] + self.width, 4 * self.width)
    start = initialize.kernel_start("glorot", (1, 1, *shape))
    kernel = initialize.parameter(self, "kernel", start, shape)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), (4 * self.width,))
    memory, output = state
    gates = jnp.concatenate([x.astype(jnp.float32), output], -1) @ kernel + bias
    i, g, f, o = jnp.split(gates, 4, -1)
    memory = jax.nn.sigmoid(f + 1) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
    output = jax.nn.sigmoid(o) * jnp.tanh(memory)
    return (memory, output), output


class DRAM(common.Common, kw_only=True):
  """See the module.

  repeats, width: units of each group of the ResNet, and the inner channels of the first.
  patch: side of a glimpse in pixels. windows: how many there are, from the patch to the image.
  lstm: units of both LSTMs. glimpses: how many there are. limited: what classifies sees of the
    coarse windows their mean colour alone. sigma: of the locations in training.
  readout: logits are the `last` glimpse's, or the `mean` of all.
  The others: see `common.Common`.
  """

  repeats: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  patch: int = 77
  windows: int = 3
  lstm: int = 1024
  glimpses: int = 8
  limited: bool = True
  sigma: float = 0.1
  readout: str = "last"
  num_classes: int = 1001
  image_size: int = 224
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  momentum: float = 0.9
  epsilon: float = 1e-5

  def setup(self) -> None:
    settings = self.settings(padding="SAME")
    self.stem = layers.Conv(
      self.width, 7, 2, bias=True, settings=settings, start="glorot", name="stem"
    )
    table = [
      # The stride of a group is in its last unit, as slim's ResNets have it; the last has none.
      (self.width << group, 2 if group + 1 < len(self.repeats) and index + 1 == count else 1)
      for group, count in enumerate(self.repeats)
      for index in range(count)
    ]
    self.units = [
      Unit(channels, stride, settings, name=f"unit_{i}")
      for i, (channels, stride) in enumerate(table)
    ]
    self.tail = layers.BatchNorm("relu", settings, alone=True, name="tail")
    self.classify = LSTM(self.lstm, name="lstm_class")
    self.locate = LSTM(self.lstm, name="lstm_location")
    self.classifier = layers.Conv(
      self.num_classes, bias=True, start="glorot", settings=settings, name="classifier"
    )
    self.location = layers.Conv(2, bias=True, start="glorot", settings=settings, name="location")

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the path prefixes of frozen parameters: none."""
    return ()

  def sides(self, image_size: int) -> tuple[int, ...]:
    """Returns the sides of a glimpse's windows, in pixels.

    >>> DRAM().sides(224)
    (77, 150, 224)
    """
    least = self.patch / image_size
    step = (1 - least) / max(1, self.windows - 1)
    return tuple(round(image_size * (least + step * i)) for i in range(self.windows))

  def glimpse(
    self, images: Float[Array, "b h h 5"], points: Float[Array, "b 2"], *, limited: bool
  ) -> Float[Array, "b p p w"]:
    """Returns the windows around locations of the image, one after the other."""
    parts = []
    for index, side in enumerate(self.sides(images.shape[1])):
      part = looks.zoomed(images, points, side, self.patch)
      if limited and index:
        part = jnp.broadcast_to(part.mean((1, 2), keepdims=True), part.shape)
      parts.append(part)
    return jax.lax.stop_gradient(jnp.concatenate(parts, -1))

  def encode(self, x: Float[Array, "b p p w"], train: bool) -> Float[Array, "b c"]:
    """Returns the ResNet's mean features of a glimpse, float32."""
    x = self.stem(x)
    pads = [ops.resolve_padding("SAME", size, 3, 2) for size in x.shape[1:3]]
    x = nn.max_pool(x, (3, 3), (2, 2), pads)
    for unit in self.units:
      x = unit(x, train)
    return self.tail(x, train).mean((1, 2), dtype=jnp.float32)

  def look(
    self,
    images: Float[Array, "b h h 3"],
    *,
    count: int = 0,
    keys: Key[Array, " b"] | None = None,
    train: bool = False,
  ) -> dict[str, Array]:
    """Returns what it looks at, and what it finds there.

    `locations` (b t 2): y and x of the image, whose edges are at -1 and 1, where it looked, kept
    off the edges by half a patch. `means`, `drawn` (b t 2): of the normals, and what was drawn.
    `step_logits` (b t k): after every glimpse. `logits` (b k): as `readout` says.
    Args: count: glimpses; 0 for the module's own. keys: one an example draws, else means are taken.
    Raises: UserError for an image smaller than a patch.
    """
    size = images.shape[1]
    if size < self.patch:
      raise errors.UserError(
        f"config.data.image_size={size}: images are smaller than config.model.patch={self.patch}."
      )
    batch, edge = images.shape[0], looks.scale(self.patch, size)
    line = jnp.linspace(-1.0, 1.0, size)
    where = jnp.stack(jnp.meshgrid(line, line, indexing="ij"), -1).astype(images.dtype)
    images = jnp.concatenate([images, jnp.broadcast_to(where, (batch, *where.shape))], -1)
    zeros = jnp.zeros((batch, self.lstm), jnp.float32)
    start = (zeros, zeros)

    def ahead(state, output):
      state, output = self.locate(state, output)
      mean = jnp.tanh(self.location(output[:, None, None])[:, 0, 0].astype(jnp.float32)) * edge
      return state, mean

    middle = jnp.zeros((batch, 2), jnp.float32)
    # Only the second LSTM keeps what the first look finds.
    _, output = self.classify(
      start, self.encode(self.glimpse(images, middle, limited=False), train)
    )
    second, mean = ahead(start, output)
    first, found = start, {"locations": [], "means": [], "drawn": [], "step_logits": []}
    for index in range(count or self.glimpses):
      drawn = mean
      if keys is not None:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        drawn = mean + self.sigma * jax.vmap(lambda key: jax.random.normal(key, (2,)))(own)
      drawn = jax.lax.stop_gradient(drawn)
      point = jnp.clip(drawn, -edge, edge)
      seen = self.glimpse(images, point, limited=self.limited)
      first, output = self.classify(first, self.encode(seen, train))
      logits = self.classifier(output[:, None, None])[:, 0, 0].astype(jnp.float32)
      for name, value in zip(found, (point, mean, drawn, logits), strict=True):
        found[name].append(value)
      second, mean = ahead(second, output)
    ends = {name: jnp.stack(values, 1) for name, values in found.items()}
    steps = ends["step_logits"]
    return {**ends, "logits": steps.mean(1) if self.readout == "mean" else steps[:, -1]}

  def log_probabilities(
    self, means: Float[Array, "b t 2"], drawn: Float[Array, "b t 2"]
  ) -> Float[Array, "b t"]:
    """Returns the log densities of drawn locations, without the constant."""
    return -jnp.sum((drawn - means) ** 2, -1) / (2 * self.sigma**2)

  def __call__(
    self, images: Float[Array, "b h h 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b k"]:
    """Returns float32 logits. Args: keys: `look`, one an example, draws locations."""
    own = None if keys is None else keys.get("look")
    return self.look(images, train=train, keys=own)["logits"]


def build(
  *,
  repeats: tuple[int, ...] = (3, 4, 6, 3),
  width: int = 64,
  patch: int = 77,
  windows: int = 3,
  lstm: int = 1024,
  glimpses: int = 8,
  limited: bool = True,
  sigma: float = 0.1,
  readout: str = "last",
  num_classes: int = 1001,
  image_size: int = 224,
  norm_sets: int = 1,
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
) -> DRAM:
  """Returns the network; see `DRAM`. Raises: UserError for impossible values."""
  bagnet.check(num_classes, image_size, 0.0, momentum, dtype, norm_sets)
  for key, value in (
    *(("width", width), ("windows", windows), ("lstm", lstm), ("glimpses", glimpses)),
    *(("repeats", count) for count in repeats),
  ):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  if not 1 <= patch <= image_size:
    raise errors.UserError(
      f"config.model.patch={patch!r} should be from 1 to config.model.image_size={image_size}."
    )
  if sigma <= 0:
    raise errors.UserError(f"config.model.sigma={sigma!r} should be above 0; usual: 0.1.")
  if readout not in ("last", "mean"):
    raise errors.unknown("config.model.readout", readout, "a readout", ("last", "mean"))
  return DRAM(
    repeats=tuple(repeats),
    width=width,
    patch=patch,
    windows=windows,
    lstm=lstm,
    glimpses=glimpses,
    limited=limited,
    sigma=sigma,
    readout=readout,
    num_classes=num_classes,
    image_size=image_size,
    norm_sets=norm_sets,
    plain=plain,
    dtype=dtype,
    momentum=momentum,
    epsilon=epsilon,
    group=group,
  )


_MINI = {"repeats": (1, 1, 1), "width": 8, "patch": 17, "lstm": 64, "glimpses": 6}

for _name, _settings, _params, _madds, _size, _classes in (
  ("dram", {}, 45_564_779, 5_792_332_000, 224, 1001),
  ("dram_mini", _MINI, 120_828, 14_087_560, 64, 10),
):
  registry.register(
    registry.Entry(
      name=_name,
      build=functools.partial(build, **_settings, image_size=_size, num_classes=_classes),
      params=_params,
      madds=_madds,
      image_size=_size,
      num_classes=_classes,
      dropout_rate=0.0,
      drop_path_rate=0.0,
      paper="1412.7755",
      task="glimpses",
      crop_padding=_size // 10,
      # With the moving moments; the accuracy is that of the paper's own baseline.
      paper_params=45_610_219 if _name == "dram" else None,
      paper_top1=67.5 if _name == "dram" else None,
    )
  )
