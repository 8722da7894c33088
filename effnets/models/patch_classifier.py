"""Any network of the zoo on the patches that a Saccader chooses in a larger picture.

The picture is made small for the Saccader; patches are cut from the large one around the places
that it chooses, classified like pictures, and their logits averaged. The Saccader (`locator`) is as
it is; the network (`classifier`) is trained.

Source: Elsayed et al. 2019 (arXiv 1908.07644), Saccader-NASNet: 113 of 331 pixels for 77 of 224.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from effnets import errors, ops
from effnets.models import bodies, registry, saccader

_Keys = Mapping[str, Key[Array, " b"]] | None


class PatchClassifier(nn.Module):
  """See the module.

  locate: the Saccader, network: the classifier. locator_size: pixels of the picture that the
  Saccader looks at. patch: side of a patch in the large one; 0 for what the Saccader's patch is
  there. The others: see `bagnet.BagNet`.
  """

  locate: bodies.Body
  network: bodies.Body
  locator_size: int = 224
  patch: int = 0
  num_classes: int = 1001
  image_size: int = 331
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  remat: str = "none"
  frozen_blocks: int = 0
  norm_sets: int = 1
  norm_parts: tuple[int, ...] = (0,)
  norm_shards: int = 1
  plain: bool = False
  dtype: Any = "float32"
  group: ops.Group = ops.Group()
  folded: bool = False
  split: ops.Split | None = None

  def setup(self) -> None:
    self.locator = self.locate.build(self)
    group = self.group
    if group.images is not None:
      group = ops.Group(group.images * self.glimpses, group.axes, group.devices)
    self.classifier_net = self.network.build(self).clone(group=group, name="classifier_net")

  @property
  def glimpses(self) -> int:
    """How many patches are classified."""
    return self.locate.module.glimpses

  @property
  def momentum(self) -> float:
    """The classifier's."""
    return self.network.module.momentum

  @property
  def epsilon(self) -> float:
    """The classifier's."""
    return self.network.module.epsilon

  def norm_epsilon(self, name: str) -> float:
    """Returns the epsilon of the norms in the top-level part `name`."""
    return self.locate.module.epsilon if name == "locator" else self.epsilon

  @property
  def receptive_field(self) -> int:
    """Side of a patch of the Saccader's picture."""
    return self.locate.module.receptive_field

  def patch_size(self, image_size: int) -> int:
    """Returns the side of a patch in a picture of `image_size` pixels.

    >>> from effnets import models
    >>> models.create("saccader_classifier").patch_size(331)
    113
    """
    return self.patch or int(image_size / self.locator_size * self.receptive_field)

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the path prefixes of frozen parameters: the Saccader's."""
    return ("locator",)

  def look(self, images: Float[Array, "b h h 3"]) -> dict[str, Array]:
    """Returns what the Saccader says of the picture made small; see `saccader.Saccader.look`."""
    size = self.locator_size
    small = jax.image.resize(images, (images.shape[0], size, size, 3), "bilinear")
    return jax.lax.stop_gradient(self.locator.look(small))

  def patches(
    self,
    images: Float[Array, "b h h 3"],
    locations: Float[Array, "b t 2"],
    *,
    train: bool = False,
    keys: _Keys = None,
  ) -> Float[Array, "b t k"]:
    """Returns the logits of the patches at locations of the Saccader's grid."""
    batch, count = locations.shape[:2]
    points = locations * ops.glimpses.scale(self.receptive_field, self.locator_size)
    cut = ops.glimpses.patches(images, points, self.patch_size(images.shape[1]))
    every = cut.reshape(batch * count, *cut.shape[2:])
    if keys is not None:
      each = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, _range(count)))
      keys = {name: each(key).reshape(-1) for name, key in keys.items()}
    return self.classifier_net(every, train=train, keys=keys).reshape(batch, count, -1)

  def __call__(
    self, images: Float[Array, "b h h 3"], *, train: bool = False, keys: _Keys = None
  ) -> Float[Array, "b k"]:
    """Returns the float32 mean of the patches' logits. Args: as of the classifier."""
    locations = self.look(images)["locations"]
    return self.patches(images, locations, train=train, keys=keys).mean(1)


def _range(count: int) -> Array:
  return jax.numpy.arange(count, dtype=jax.numpy.uint32)


def build(
  *,
  locator: str = "saccader",
  classifier: str = "resnet50",
  locator_settings: dict[str, Any] = {},  # noqa: B006 - never changed
  classifier_settings: dict[str, Any] = {},  # noqa: B006 - never changed
  locator_size: int = 224,
  patch: int = 0,
  num_classes: int = 1001,
  image_size: int = 331,
  norm_sets: int = 1,
  plain: bool = False,
  dtype: Any = "float32",
  group: ops.Group = ops.Group(),  # noqa: B008 - immutable
) -> PatchClassifier:
  """Returns the network of two others by their names, and their own settings.

  Raises: UserError for impossible values.
  """
  made = registry.create(
    locator, num_classes, **{"image_size": locator_size, **dict(locator_settings)}
  )
  if not isinstance(made, saccader.Saccader):
    known = registry.list_models("saccader*")
    raise errors.unknown("config.model.locator", locator, "a network that looks", known)
  side = patch or int(image_size / locator_size * made.receptive_field)
  if not 1 <= side <= image_size:
    raise errors.UserError(
      f"config.model.patch={patch!r} should be from 1 to config.model.image_size={image_size}, or "
      "0 for what the Saccader's own patch is there."
    )
  if registry.entry(classifier).task != "classification":
    known = registry.list_models(task="classification")
    raise errors.unknown("config.model.classifier", classifier, "a classifier", known)
  net = registry.create(
    classifier, num_classes, **{"image_size": side, **dict(classifier_settings)}
  )
  return PatchClassifier(
    locate=bodies.Body(made),
    network=bodies.Body(net),
    locator_size=locator_size,
    patch=patch,
    num_classes=num_classes,
    image_size=image_size,
    norm_sets=norm_sets,
    plain=plain,
    dtype=dtype,
    group=group,
  )


_MINI = {
  "locator": "saccader_mini",
  "classifier": "efficientnet_tiny",
  "locator_size": 64,
  "image_size": 96,
}

for _name, _settings, _params, _madds, _classes, _size in (
  ("saccader_classifier", {}, 61_082_706, 27_088_598_816, 1001, 331),
  ("saccader_classifier_mini", _MINI, 182_984, 31_159_760, 10, 96),
):
  registry.register(
    registry.Entry(
      name=_name,
      build=functools.partial(build, **{"num_classes": _classes, **_settings}),
      params=_params,
      madds=_madds,
      image_size=_size,
      num_classes=_classes,
      dropout_rate=0.0,
      drop_path_rate=0.0,
      paper="1908.07644",
      task="glimpses",
      crop_padding=_size // 10,
    )
  )
