"""A tensor of another code base: its name and layout there, its place and layout here."""

import dataclasses
from typing import Any

import numpy as np

# Their axes in our order, by the kind of tensor; those behind our last one have length 1.
_AXES = {
  # PyTorch: kernels OIHW, dense ones OI.
  "conv": (2, 3, 1, 0),
  "dense": (1, 0),
  "vector": (0,),
  # TensorFlow: as here, but depthwise kernels are HWC1 and slim's classifier is a convolution.
  "tf_conv": (0, 1, 2, 3),
  "tf_depthwise": (0, 1, 3, 2),
  "tf_dense": (0, 1),
  "tf_transposed": (0, 1, 3, 2),
  "tf_logits": (2, 3, 0, 1),
}
_RANKS = {"tf_logits": 2}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of theirs and where it belongs.

  name: theirs. path: collection and names of our leaf; () for a norm's step counter, which we have
  not. kind: `counter`, or a layout: `conv`, `dense`, `vector`, `tf_conv`, `tf_depthwise`,
  `tf_dense`, `tf_logits`, `tf_transposed` (of transposed convolutions), `tf_point` (a dense one of
  theirs that is a 1x1 convolution here). channels: of the output, where the table says.
  """

  name: str
  path: tuple[str, ...]
  kind: str
  channels: int | None = None

  def theirs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns their shape of a leaf that has `shape` here."""
    if self.kind == "tf_point":
      return shape[2:]
    axes = _AXES[self.kind]
    shape = (*shape, *(1,) * (len(axes) - len(shape)))
    return tuple(shape[axes.index(axis)] for axis in range(len(axes)))

  def to_ours(self, value: np.ndarray) -> np.ndarray:
    """Returns their values in our layout, float32 and contiguous."""
    if self.kind == "tf_point":
      return np.ascontiguousarray(value[None, None], np.float32)
    value = value.transpose(_AXES[self.kind])
    value = value.reshape(value.shape[: _RANKS.get(self.kind, value.ndim)])
    return np.ascontiguousarray(value, np.float32)

  def to_theirs(self, value: Any) -> np.ndarray:
    """Returns our values in their layout, float32 and contiguous."""
    if self.kind == "tf_point":
      return np.ascontiguousarray(np.asarray(value, np.float32)[0, 0])
    axes, value = _AXES[self.kind], np.asarray(value, np.float32)
    value = value.reshape(*value.shape, *(1,) * (len(axes) - value.ndim))
    return np.ascontiguousarray(value.transpose(np.argsort(axes)))
