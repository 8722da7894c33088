"""Search spaces by name: `create`, `names`; `network` builds what a point stands for."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from effnets import errors
from effnets.search import space as _space
from effnets.search.spaces import assembly as assembly
from effnets.search.spaces import growing as growing
from effnets.search.spaces import mixnet as mixnet
from effnets.search.spaces import mnas as mnas
from effnets.search.spaces import mobile as mobile
from effnets.search.spaces import narrower as narrower
from effnets.search.spaces import necks as necks
from effnets.search.spaces import others as others
from effnets.search.spaces import spine as spine
from effnets.search.spaces.registry import create as create
from effnets.search.spaces.registry import names as names
from effnets.search.spaces.registry import register as register


def network(
  space: _space.Space, tokens: Sequence[int], num_classes: int | None = None, **overrides: Any
) -> nn.Module:
  """Returns the Flax module that `tokens` stand for.

  num_classes: None for the space's own. overrides: arguments of what builds it, such as `dtype`,
  `image_size` or `dropout_rate`.

  Raises: UserError if `tokens` are no point, or if no network of this project goes with the space.
  """
  if not hasattr(space, "build"):
    raise errors.UserError(f"the points of the space {space.name!r} are no networks to build.")
  if num_classes is not None:
    overrides["num_classes"] = num_classes
  return space.build(space.decode(tokens), **overrides)
