"""Saccader: a network that looks at a few patches of an image, one after the other, never twice.

A BagNet (`backbone`) reads every patch in one pass. A location network sees a little more around
each (`where_…`), its features and the BagNet's are mixed (`mix`), and the cell, one vector, chooses
places; see `ops.glimpses`. The logits are the mean of those of the chosen patches.

Source: Elsayed et al. 2019 (arXiv 1908.07644), section 2, and its official code.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from effnets import errors, ops
from effnets.models import bagnet, bodies, common, initialize, layers, registry

POLICIES = (
  "learned",
  "sampled",
  "ordered_logits",
  "sobel_mean",
  "sobel_var",
  "random",
  "centre",
)
"""Ways to choose places. `learned` takes the likeliest, `sampled` draws; see `places`.

  learned          the cell's likeliest place at each step
  sampled          a draw from the cell's probabilities at each step
  ordered_logits   where the class that all patches together predict scores highest
  sobel_mean       where edges are strong;   sobel_var   where their strength varies
  random           anywhere, maybe twice;    centre      the middle, always
"""
DRAWN = ("sampled", "random")
"""Those of `POLICIES` that need a key for each example."""

_Keys = Mapping[str, Key[Array, " b"]] | None


class Saccader(common.Common, kw_only=True):
  """A BagNet, a location network and a cell.

  body: the BagNet; it keeps its own settings of norms.
  glimpses: how many patches the logits are the mean of; may differ from those of training.
  policy: of `POLICIES`, by which it looks when it is called without keys or training.
  soft_attention: logits of a step are those of all patches, weighed by the location probabilities.
  groups, group_layers, rate: of the location network: group i has 1 / 2**(i + 1) of the features;
    its layers are 1x1 convolutions but the last, 3x3 with taps `rate` apart.
  The others: see `common.Common`.
  """

  body: bodies.Body
  glimpses: int = 6
  policy: str = "learned"
  soft_attention: bool = False
  groups: int = 2
  group_layers: int = 2
  rate: int = 2
  num_classes: int = 1001
  image_size: int = 224
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  momentum: float = 0.9
  epsilon: float = 1e-5

  def setup(self) -> None:
    self.backbone = self.body.build(self)
    settings = self.settings(padding="SAME")
    same = {"settings": settings, "start": "glorot"}
    made = []
    for group in range(self.groups):
      width = self.body.module.channels >> (group + 1)
      for index in range(self.group_layers):
        taps = 3 if index + 1 == self.group_layers else 1
        made.append(
          layers.ConvNorm(
            width, taps, rate=self.rate, activation="relu", name=f"where_{group}_{index}", **same
          )
        )
    self.where = made
    self.mixed = layers.Conv(width, bias=True, name="mix", **same)
    self.cell = Cell(width, name="cell")

  @property
  def field(self) -> ops.glimpses.Field:
    """What one patch is of the image; see `bagnet.BagNet.field`."""
    return self.body.module.field

  @property
  def receptive_field(self) -> int:
    """Side of a patch in pixels."""
    return self.field.size

  def grid(self, image_size: int | None = None) -> int:
    """Returns how many patches stand in a row. Raises: UserError for too small an image."""
    return self.body.module.grid(image_size or self.image_size)

  def norm_epsilon(self, name: str) -> float:
    """Returns the epsilon of the norms in the top-level part `name`."""
    return self.body.module.epsilon if name == "backbone" else self.epsilon

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the path prefixes of frozen parameters: none; a task may freeze the backbone."""
    return ()

  def maps(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, fixed: bool = False
  ) -> dict[str, Float[Array, "b y x c"]]:
    """Returns everything that is there before the first glimpse.

    `features2d`, `what_features2d` and `logits2d` (float32) of the BagNet; `where_features2d`,
    `mixed_features2d` (float32); `vector`, of the cell.
    Args:
      train: as of `__call__`. fixed: the BagNet is as it is: running moments, and no gradient.
    """
    ends = self.backbone.patches(images, train=train and not fixed)
    if fixed:
      ends = jax.lax.stop_gradient(ends)
    x = ends["features2d"]
    for layer in self.where:
      x = layer(x, train)
    mixed = self.mixed(jnp.concatenate([x, ends["what_features2d"]], -1))
    more = {"where_features2d": x, "mixed_features2d": mixed.astype(jnp.float32)}
    return {**ends, **more, "vector": self.cell()}

  def look(
    self,
    images: Float[Array, "b h w 3"],
    *,
    count: int = 0,
    policy: str = "",
    keys: Key[Array, " b"] | None = None,
    train: bool = False,
  ) -> dict[str, Array]:
    """Returns what it looks at, and what it finds there.

    `places` (b t): numbers of the grid. `locations` (b t 2): y and x in [-1, 1] of the grid.
    `location_logits` (b t n): what the cell thinks of every place at each step. `patch_logits`
    (b t k): of each glimpse. `logits` (b k): their mean.
    Args:
      count: glimpses; 0 for the module's own. policy: of `POLICIES`, "" for the module's own.
      keys: of those that draw.
    Raises: UserError for an unknown policy, one without its keys, or more glimpses than places.
    """
    count = count or self.glimpses
    ends = self.maps(images, train=train)
    grid = ends["logits2d"].shape[1]
    check_count(count, grid)
    chosen, scores = self.places(ends, images, count=count, policy=policy, keys=keys)
    logits = flat(ends["logits2d"])
    if self.soft_attention:
      found = jnp.einsum("btn,bnk->btk", jax.nn.softmax(scores, -1), logits)
    else:
      found = gathered(logits, chosen)
    return {
      "places": chosen,
      "locations": ops.glimpses.locations(chosen, grid),
      "location_logits": scores,
      "patch_logits": found,
      "logits": found.mean(1),
    }

  def places(
    self,
    ends: Mapping[str, Array],
    images: Float[Array, "b h w 3"],
    *,
    count: int,
    policy: str = "",
    keys: Key[Array, " b"] | None = None,
  ) -> tuple[Int[Array, "b t"], Float[Array, "b t n"]]:
    """Returns the places that a policy chooses, and the cell's location logits on that way.

    ends: of `maps`. The others: as of `look`.
    """
    policy = policy or self.policy
    if policy not in POLICIES:
      raise errors.unknown("config.model.policy", policy, "a policy", POLICIES)
    if policy in DRAWN and keys is None:
      raise errors.UserError(f"config.model.policy={policy!r} draws; it needs a key an example.")
    grid = ends["logits2d"].shape[1]
    if policy == "learned":
      choose = ops.glimpses.greedy
    elif policy == "sampled":
      choose = ops.glimpses.sampled(keys)
    elif policy == "ordered_logits":
      choose = ops.glimpses.given(ops.glimpses.ordered(flat(ends["logits2d"]), count))
    elif policy.startswith("sobel"):
      order = ops.glimpses.sobel(images, self.field, count, variance=policy == "sobel_var")
      choose = ops.glimpses.given(order)
    elif policy == "random":
      choose = ops.glimpses.given(ops.glimpses.at_random(keys, grid, count))
    else:
      choose = ops.glimpses.given(ops.glimpses.centre(len(images), grid, count))
    return ops.glimpses.look(flat(ends["mixed_features2d"]), ends["vector"], count, choose)

  def __call__(
    self, images: Float[Array, "b h w 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b k"]:
    """Returns the float32 mean of the logits of its glimpses.

    Args: images: normalised. train: batch moments instead of running ones. keys: `look`, one key
      per example, draws the places of a policy that draws.
    """
    own = None if keys is None else keys.get("look")
    return self.look(images, train=train, keys=own)["logits"]


class Cell(nn.Module):
  """The cell's one vector, which scores features."""

  width: int

  @nn.compact
  def __call__(self) -> Float[Array, " d"]:
    """Returns the vector."""
    start = initialize.kernel_start("glorot", (1, 1, self.width, 1))
    return initialize.parameter(self, "kernel", start, (self.width, 1))[:, 0]


def flat(maps: Float[Array, "b y x c"]) -> Float[Array, "b n c"]:
  """Returns the places of a map in one row, as they are numbered."""
  return maps.reshape(maps.shape[0], -1, maps.shape[-1])


def gathered(logits: Float[Array, "b n k"], chosen: Int[Array, "b t"]) -> Float[Array, "b t k"]:
  """Returns the logits of the chosen places."""
  return jnp.take_along_axis(logits, chosen[..., None], axis=1)


def check_count(count: int, grid: int, key: str = "config.model.glimpses") -> None:
  """Checks a number of glimpses. Raises: UserError if it exceeds the places of the grid."""
  if not 1 <= count <= grid**2:
    raise errors.UserError(
      f"{key}={count}: there are {grid} x {grid} = {grid**2} positions, none of which is looked at "
      f"twice; give from 1 to {grid**2}."
    )


def build(
  *,
  glimpses: int = 6,
  policy: str = "learned",
  soft_attention: bool = False,
  groups: int = 2,
  group_layers: int = 2,
  rate: int = 2,
  repeats: tuple[int, ...] = (3, 4, 6, 3),
  planes: tuple[int, ...] = (64, 128, 256, 512),
  strides: tuple[int, ...] = (2, 2, 2, 1),
  kernel3: tuple[int, ...] = (2, 2, 2, 2),
  stem: int = 64,
  expansion: int = 4,
  low_dimension: bool = True,
  official_shortcut_bn: bool = True,
  num_classes: int = 1001,
  image_size: int = 224,
  remat: str = "none",
  norm_sets: int = 1,
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.9,
  epsilon: float = 1e-5,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
) -> Saccader:
  """Returns the network; see `Saccader`, and `bagnet.BagNet` for its backbone's settings.

  Raises: UserError for impossible values.
  """
  if policy not in POLICIES:
    raise errors.unknown("config.model.policy", policy, "a policy", POLICIES)
  for key, value in (("groups", groups), ("group_layers", group_layers), ("rate", rate)):
    if value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 1; nearest: 1.")
  shared = {
    "num_classes": num_classes,
    "image_size": image_size,
    "remat": remat,
    "norm_sets": norm_sets,
    "plain": plain,
    "dtype": dtype,
    "momentum": momentum,
    "epsilon": epsilon,
    "group": group,
  }
  backbone = bagnet.build(
    repeats=repeats,
    planes=planes,
    strides=strides,
    kernel3=kernel3,
    stem=stem,
    expansion=expansion,
    low_dimension=low_dimension,
    official_shortcut_bn=official_shortcut_bn,
    **shared,
  )
  if backbone.channels >> groups < 1:
    raise errors.UserError(
      f"config.model.groups={groups}: {backbone.channels} features cannot be halved so often."
    )
  check_count(glimpses, backbone.grid())
  return Saccader(
    body=bodies.Body(backbone),
    glimpses=glimpses,
    policy=policy,
    soft_attention=soft_attention,
    groups=groups,
    group_layers=group_layers,
    rate=rate,
    **shared,
  )


for _name, _backbone, _params, _madds in (
  ("saccader", "bagnet_77_lowd", 35_523_625, 19_506_848_000),
  ("saccader_mini", "bagnet_mini", 107_622, 18_623_888),
):
  _entry = registry.entry(_backbone)
  registry.register(
    registry.Entry(
      name=_name,
      build=functools.partial(build, **_entry.build.keywords),
      params=_params,
      madds=_madds,
      image_size=_entry.image_size,
      num_classes=_entry.num_classes,
      dropout_rate=0.0,
      drop_path_rate=0.0,
      paper="1908.07644",
      task="glimpses",
      crop_padding=_entry.crop_padding,
      # On ImageNet, in tables of later papers; its parameters with the moving moments.
      paper_top1=70.3 if _name == "saccader" else None,
      paper_params=35_583_913 if _name == "saccader" else None,
    )
  )
