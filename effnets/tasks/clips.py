"""What tasks on clips have in common."""

import flax.linen as nn

from effnets import models
from effnets.tasks import base


class ClipTask:
  """A task whose variables are those of one module, which knows the size of its clips."""

  module: nn.Module

  @property
  def image_size(self) -> int:
    """Height and width of the clips."""
    return self.module.image_size

  @property
  def frozen(self) -> tuple[str, ...]:
    """Path prefixes of the module's frozen parameters."""
    return self.module.frozen_names()

  def init(self, seed: int) -> base.Variables:
    """Returns fresh variables drawn from (seed, leaf path), as host arrays."""
    return models.init(self.module, seed)

  def abstract(self) -> base.Variables:
    """Returns the shapes of `init`'s result."""
    return models.abstract(self.module)

  @property
  def network(self) -> nn.Module:
    """The module as it is tested, which takes the task's variables."""
    return self.module

  def tested(self, variables: base.Variables) -> tuple[nn.Module, base.Variables]:
    """Returns the network as it is tested and its variables, without what only trains."""
    return self.network, variables
