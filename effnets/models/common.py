"""The fields that every network of pictures has, and what its layers share by them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from effnets import ops
from effnets.models import layers


class Common(nn.Module, kw_only=True):
  """A network whose layers share `settings()`.

  remat: `none` keeps activations for the backward pass; `norm` keeps what each convolution gives
    and computes norms, activations and gates again; `block` keeps each block's input alone and
    computes the rest again. Networks that know no `norm` take it for `none`.
  frozen_blocks: k > 0 runs the stem and the first k blocks in inference mode and lets no gradient
    through their end; 0 freezes nothing; -1 freezes all but the classifier. See `frozen_names`.
  norm_sets, norm_parts, norm_shards: see `layers.NormSets`; `clone` changes the last two.
  The others: see `layers.Settings`.
  """

  remat: str = "none"
  frozen_blocks: int = 0
  norm_sets: int = 1
  norm_parts: tuple[int, ...] = (0,)
  norm_shards: int = 1
  padding: str = "SAME"
  plain: bool = False
  dtype: Any = "float32"
  momentum: float = 0.99
  epsilon: float = 1e-3
  group: ops.Group = ops.Group()
  folded: bool = False
  split: ops.Split | None = None

  def settings(self, **others: Any) -> layers.Settings:
    """Returns what the layers share. others: that are not fields, or differ from them."""
    own = {
      "padding": self.padding,
      "plain": self.plain,
      "dtype": jnp.dtype(self.dtype),
      "momentum": self.momentum,
      "epsilon": self.epsilon,
      "group": self.group,
      "norms": layers.NormSets(self.norm_sets, self.norm_parts, self.norm_shards),
      "folded": self.folded,
      "split": self.split,
      "named": self.remat == "norm",
    }
    return layers.Settings(**{**own, **others})
