"""TPU slices by the names that people give them, and what a chip can do.

`v5e-256` is a slice of 256 chips; the names of older kinds count TensorCores, so that `v4-8` has
four chips and `v5p-128` has 64. `cpu:8` is eight devices of this processor, `gpu` the GPUs that are
here.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

import jax

from effnets import errors

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak figures of one chip.

  flops: bfloat16 operations a second. memory: bytes of HBM. bandwidth: bytes a second to and from
  it. source: where the figures are printed.
  """

  flops: float
  memory: float
  bandwidth: float
  source: str


_DOCS = "https://cloud.google.com/tpu/docs/"

_NVIDIA = "https://www.nvidia.com/en-us/data-center/"

# By kind of slice, or by what JAX calls a device that is here. Where Google says GB it means GiB.
CHIPS = {
  "v2": Chip(46e12, 16 * GIB, 700e9, f"{_DOCS}v2"),
  "v3": Chip(123e12, 32 * GIB, 900e9, f"{_DOCS}v3"),
  "v4": Chip(275e12, 32 * GIB, 1228e9, f"{_DOCS}v4"),
  "v5e": Chip(197e12, 16 * GIB, 819e9, f"{_DOCS}v5e"),
  "v5p": Chip(459e12, 95 * GIB, 2765e9, f"{_DOCS}v5p"),
  "v6e": Chip(918e12, 32 * GIB, 1638e9, f"{_DOCS}v6e"),
  "NVIDIA A100-SXM4-80GB": Chip(312e12, 80e9, 2039e9, f"{_NVIDIA}a100/"),
  "NVIDIA H100 80GB HBM3": Chip(989e12, 80e9, 3350e9, f"{_NVIDIA}h100/"),
  "NVIDIA H200": Chip(989e12, 141e9, 4800e9, f"{_NVIDIA}h200/"),
}

# Kind -> chips -> shape. The slices that can be had; two dimensions, or three of v4 and v5p.
_FLAT = {4: "2x2", 16: "4x4", 64: "8x8", 128: "8x16", 256: "16x16"}
_SMALL = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {
  4: "2x2x1",
  8: "2x2x2",
  16: "2x2x4",
  32: "2x4x4",
  64: "4x4x4",
  128: "4x4x8",
  256: "4x8x8",
  512: "8x8x8",
  1024: "8x8x16",
  2048: "8x16x16",
}
_SHAPES = {
  "v2": _FLAT,
  "v3": _FLAT | {512: "16x32", 1024: "32x32"},
  "v4": _CUBES,
  "v5e": _SMALL,
  "v5p": _CUBES,
  "v6e": _SMALL,
}
_CORES_IN_NAME = {"v2": 2, "v3": 2, "v4": 2, "v5p": 2, "v5e": 1, "v6e": 1}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Devices that a program can be compiled for, here or elsewhere.

  name: as asked for. kind: of `CHIPS`, `cpu` or `gpu`. chips: how many, 0 for all that are here.
  chip: what one can do, None if that is not known. shape: of the slice, such as `16x16`, empty for
  what is here.
  """

  name: str
  kind: str
  chips: int
  chip: Chip | None = None
  shape: str = ""

  @property
  def absent(self) -> bool:
    """Whether the devices are not here: programs can be compiled for them, not run."""
    return bool(self.shape)

  def devices(self) -> Sequence[jax.Device]:
    """Returns the devices.

    Raises: UserError if the TPU compiler is not installed, or there are not so many devices here.
    """
    if self.absent:
      return _topology(self)
    try:
      found = jax.devices(self.kind)
    except RuntimeError as error:
      raise errors.UserError(
        f"config.plan.topology={self.name!r}: there is no {self.kind} here ({error})."
      ) from error
    if len(found) < self.chips:
      raise errors.UserError(
        f"config.plan.topology={self.name!r}: JAX has started with {len(found)} {self.kind} "
        f"device(s) here; set XLA_FLAGS=--xla_force_host_platform_device_count={self.chips}."
      )
    return found[: self.chips or None]


def names() -> list[str]:
  """Returns the names of all slices of TPUs."""
  return [
    f"{kind}-{chips * _CORES_IN_NAME[kind]}"
    for kind, shapes in _SHAPES.items()
    for chips in sorted(shapes)
  ]


def resolve(name: str) -> Slice:
  """Returns the slice called `name`; nothing is loaded.

  Raises: UserError if there is no such slice, with the nearest ones.

  >>> resolve("v5p-128").chips, resolve("v5e-256").shape
  (64, '16x16')
  """
  local = re.fullmatch(r"(cpu):(\d+)|(gpu)", name)
  if local:
    kind = local[1] or local[3]
    if local[2] and not 1 <= int(local[2]) <= 1024:
      raise errors.UserError(f"config.plan.topology={name!r}: give 1 to 1024 devices, as in cpu:8.")
    return Slice(name, kind, int(local[2] or 0))
  known = names()
  if name not in known:
    near = _nearest(name)
    if near:
      raise errors.UserError(
        f"config.plan.topology={name!r} is not a slice. Nearest: {', '.join(map(repr, near))}."
      )
    raise errors.unknown("config.plan.topology", name, "a slice", [*known, "cpu:8", "gpu"])
  kind, _, count = name.partition("-")
  chips = int(count) // _CORES_IN_NAME[kind]
  return Slice(name, kind, chips, CHIPS[kind], _SHAPES[kind][chips])


def _nearest(name: str) -> list[str]:
  """Returns the slices of the same kind next below and above the size in `name`."""
  match = re.fullmatch(r"(v\d[ep]?)-(\d+)", name.lower().replace("litepod", "e"))
  if not match or match[1] not in _SHAPES:
    return []
  sizes = [chips * _CORES_IN_NAME[match[1]] for chips in sorted(_SHAPES[match[1]])]
  below = [size for size in sizes if size <= int(match[2])][-1:]
  above = [size for size in sizes if size >= int(match[2])][:1]
  return [f"{match[1]}-{size}" for size in below + above]


def without_tpu(*, devices: str | os.PathLike[str] = "/dev") -> bool:
  """Tells the TPU's library, where it is installed, that no TPU is here; returns whether it did.

  Else it asks the machine what TPU it has and waits for an answer that does not come, complains of
  having no name, and refuses a second plan on the same machine. What is set already stays.

  Args: devices: where Linux lists them; where there is a TPU nothing is set.
  """
  folder = pathlib.Path(devices)
  if [*folder.glob("accel*"), *folder.glob("vfio/[0-9]*")]:
    return False
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_WORKER_ID", "0"),
  ):
    os.environ.setdefault(name, value)
  return True


def _topology(wanted: Slice) -> Sequence[jax.Device]:
  """Returns the devices of a slice that is not here, by the real compiler's description."""
  without_tpu()
  from jax.experimental import topologies

  errors.package("libtpu", extra="plan", what=f"a plan for {wanted.name}")
  description = f"{wanted.kind}:{wanted.shape}"
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=description)
  except Exception as error:  # The compiler's own words for a shape or a lock file.
    raise errors.UserError(
      f"config.plan.topology={wanted.name!r}: the TPU compiler cannot describe {description} "
      f"({type(error).__name__}: {error})."
    ) from error
  return list(found.devices)
