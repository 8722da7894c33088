"""Where every array lives and how a step is executed over the mesh.

The mesh has three axes: `data` splits the batch, `fsdp` splits the batch and large leaves of the
state, `space` splits image height. Leaves are placed by (path regex, tactic) rules; the same step
runs under `jit` (XLA finds the collectives) or `shard_map` (each device its part of the batch,
one explicit reduction at the end).
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from effnets import errors

AXES = ("data", "fsdp", "space")
BATCH_AXES = ("data", "fsdp")
EXECUTIONS = ("jit", "shard_map")
TACTICS = ("fsdp", "replicate")

# Small leaves (depthwise kernels, norms, biases) cost more to gather than to keep everywhere.
DEFAULT_RULES = ((r"depthwise|norm|bias|batch_stats|scale", "replicate"), (r".*", "fsdp"))
DEFAULT_MIN_SIZE = 2**16


@dataclasses.dataclass(frozen=True)
class Placement:
  """A mesh, the rules that place the state on it, and the way a step is executed.

  mesh: axes `data`, `fsdp`, `space`, all of type Auto. execution: `jit` or `shard_map`.
  rules: (regex searched in the leaf's path, tactic), first match wins.
  min_size: leaves of fewer elements stay replicated whatever the rule.
  """

  mesh: jax.sharding.Mesh
  execution: str = "jit"
  rules: tuple[tuple[str, str], ...] = DEFAULT_RULES
  min_size: int = DEFAULT_MIN_SIZE

  @property
  def batch_shards(self) -> int:
    """Number of parts that a batch is cut into."""
    return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

  @property
  def processes(self) -> tuple[int, int]:
    """This process's place among those whose devices the mesh has, and how many they are."""
    spanned = sorted({device.process_index for device in self.mesh.devices.flat})
    return spanned.index(jax.process_index()), len(spanned)

  @property
  def replicated(self) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(self.mesh, P())

  @property
  def batch(self) -> NamedSharding:
    """Sharding of an array whose first dimension is the batch."""
    return NamedSharding(self.mesh, P(BATCH_AXES))

  def state(self, tree: PyTree) -> PyTree:
    """Returns the sharding of each leaf of `tree` (arrays or ShapeDtypeStructs) by the rules."""

    def place(path, leaf):
      name = path_name(path)
      for pattern, tactic in self.rules:
        if re.search(pattern, name):
          return NamedSharding(self.mesh, self._spec(tactic, leaf))
      raise errors.UserError(
        f"config.sharding.rules: no rule places {name!r}; end the list with ('.*', 'fsdp')."
      )

    return jax.tree_util.tree_map_with_path(place, tree)

  def _spec(self, tactic: str, leaf: Any) -> P:
    size = self.mesh.shape["fsdp"]
    if tactic == "replicate" or size == 1 or math.prod(leaf.shape) < self.min_size:
      return P()
    # The last of the largest dimensions: output channels of square kernels.
    for dim in sorted(range(leaf.ndim), key=lambda d: (leaf.shape[d], d), reverse=True):
      if leaf.shape[dim] % size == 0:
        return P(*(["fsdp" if d == dim else None for d in range(leaf.ndim)]))
    return P()

  def gather(self, tree: PyTree) -> PyTree:
    """Constrains sharded weights to be whole where they are used, inside `jit`.

    One all-gather a kernel; without it XLA moves activations between devices instead.
    """
    if self.mesh.shape["fsdp"] == 1 or self.execution == "shard_map":
      return tree
    return jax.lax.with_sharding_constraint(tree, self.replicated)

  def split_images(self, images: jax.Array) -> jax.Array:
    """Constrains images, or clips `b t h w c`, to the batch axes and, by height, to `space`."""
    if self.execution == "shard_map" or self.mesh.size == 1:
      return images
    inner = (None,) * (images.ndim - 4)
    spec = P(BATCH_AXES, *inner, "space") if self.mesh.shape["space"] > 1 else P(BATCH_AXES)
    return jax.lax.with_sharding_constraint(images, NamedSharding(self.mesh, spec))

  def per_example(self, fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Returns `fn` run by each device on its own part of the batch, without communication.

    For functions of batched arrays that loop over examples, which plain `jit` would gather.
    Already so inside a `shard_map` step.
    """
    if self.execution == "shard_map" or self.mesh.size == 1:
      return fn
    return jax.shard_map(
      fn, mesh=self.mesh, in_specs=P(BATCH_AXES), out_specs=P(BATCH_AXES), check_vma=False
    )

  def per_device(self, fn: Callable[..., PyTree], in_specs: PyTree, out_specs: PyTree) -> Callable:
    """Returns `fn` under `shard_map`; `fn` reduces what it returns as replicated by itself."""
    return jax.shard_map(
      fn, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )

  def put(self, tree: PyTree, shardings: PyTree) -> PyTree:
    """Returns host arrays, equal in every process, as global arrays placed by `shardings`."""

    def place(leaf, sharding):
      leaf = np.asarray(leaf)
      return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree, shardings)


def to_host(tree: PyTree) -> PyTree:
  """Returns arrays on any mesh, or on the host, as whole host arrays, in every process."""

  def fetch(leaf):
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
      return multihost_utils.process_allgather(leaf, tiled=True)
    return jax.device_get(leaf)

  return jax.tree.map(fetch, tree)


def path_name(path: Sequence[Any]) -> str:
  """Returns a key path as text, `params/stem/conv/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def create(
  mesh: Mapping[str, int],
  *,
  execution: str = "jit",
  rules: Sequence[tuple[str, str]] = DEFAULT_RULES,
  min_size: int = DEFAULT_MIN_SIZE,
  devices: Sequence[jax.Device] | None = None,
) -> Placement:
  """Returns the placement over `devices` (default: all).

  Args:
    mesh: sizes of `data`, `fsdp`, `space`; absent axes are 1, at most one may be -1 (the rest).
    execution: how a step runs.
      jit: one program over global arrays; needed by `space`.
      shard_map: per-device programs with explicit reductions.

  Raises: UserError if an axis or size is wrong, or the product is not the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  for axis in mesh:
    if axis not in AXES:
      raise errors.unknown("config.mesh", axis, "a mesh axis", AXES)
  sizes = [int(mesh.get(axis, 1)) for axis in AXES]
  if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
    raise errors.UserError(
      f"config.mesh={dict(mesh)}: sizes are positive, at most one is -1 (the remaining devices)."
    )
  known = math.prod(s for s in sizes if s != -1)
  if -1 in sizes and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise errors.UserError(
      f"config.mesh={dict(mesh)} needs {known} device(s) or a multiple, there are {len(devices)}."
      if -1 in sizes
      else f"config.mesh={dict(mesh)} multiplies to {known} device(s), there are {len(devices)}; "
      "set one axis to -1 to fill it by itself."
    )
  if execution not in EXECUTIONS:
    raise errors.unknown("config.execution", execution, "a way to execute a step", EXECUTIONS)
  if execution == "shard_map" and sizes[AXES.index("space")] > 1:
    raise errors.UserError(
      f"config.execution='shard_map' cannot split images over config.mesh.space="
      f"{sizes[AXES.index('space')]}; use config.execution='jit'."
    )
  for _, tactic in rules:
    if tactic not in TACTICS:
      raise errors.unknown("config.sharding.rules", tactic, "a tactic", TACTICS)
  # An axis may be part of one of the slice's own, such as 2 of 4x4x8.
  laid = mesh_utils.create_device_mesh(
    tuple(sizes), devices=devices, allow_split_physical_axes=True
  )
  device_mesh = jax.sharding.Mesh(laid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))
  return Placement(device_mesh, execution, tuple((str(p), str(t)) for p, t in rules), min_size)
