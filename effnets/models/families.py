"""One builder for the stage tables of all families, and how their members are registered."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

from effnets import errors, ops
from effnets.models import layers, network, registry, stage_tables

SKIP_RULES = ("declared", "actual")


def build(
  table: stage_tables.Table,
  *,
  num_classes: int = 1000,
  width: float = 1.0,
  depth: float = 1.0,
  image_size: int = 224,
  dropout_rate: float = 0.2,
  drop_path_rate: float = 0.0,
  stem: int = 0,
  head: int = 0,
  hidden: int = 0,
  head_depth: int = 1,
  keep_ends: bool = False,
  small_images: bool = False,
  kernels: tuple[int, ...] = (),
  partition: str = "equal",
  dilated: bool = False,
  squeeze: bool = True,
  activation: str = "",
  skip_rule: str = "declared",
  padding: str = "SAME",
  plain: bool = False,
  dtype: Any = "float32",
  momentum: float = 0.99,
  epsilon: float = 1e-3,
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
  remat: str = "none",
  frozen_blocks: int = 0,
  norm_sets: int = 1,
) -> network.Network:
  """Returns the network of a stage table.

  Args:
    table: the network at width and depth 1.
    width: factor of channels, which are then rounded to multiples of 8; see `stage_tables.Table`
      for what it leaves alone. depth: factor of repeats, see `stage_tables.deepen`.
    image_size: in pixels.
    stem, head, hidden: channels instead of the scaled table's; 0 keeps those.
    head_depth: how many head convolutions follow each other.
    keep_ends: depth leaves the first and the last stage alone. small_images: see
      `stage_tables.small_strides`.
    kernels, partition, dilated: mixed depthwise convolutions, see `stage_tables.mix`.
    squeeze: False leaves all squeeze-excitation out.
    activation: of the whole network, instead of the table's; "" keeps those. A squeeze-excitation
      with an activation of its own keeps it.
    skip_rule: `declared` adds the input only where the table's own input channels agree too;
      `actual` wherever shapes do. They differ in the first block of MnasNet-small.
    The others: see `network.Network`.
  Raises: UserError for impossible values.
  """
  for key, value in (("width", width), ("depth", depth)):
    if not 0 < value < math.inf:
      raise errors.UserError(f"config.model.{key}={value!r} should be above 0, such as 1.0.")
  for key, value in (("stem", stem), ("head", head), ("hidden", hidden)):
    if value < 0:
      raise errors.UserError(f"config.model.{key}={value!r} should be 0 or more; nearest: 0.")
  if any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in kernels):
    raise errors.UserError(
      f"config.model.kernels={kernels!r} should be odd whole numbers, such as (3, 5, 7)."
    )
  for key, value, options in (
    ("partition", partition, layers.PARTITIONS),
    ("skip_rule", skip_rule, SKIP_RULES),
    ("activation", activation, ("", *ops.ACTIVATIONS)),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  table = stage_tables.scale(table, width=width, depth=depth, keep_ends=keep_ends)
  if small_images:
    table = dataclasses.replace(table, rows=stage_tables.small_strides(table.rows))
  if kernels or partition != "equal" or dilated:
    table = stage_tables.mix(table, kernels, partition=partition, dilated=dilated)
  rows = tuple(
    dataclasses.replace(
      row,
      squeeze=row.squeeze if squeeze else None,
      activation=activation or row.activation,
      declared=row.declared if skip_rule == "declared" else None,
    )
    for row in table.rows
  )
  return network.check(
    network.Network(
      rows=rows,
      stem=stem or table.stem,
      head=head or table.head,
      num_classes=num_classes,
      image_size=image_size,
      dropout_rate=dropout_rate,
      drop_path_rate=drop_path_rate,
      activation=activation or table.activation,
      remat=remat,
      frozen_blocks=frozen_blocks,
      norm_sets=norm_sets,
      padding=padding,
      plain=plain,
      dtype=dtype,
      momentum=momentum,
      epsilon=epsilon,
      group=group,
      stem_kernel=table.stem_kernel,
      stem_stride=table.stem_stride,
      stem_end=table.stem_end,
      stem_pool=table.stem_pool,
      tail=table.tail,
      outer_skips=table.outer_skips,
      hidden=hidden or table.hidden,
      head_depth=head_depth,
      kernel_std=table.kernel_std,
    )
  )


_KNOWN = tuple(field.name for field in dataclasses.fields(registry.Entry))


def add(name: str, table: stage_tables.Table, *, params: int, madds: float, **known: Any) -> None:
  """Registers the network of `table` under `name`.

  Args: params, madds: of the default network. known: fields of `registry.Entry` and arguments of
    `build`, which become the model's own defaults.
  """
  entry = {"image_size": 224, "dropout_rate": 0.2, "drop_path_rate": 0.0, "paper": None}
  entry |= {key: value for key, value in known.items() if key in _KNOWN}
  shared = {key: entry[key] for key in ("image_size", "dropout_rate", "drop_path_rate")}
  own = {key: value for key, value in known.items() if key not in _KNOWN}
  construct = functools.partial(build, table, **shared, **own)
  registry.register(registry.Entry(name=name, build=construct, params=params, madds=madds, **entry))


@dataclasses.dataclass(frozen=True)
class Member:
  """A width of a table: its exact counts, and the figures printed for it, None if there are none.

  paper_top1, paper_top5: in percent.
  """

  width: float
  params: int
  madds: float
  paper_params: float | None = None
  paper_madds: float | None = None
  paper_top1: float | None = None
  paper_top5: float | None = None


def suffixed(name: str, width: float) -> str:
  """Returns the name of a multiplier, the plain one at width 1.

  >>> suffixed("mobilenetv3_large", 0.75), suffixed("mobilenetv3_large", 1.0)
  ('mobilenetv3_large_075', 'mobilenetv3_large')
  """
  return name if width == 1 else f"{name}_{round(100 * width):03d}"


def add_members(
  name: str, table: stage_tables.Table, members: Iterable[Member], **known: Any
) -> None:
  """Registers `table` at the width of every member; known: as of `add`."""
  for member in members:
    add(suffixed(name, member.width), table, **dataclasses.asdict(member), **known)
