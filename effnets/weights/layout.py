"""Names and layouts of timm's tensors, derived from a network's stage table.

timm numbers blocks by stage, then within it (`blocks.2.0`), and norms by their place in the block,
so that `bn1` belongs to the expansion, or where there is none to the depthwise convolution; the 1x1
convolution behind a depthwise one is `conv_pw` in a block without expansion, `conv_pwl` in one
with. ResNets have names of their own. Kernels are OIHW there and HWIO here, dense ones OI and IO.
"""

from collections.abc import Iterator

import flax.linen as nn

from effnets import errors
from effnets.models import stage_tables
from effnets.weights.tensor import Tensor


def _conv(name: str, *path: str, parts: int = 1) -> Iterator[Tensor]:
  if parts == 1:
    yield Tensor(f"{name}.weight", ("params", *path, "conv", "kernel"), "conv")
  else:
    for part in range(parts):
      where = ("params", *path, "conv", str(part), "kernel")
      yield Tensor(f"{name}.{part}.weight", where, "conv")


def _norm(name: str, *path: str, channels: int | None = None) -> Iterator[Tensor]:
  for theirs, collection, ours in (
    ("weight", "params", "scale"),
    ("bias", "params", "bias"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
  ):
    yield Tensor(f"{name}.{theirs}", (collection, *path, "norm", ours), "vector", channels)
  yield Tensor(f"{name}.num_batches_tracked", (), "counter")


def _layer(name: str, *path: str, kind: str, channels: int | None = None) -> Iterator[Tensor]:
  yield Tensor(f"{name}.weight", ("params", *path, "kernel"), kind, channels)
  yield Tensor(f"{name}.bias", ("params", *path, "bias"), "vector", channels)


def _parts(kernel: int | tuple[int, ...]) -> int:
  return 1 if isinstance(kernel, int) else len(kernel)


def _inverted(row: stage_tables.Row, name: str, path: str) -> Iterator[Tensor]:
  norm, project = 0, "conv_pw"
  if row.op == "mbconv" and row.expand != 1:
    norm, project = 1, "conv_pwl"
    yield from _conv(f"{name}.conv_pw", path, "expand", parts=row.expand_parts)
    yield from _norm(f"{name}.bn1", path, "expand")
  yield from _conv(f"{name}.conv_dw", path, "depthwise", parts=_parts(row.kernel))
  yield from _norm(f"{name}.bn{norm + 1}", path, "depthwise")
  if row.squeeze is not None:
    yield from _layer(f"{name}.se.conv_reduce", path, "squeeze", "reduce", kind="conv")
    yield from _layer(f"{name}.se.conv_expand", path, "squeeze", "expand", kind="conv")
  yield from _conv(f"{name}.{project}", path, "project", parts=row.project_parts)
  yield from _norm(f"{name}.bn{norm + 2}", path, "project", channels=row.channels)


def _mobile(module: nn.Module) -> Iterator[Tensor]:
  """Yields the tensors of networks that timm builds from strings of depthwise blocks."""
  yield from _conv("conv_stem", "stem")
  yield from _norm("bn1", "stem", channels=module.stem)
  stages, index = stage_tables.stages(stage_tables.unroll(module.rows)), 0
  for stage, rows in enumerate(stages):
    for block, row in enumerate(rows):
      yield from _inverted(row, f"blocks.{stage}.{block}", f"block_{index}")
      index += 1
  if module.hidden:
    # The convolution before the pool is a last stage there, and the hidden layer is the head.
    for block in range(module.head_depth if module.head else 0):
      name, path = f"blocks.{len(stages)}.{block}", f"head_{block}" if block else "head"
      yield from _conv(f"{name}.conv", path)
      yield from _norm(f"{name}.bn1", path, channels=module.head)
    yield from _layer("conv_head", "hidden", kind="conv", channels=module.hidden)
  elif module.head:
    yield from _conv("conv_head", "head")
    yield from _norm("bn2", "head", channels=module.head)
  yield from _layer("classifier", "classifier", kind="dense")


def _residual(module: nn.Module) -> Iterator[Tensor]:
  """Yields the tensors of a ResNet."""
  yield from _conv("conv1", "stem")
  yield from _norm("bn1", "stem", channels=module.stem)
  inputs, index = module.stem, 0
  for stage, rows in enumerate(stage_tables.stages(stage_tables.unroll(module.rows)), 1):
    for block, row in enumerate(rows):
      name, path = f"layer{stage}.{block}", f"block_{index}"
      for place, part in enumerate(("reduce", "spatial", "project"), 1):
        channels = row.channels if part == "project" else None
        yield from _conv(f"{name}.conv{place}", path, part)
        yield from _norm(f"{name}.bn{place}", path, part, channels=channels)
      if row.stride > 1 or inputs != row.channels:
        yield from _conv(f"{name}.downsample.0", path, "shortcut")
        yield from _norm(f"{name}.downsample.1", path, "shortcut", channels=row.channels)
      inputs, index = row.channels, index + 1
  yield from _layer("fc", "classifier", kind="dense")


_KNOWN = ("mbconv", "separable", "bottleneck")


def tensors(module: nn.Module) -> tuple[Tensor, ...]:
  """Returns every tensor that timm's state dict of `module` has, in its order.

  Args: module: a `models.network.Network`.
  Raises: UserError for a network that timm has not.
  """
  if not hasattr(module, "rows"):
    kind = type(module).__name__
    raise errors.UserError(f"timm has no network like a {kind}, so no names for its weights.")
  for row in module.rows:
    if row.op not in _KNOWN:
      raise errors.UserError(f"timm has no network of {row.op!r} blocks, so no names for weights.")
  residual = any(row.op == "bottleneck" for row in module.rows)
  return tuple(_residual(module) if residual else _mobile(module))
