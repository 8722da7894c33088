"""MixNet's space: MobileNetV2's stages with mixed kernels.

The first layer of a stage and the repeated ones decide apart, as in the released networks. Source:
Tan and Le 2019 (arXiv 1907.09595), section 3, and its code; the paper does not print the space.
"""

from collections.abc import Sequence

from effnets.models import layers, mixnet, stage_tables
from effnets.search import space
from effnets.search.spaces import registry, tables

# Channels, layers and stride of MobileNetV2's stages behind the first; its last one is left out.
_STAGES = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2))
_TINY = ((24, 2, 2), (40, 2, 2))
KERNELS = (3, (3, 5), (3, 5, 7), (3, 5, 7, 9), (3, 5, 7, 9, 11))
_CHOICES = {
  "kernel": KERNELS,
  "expand": (3, 6),
  "squeeze": (0, 0.25, 0.5),
  "expand_parts": (1, 2),
  "project_parts": (1, 2),
  "activation": ("relu", "swish"),
}


def _row(
  values: dict, stride: int, channels: int, repeats: int, *, joined: bool
) -> stage_tables.Row:
  return stage_tables.Row(
    "mbconv",
    values["kernel"],
    stride,
    values["expand"],
    channels,
    repeats,
    layers.Squeeze(values["squeeze"]) if values["squeeze"] else None,
    values["activation"],
    joined=joined,
    expand_parts=values["expand_parts"],
    project_parts=values["project_parts"],
  )


def _space(
  skeleton: Sequence[tuple[int, int, int]],
  choices: dict[str, tuple],
  *,
  stem: int,
  head: int,
  image_size: int,
) -> tables.TableSpace:
  stages: list[list[space.Decision]] = []

  def add(where: str, extra: dict[str, tuple]) -> None:
    stages.append(
      [space.Decision(f"{where}.{kind}", v, kind) for kind, v in {**choices, **extra}.items()]
    )

  for index, (channels, count, _) in enumerate(skeleton):
    add(f"first{index}", {"filters": tuple(int(channels * m) for m in (0.75, 1.0, 1.25))})
    # As many as in MobileNetV2 with the first one, one less or one more.
    add(f"rest{index}", {"repeats": (count - 2, count - 1, count)})

  def part(stage: int, values: dict, inputs: int):
    index, rest = divmod(stage, 2)
    if stage == 0:
      # Without expansion and mixing, as the layer is in every network that was found.
      yield stage_tables.Row("mbconv", 3, 1, 1, stem, 1, None, "relu")
    if not rest:
      yield _row(values, skeleton[index][2], values["filters"], 1, joined=False)
    elif values["repeats"]:
      yield _row(values, 1, inputs, values["repeats"], joined=True)

  frame = stage_tables.Table(stem, (), head, "relu", head_scaling="fixed", depth_rounding="nearest")
  return tables.TableSpace(stages, part, table=frame, build={"image_size": image_size})


@registry.register("mixnet")
def make() -> tables.TableSpace:
  """Returns the space of MixNet-S."""
  made = _space(_STAGES, _CHOICES, stem=16, head=1536, image_size=224)
  made.known["mixnet_s"] = mixnet.S
  return made


@registry.register("mixnet_tiny")
def tiny() -> tables.TableSpace:
  """Returns a space of two stages, of the sizes of the network `mixnet_tiny`, for 32 pixels."""
  return _space(_TINY, {**_CHOICES, "expand": (3, 4)}, stem=16, head=128, image_size=32)
