"""One network that holds all of a MnasNet-like space: which of it runs is an input, not a program.

Smaller choices are the first part of larger ones: the first channels, the middle of a kernel, the
first layers of a block. A masked network computes what the plain one of the same weights computes,
since everything is masked behind its norm and activation, before any sum over channels sees it.

Batch norm always takes the moments of the batch at hand: running ones would be of a mixture of
architectures. Source: Bender et al. 2020 (TuNAS): collapsed operations, masked filters.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from effnets import errors, ops
from effnets.models import initialize, layers, shortcuts
from effnets.search import spaces
from effnets.search.space import Space

Params = Any
Mask = dict[str, Float[Array, "..."]]

DECISIONS = ("op", "kernel", "squeeze", "skip", "filters", "layers")


@dataclasses.dataclass(frozen=True)
class _Layer:
  """A layer of the widest network. inputs, outputs: the most channels."""

  block: int
  place: int
  stride: int
  inputs: int
  outputs: int


class Supernet:
  """All networks of a space whose blocks have the decisions `DECISIONS`, such as `mnas_tiny`.

  Parameters are named as in the plain network of the widest choices, with `spatial` beside the
  parts of an `mbconv` where a block may be a plain convolution.
  """

  def __init__(self, space: Space, num_classes: int):
    """Raises: UserError if the space has other decisions."""
    names = [decision.name.rpartition(".")[2] for decision in space.decisions]
    if tuple(names) != DECISIONS * (len(names) // len(DECISIONS)) or not names:
      raise errors.UserError(
        f"the space {space.name!r} has no supernet: its blocks would need the decisions "
        f"{DECISIONS}, as those of 'mnas_tiny'."
      )
    self.space, self.num_classes = space, num_classes
    self.choices = [decision.choices for decision in space.decisions]
    self.ops = self.choices[0]
    # The expansion of each operation; a plain convolution has none.
    self._expansions = [
      0 if op == "conv" else int(op.removeprefix("mbconv")) if op != "dconv" else 1
      for op in self.ops
    ]
    self.widest = self._widest()
    table = space.decode(self.widest)
    self.stem, self.head, self.activation = table.stem, table.head, table.activation
    self._row_activation = table.rows[0].activation
    self.layers: list[_Layer] = []
    inputs = self.stem
    for block, row in enumerate(table.rows):
      for place in range(row.repeats):
        stride = row.stride if place == 0 else 1
        self.layers.append(_Layer(block, place, stride, inputs, row.channels))
        inputs = row.channels
    self.ratio = max(self.choices[DECISIONS.index("squeeze")])
    self.taps = max(self.choices[DECISIONS.index("kernel")])

  def _widest(self) -> tuple[int, ...]:
    def largest(place: int, choices: Sequence) -> int:
      kind = DECISIONS[place % len(DECISIONS)]
      if kind == "op":
        return int(np.argmax(self._expansions))
      return 0 if kind == "skip" else int(np.argmax(choices))

    return tuple(largest(place, choices) for place, choices in enumerate(self.choices))

  # Parameters.

  def init(self, seed: int) -> Params:
    """Returns fresh parameters, float32."""
    params = self._plain(self.widest, seed)
    if "conv" in self.ops:
      kinds = DECISIONS * (len(self.choices) // len(DECISIONS))
      convs = tuple(
        self.ops.index("conv") if kind == "op" else token
        for kind, token in zip(kinds, self.widest, strict=True)
      )
      for name, block in self._plain(convs, seed).items():
        if name.startswith("block_"):
          params[name] = {**params[name], "spatial": block["spatial"]}
    return params

  def _plain(self, tokens: Sequence[int], seed: int) -> Params:
    return initialize.init(self.network(tokens), seed)["params"]

  def network(self, tokens: Sequence[int]) -> Any:
    """Returns the plain Flax module of an architecture, without dropout."""
    return spaces.network(
      self.space, tokens, self.num_classes, dropout_rate=0.0, drop_path_rate=0.0
    )

  def extract(self, params: Params, tokens: Sequence[int]) -> Params:
    """Returns the parameters of the plain network of `tokens`."""
    plain = initialize.abstract(self.network(tokens))["params"]
    active = [layer for layer in range(len(self.layers)) if self._stands(tokens, layer)]
    found = {}
    for name, part in plain.items():
      source = name
      if name.startswith("block_"):
        source = f"block_{active[int(name.removeprefix('block_'))]}"
      found[name] = jax.tree_util.tree_map_with_path(
        lambda path, leaf, source=source: self._cut(params[source], path, leaf.shape), part
      )
    return found

  def _stands(self, tokens: Sequence[int], layer: int) -> bool:
    at = self.layers[layer].block * len(DECISIONS) + DECISIONS.index("layers")
    return self.layers[layer].place < self.choices[at][tokens[at]]

  def _cut(self, params: Params, path: tuple, shape: tuple[int, ...]) -> Array:
    """Returns the part of a leaf that a smaller network has: middle taps, first channels."""
    for key in path:
      params = params[key.key]
    taps = params.ndim == 4
    begins = [
      (have - want) // 2 if taps and axis < 2 else 0
      for axis, (have, want) in enumerate(zip(params.shape, shape, strict=True))
    ]
    return params[tuple(slice(b, b + want) for b, want in zip(begins, shape, strict=True))]

  # What runs.

  def weights(self, tokens: Int[Array, " d"]) -> Float[Array, "d k"]:
    """Returns 1 for every choice taken, 0 for the others; what `masks` takes."""
    return jax.nn.one_hot(tokens, max(map(len, self.choices)))

  def masks(self, weights: Float[Array, "d k"]) -> list[Mask]:
    """Returns the masks of every layer, inputs of `apply`.

    weights: of the choices of each decision, summing to 1. Anything but ones and zeros means that
    operations are averaged; of filters one has to be taken.
    """

    def of(block: int, kind: str) -> tuple[Array, Sequence]:
      at = block * len(DECISIONS) + DECISIONS.index(kind)
      return weights[at, : len(self.choices[at])], self.choices[at]

    def filters(block: int) -> Array:
      if block < 0:
        return jnp.array(float(self.stem))
      taken, counts = of(block, "filters")
      return jnp.round(taken @ jnp.array(counts, jnp.float32))

    found = []
    for layer in self.layers:
      outputs = filters(layer.block)
      inputs = outputs if layer.place else filters(layer.block - 1)
      op, _ = of(layer.block, "op")
      kernel, sizes = of(layer.block, "kernel")
      squeeze, ratios = of(layer.block, "squeeze")
      skip, skips = of(layer.block, "skip")
      count, counts = of(layer.block, "layers")
      taps = np.arange(self.taps)
      middle = np.abs(taps - self.taps // 2)
      inside = [np.maximum(middle[:, None], middle) <= size // 2 for size in sizes]
      hidden = jnp.arange(layer.inputs * max(self._expansions))
      by_op = [hidden < inputs * e for e in self._expansions]
      conv = [float(e == 0) for e in self._expansions]
      direct = [float(e == 1) for e in self._expansions]
      expanded = [
        w * here * (e > 1) for w, here, e in zip(op, by_op, self._expansions, strict=True)
      ]
      either = sum(w * here for w, here in zip(op, by_op, strict=True))
      width = jnp.maximum(1, jnp.floor(inputs * self.ratio + 1e-6))
      named = dict(zip(skips, skip, strict=True))
      same = float(layer.stride == 1) * (inputs == outputs)
      found.append(
        {
          "stands": count @ (np.array(counts) > layer.place).astype(np.float32),
          "conv": op @ jnp.array(conv),
          "direct": op @ jnp.array(direct),
          "expanded": sum(expanded),
          "hidden": (either > 0).astype(jnp.float32),
          "kernel": sum(w * here for w, here in zip(kernel, inside, strict=True)),
          "squeeze": squeeze @ (np.array(ratios) > 0).astype(np.float32),
          "squeezed": (jnp.arange(self._squeezed(layer)) < width).astype(jnp.float32),
          "outputs": (jnp.arange(layer.outputs) < outputs).astype(jnp.float32),
          "identity": named.get("identity", 0.0) * same,
          "pool": jnp.asarray(named.get("pool", 0.0)),
        }
      )
    return found

  def _squeezed(self, layer: _Layer) -> int:
    return max(1, int(layer.inputs * self.ratio))

  def apply(
    self, params: Params, masks: Sequence[Mask], images: Float[Array, "b h w 3"]
  ) -> Float[Array, "b k"]:
    """Returns the logits of the masked network; norms use the moments of these images."""
    x = _conv_norm(params["stem"], images, self.activation, stride=2)
    for index, (layer, mask) in enumerate(zip(self.layers, masks, strict=True)):
      x = self._layer(params[f"block_{index}"], layer, mask, x)
    if self.head:
      x = _conv_norm(params["head"], x, self.activation)
    pooled = x.mean((1, 2), dtype=jnp.float32)
    return pooled @ params["classifier"]["kernel"] + params["classifier"]["bias"]

  def _layer(self, params: Params, layer: _Layer, mask: Mask, x: Array) -> Array:
    act = self._row_activation
    kernel = mask["kernel"][:, :, None, None]
    hidden = jnp.zeros(())
    if "expand" in params:
      hidden = _conv_norm(params["expand"], x, act) * mask["expanded"]
    # An expansion by 1 has no convolution: the input goes on.
    room = mask["hidden"].shape[0] - x.shape[-1]
    hidden = hidden + mask["direct"] * jnp.pad(x, ((0, 0),) * 3 + ((0, room),))
    y = _conv_norm(
      params["depthwise"], hidden, act, kernel, stride=layer.stride, groups=hidden.shape[-1]
    )
    y = y * mask["hidden"]
    if "squeeze" in params:
      y = y * self._gate(params["squeeze"], mask, y)
    y = _conv_norm(params["project"], y, "identity")
    if "spatial" in params:
      convolved = _conv_norm(params["spatial"], x, act, kernel, stride=layer.stride)
      y = mask["conv"] * convolved + (1 - mask["conv"]) * y
    y = y * mask["outputs"]
    if layer.stride == 1:
      shared = min(layer.inputs, layer.outputs)
      room = layer.outputs - shared
      same = jnp.pad(x[..., :shared], ((0, 0),) * 3 + ((0, room),))
      y = y + mask["identity"] * same
    pooled = shortcuts.averaged(x, layer.stride, layer.outputs)
    y = y + mask["pool"] * pooled * mask["outputs"]
    if layer.place:
      y = mask["stands"] * y + (1 - mask["stands"]) * x
    return y

  def _gate(self, params: Params, mask: Mask, y: Array) -> Array:
    act = self._row_activation
    mean = y.mean((1, 2), dtype=jnp.float32, keepdims=True)
    reduced = ops.conv(mean, params["reduce"]["kernel"]) + params["reduce"]["bias"]
    reduced = layers.ACTIVATIONS[act](reduced) * mask["squeezed"]
    gate = ops.conv(reduced, params["expand"]["kernel"]) + params["expand"]["bias"]
    return mask["squeeze"] * jax.nn.sigmoid(gate) + (1 - mask["squeeze"])

  def run(
    self, params: Params, weights: Float[Array, "d k"], images: Float[Array, "b h w 3"]
  ) -> Float[Array, "b k"]:
    """Returns the logits of the architecture that the weights of choices stand for."""
    return self.apply(params, self.masks(weights), images)

  # What it costs.

  def madds(self, weights: Float[Array, "d k"], image_size: int) -> Float[Array, ""]:
    """Returns the multiply-adds of one image, of convolutions and the dense layer; of ones and
    zeros exactly, to float32.
    """
    masks = self.masks(weights)
    size = -(-image_size // 2)
    total = jnp.array(float(size * size * 27 * self.stem))
    inputs = jnp.array(float(self.stem))
    for layer, mask in zip(self.layers, masks, strict=True):
      before, size = size, -(-size // layer.stride)
      area, outputs = size * size, mask["outputs"].sum()
      hidden, taps = mask["hidden"].sum(), mask["kernel"].sum()
      expanded = (mask["expanded"].sum() > 0) * hidden
      squeezed = mask["squeeze"] * 2 * hidden * mask["squeezed"].sum()
      inverted = before * before * inputs * expanded + area * hidden * (taps + outputs) + squeezed
      plain = area * taps * inputs * outputs
      cost = mask["conv"] * plain + (1 - mask["conv"]) * inverted
      total = total + mask["stands"] * cost
      inputs = outputs
    last = self.head or inputs
    return total + size * size * inputs * self.head + last * self.num_classes


def _conv_norm(
  params: Mapping[str, Any],
  x: Array,
  activation: str,
  mask: Array | float = 1.0,
  *,
  stride: int = 1,
  groups: int = 1,
) -> Array:
  """Returns the activated, normalised convolution; mask: of the kernel."""
  y = ops.conv(x, params["conv"]["kernel"] * mask, stride=stride, groups=groups)
  mean, var = ops.moments(y, ops.Group())
  norm = params["norm"]
  return ops.normalize(y, mean, var, norm["scale"], norm["bias"], activation=activation)
