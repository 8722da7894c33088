"""A network of the zoo as the body of another: its end points by level, its settings shared.

A level l is a feature map 2**l-fold smaller than the image. A module that can be a body has
`level_ends()`, the end point of every level, and `maps(images, train=, keys=, inner=)`, which
returns end points by name; and the fields that `SHARED` names.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from effnets import errors
from effnets.models import common, registry

SHARED = (
  "plain",
  "dtype",
  "group",
  "remat",
  "frozen_blocks",
  "norm_sets",
  "norm_parts",
  "norm_shards",
  "folded",
  "split",
)
"""Fields of the whole that its body takes over."""


@dataclasses.dataclass(frozen=True)
class Body:
  """What a larger network is built on. (A plain value, so that Flax does not adopt its module.)

  module: the network; its own padding, epsilon, momentum and drop rates stay. taps: end points of
  some levels, instead of the module's own choice.
  """

  module: nn.Module
  taps: tuple[tuple[int, str], ...] = ()

  def build(self, whole: nn.Module) -> nn.Module:
    """Returns the module with the shared fields of `whole`, to be assigned in its `setup`."""
    return self.module.clone(**{name: getattr(whole, name) for name in SHARED})

  def ends(self) -> dict[int, str]:
    """Returns the end point of every level."""
    return {**self.module.level_ends(), **dict(self.taps)}

  def features(
    self, built: nn.Module, images: Float[Array, "b h w 3"], levels: Iterable[int], **noise: Any
  ) -> dict[int, Float[Array, "b h2 w2 c"]]:
    """Returns the features of those of `levels` that the body has.

    Args: built: of `build`. noise: `train` and `keys`.
    """
    ends = {level: end for level, end in self.ends().items() if level in set(levels)}
    inner = any("/" in end for end in ends.values())
    maps = built.maps if inner or "head_1x1" in ends.values() else built.backbone
    found = maps(images, inner=inner, **noise)
    return {level: found[end] for level, end in sorted(ends.items())}

  def frozen_names(self, name: str = "backbone") -> tuple[str, ...]:
    """Returns the path prefixes of frozen parameters, if the body stands at `name`."""
    frozen = self.module.frozen_blocks
    if not frozen:
      return ()
    return (name,) if frozen < 0 else tuple(f"{name}/{n}" for n in self.module.frozen_names())


class Whole(common.Common, kw_only=True):
  """What networks on a body have in common: its fields reach the body and the layers behind it.

  body: what it is built on; it keeps its own padding, momentum and epsilon.
  num_classes: logits. image_size: pixels, or (height, width), it was designed for; others work.
  frozen_blocks: of the body. The others: see `common.Common`.
  """

  body: Body
  num_classes: int = 90
  image_size: int | tuple[int, int] = 512

  def setup(self) -> None:
    self.backbone = self.body.build(self)

  @property
  def drop_path_rate(self) -> float:
    """The body's."""
    return self.body.module.drop_path_rate

  def norm_epsilon(self, name: str) -> float:
    """Returns the epsilon of the norms in the top-level part `name`."""
    return self.body.module.epsilon if name == "backbone" else self.epsilon

  def frozen_names(self) -> tuple[str, ...]:
    """Returns path prefixes of frozen parameters, whose gradient is zero."""
    module = self.body.module.clone(frozen_blocks=self.frozen_blocks)
    return dataclasses.replace(self.body, module=module).frozen_names()


def create(name: str, settings: Mapping[str, Any], *, taps: Mapping[int, str] = {}) -> Body:
  """Returns the body that is the model `name`; settings: those of it that the model has.

  Raises: UserError for a name that is no body, and as `registry.create`.
  """
  entry = registry.entry(name)
  if entry.task != "classification":
    known = registry.list_models(task="classification")
    raise errors.unknown("config.model.backbone", name, "a classifier", known)
  have = entry.settings()
  if not hasattr(registry.create(name), "level_ends"):
    raise errors.UserError(
      f"config.model.backbone={name!r} has no levels, since it does not pad; take another network."
    )
  module = registry.create(name, **{k: v for k, v in settings.items() if k in have})
  return Body(module, tuple(sorted(taps.items())))
