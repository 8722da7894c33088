"""Adversarial perturbations: small steps in pixel space that a given loss dislikes, or likes.

Everything is in levels of [0, 255], whatever the network's input looks like: `epsilon=4` is what
the papers call 4, and is the same for every mean and standard deviation.

  pgd    random start in the ball, projected on it       (Madry et al. 2018)
  ifgsm  starts from the image, projected                (Kurakin et al. 2017)
  fgsm   one step of size epsilon from the image         (Goodfellow et al. 2015)
  gd     starts from the image, not projected on the ball
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

KINDS = ("pgd", "ifgsm", "fgsm", "gd")

# Below this a radius can only be meant in another unit: it would not change a single level.
_LEAST_EPSILON = 0.3
_LEVELS = 255.0

PerExampleLoss = Callable[[Float[Array, "b h w c"]], Float[Array, " b"]]


@dataclasses.dataclass(frozen=True)
class Attack:
  """How images are perturbed.

  kind: one of `KINDS`. epsilon: radius of the ball in the maximum norm, in levels of [0, 255]; of
    `gd` without meaning. step: size of one step, in levels; `fgsm`'s is epsilon. steps: how many.
  targeted: descends the loss (to a wrong target) instead of ascending it (from the true label).
  clean_start: share of examples that `pgd` starts from the image itself, in [0, 1].

  Source: Xie et al. 2020 (arXiv 1911.09665), section 5.1: 5 steps of 1 within 4, or 1 within 1.
  """

  kind: str = "pgd"
  epsilon: float = 4.0
  step: float = 1.0
  steps: int = 5
  targeted: bool = True
  clean_start: float = 0.0

  @property
  def passes(self) -> int:
    """How many gradients an attack takes."""
    return 1 if self.kind == "fgsm" else self.steps

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"kind={self.kind!r} is none of {', '.join(KINDS)}.")
    for name in ("epsilon", "step"):
      value = getattr(self, name)
      if 0 < value < _LEAST_EPSILON or not 0 <= value <= _LEVELS:
        raise ValueError(f"{name}={value!r} {unit(value)}")
    if self.steps < 0 or not 0 <= self.clean_start <= 1:
      raise ValueError(f"steps must be at least 0 and clean_start in [0, 1]: {self}.")


def unit(value: float) -> str:
  """Returns what is wrong with a radius that only makes sense in another unit, in words.

  >>> print(unit(8 / 255))
  should be in levels of [0, 255]: 8 if it was meant for pixels in [0, 1], 4 for [-1, 1].
  """
  if value < 0 or value > _LEVELS:
    return f"should be in levels of [0, 255], such as {4.0 if value < 0 else _LEVELS:g}."
  return (
    f"should be in levels of [0, 255]: {value * _LEVELS:.4g} if it was meant for pixels in [0, 1], "
    f"{value * _LEVELS / 2:.4g} for [-1, 1]."
  )


def perturb(
  attack: Attack,
  loss: PerExampleLoss,
  images: Float[Array, "b h w c"],
  keys: Key[Array, " b"],
  *,
  scale: Float[Array, ""] | float = 1.0,
) -> Float[Array, "b h w c"]:
  """Returns the perturbed images, float32 levels within [0, 255]; no gradient flows through them.

  Each step moves every value by `step` in the direction of the sign of the loss's gradient, then
  back into the ball of radius epsilon (not for `gd`), then into [0, 255].

  Args:
    loss: of each image, from levels in [0, 255]; an example's must not depend on the others.
    images: uint8 or floating levels. keys: one per image, for the random start.
    scale: of the attack's epsilon and step; may be traced, so that one program serves many radii.
  """
  images = jnp.asarray(images, jnp.float32)
  epsilon = attack.epsilon * scale
  size = epsilon if attack.kind == "fgsm" else attack.step * scale
  projects = attack.kind != "gd"
  gradient = jax.grad(lambda x: jnp.sum(loss(x)))
  sign = -1.0 if attack.targeted else 1.0

  def clipped(x):
    if projects:
      x = jnp.clip(x, images - epsilon, images + epsilon)
    return jnp.clip(x, 0.0, _LEVELS)

  def advance(_, x):
    return clipped(x + sign * size * jnp.sign(gradient(x)))

  start = images
  if attack.kind == "pgd":
    start = clipped(images + _noise(keys, images.shape[1:], epsilon, attack.clean_start))
  # A loop and not a line of steps: one gradient is compiled, however many there are.
  return jax.lax.stop_gradient(jax.lax.fori_loop(0, attack.passes, advance, start))


def _noise(
  keys: Key[Array, " b"], shape: tuple[int, ...], epsilon: float, clean: float
) -> Float[Array, "b h w c"]:
  def draw(key):
    place, chance = jax.random.split(key)
    noise = jax.random.uniform(place, shape, minval=-epsilon, maxval=epsilon)
    return jnp.where(jax.random.uniform(chance) < clean, 0.0, noise)

  return jax.vmap(draw)(keys)


def random_targets(
  labels: Int[Array, " b"], num_classes: int, keys: Key[Array, " b"]
) -> Int[Array, " b"]:
  """Returns a wrong class for each label, all of them equally likely."""
  if num_classes < 2:
    raise ValueError(f"num_classes={num_classes}: there is no wrong class.")
  shift = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_classes))(keys)
  return (labels + shift) % num_classes
