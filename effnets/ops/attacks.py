"""Gradient attacks: small changes of pictures that raise a given loss, or lower it to a target.

An attack knows nothing of models: it asks for a loss of pictures and moves only the pictures. ε and
step sizes are in levels of 255, whatever range of pixels (`bounds`) the pictures are given in: ε=4
is 4 in [0, 255], 4/255 in [0, 1] and 8/255 in [-1, 1].

  name   starts at                     stays in         steps              a step
  pgd    a uniform point of the ball   ball and range   see default_steps  1 level
  ifgsm  the picture                   ball and range   see default_steps  1 level
  gd     the picture                   range            see default_steps  1 level
  fgsm   the picture                   ball and range   1                  ε

Source: Xie et al. 2020 (AdvProp), section 5; Goodfellow et al. 2015 (FGSM); Madry et al. 2018
(PGD).
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from effnets import errors

ATTACKERS = ("pgd", "ifgsm", "gd", "fgsm")

_LEVELS = 255.0

Loss = Callable[[Float[Array, "b h w c"]], Float[Array, "b"]]


@dataclasses.dataclass(frozen=True)
class Attack:
  """How pictures are changed; epsilon and step_size may be traced scalars.

  epsilon: largest change of a value, in levels of 255; None: only the range of pixels is a limit.
  steps: gradients taken. step_size: change of every value in one step, in levels of 255.
  random_start: begins at a uniform point of the ball instead of the picture.
  targeted: lowers the loss, which is then that of a target, instead of raising it.
  """

  epsilon: float | Array | None
  steps: int
  step_size: float | Array
  random_start: bool = False
  targeted: bool = False


def create(
  name: str,
  epsilon: float,
  *,
  steps: int = 0,
  step_size: float = 0.0,
  targeted: bool = False,
  key: str = "epsilon",
) -> Attack:
  """Returns the attack `name` of the module's table.

  Args:
    epsilon: in levels of 255. steps, step_size: 0 for the attacker's own.
    targeted: see `Attack`. key: what messages call epsilon.

  Raises: UserError for an unknown name, an epsilon in another unit, negative steps or step size.
  """
  if name not in ATTACKERS:
    raise errors.unknown("attack", name, "an attacker", ATTACKERS)
  check_epsilon(epsilon, key=key)
  if steps < 0 or step_size < 0:
    raise errors.UserError(
      f"steps={steps} and step_size={step_size} of an attack are at least 0; 0 is its own."
    )
  if name == "fgsm":
    return Attack(epsilon, steps or 1, step_size or epsilon, targeted=targeted)
  return Attack(
    None if name == "gd" else epsilon,
    steps or default_steps(epsilon),
    step_size or 1.0,
    random_start=name == "pgd",
    targeted=targeted,
  )


def default_steps(epsilon: float) -> int:
  """Returns how many steps of one level AdvProp takes: 1 for ε up to 1, else ε + 1.

  >>> [default_steps(epsilon) for epsilon in (1, 2, 3, 4)]
  [1, 3, 4, 5]
  """
  return 1 if epsilon <= 1 else round(epsilon) + 1


def check_epsilon(epsilon: float, *, key: str = "epsilon") -> None:
  """Checks that `epsilon` can be in levels of 255; 0 is allowed and changes nothing.

  A change by less than half a level would vanish in a picture of 8 bits, so such a number was meant
  for pixels in [0, 1] or [-1, 1]; one above 255 for more bits.

  Raises: UserError with what the number is here and what it would be as levels of 255.
  """
  if epsilon == 0 or 0.5 <= epsilon <= _LEVELS:
    return
  if 0 < epsilon < 0.5:
    raise errors.UserError(
      f"{key}={epsilon!r} should be in levels of 255, where it is less than half a level. If it is "
      f"for pixels in [0, 1], write {epsilon * _LEVELS:.3g}; if for [-1, 1], "
      f"{epsilon * _LEVELS / 2:.3g}."
    )
  if epsilon > _LEVELS:
    raise errors.UserError(
      f"{key}={epsilon!r} should be in levels of 255, where it is more than the whole range. If it "
      f"is for pixels in [0, 65535], write {epsilon / 257:.3g}."
    )
  raise errors.UserError(f"{key}={epsilon!r} should be at least 0, in levels of 255, such as 4.")


def perturb(
  loss: Loss,
  images: Float[Array, "b h w c"],
  *,
  attack: Attack,
  keys: Key[Array, "b"] | None = None,
  bounds: Sequence[float] = (0.0, 255.0),
) -> Float[Array, "b h w c"]:
  """Returns the pictures after the attack, float32, within `bounds`; no gradient flows through it.

  Args:
    loss: pictures -> a loss for each, which depends on that picture alone, with fixed weights.
    images: pixels within `bounds`, any dtype. keys: one per picture, for a random start.
    bounds: the lowest and highest value of a pixel.

  Raises: ValueError if keys are missing for a random start.
  """
  low, high = bounds
  level = (high - low) / _LEVELS
  images = jnp.asarray(images, jnp.float32)
  floor, ceiling = low, high
  start = images
  if attack.epsilon is not None:
    radius = jnp.float32(attack.epsilon * level)
    floor, ceiling = jnp.maximum(images - radius, low), jnp.minimum(images + radius, high)
    if attack.random_start:
      if keys is None:
        raise ValueError("An attack with a random start takes keys, one per picture.")
      draw = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], minval=-1, maxval=1))
      start = jnp.clip(images + radius * draw(keys), low, high)
  change = jnp.float32(attack.step_size * level) * (-1 if attack.targeted else 1)
  gradient = jax.grad(lambda pixels: jnp.sum(loss(pixels).astype(jnp.float32)))

  def step(_, pixels):
    return jnp.clip(pixels + change * jnp.sign(gradient(pixels)), floor, ceiling)

  return jax.lax.stop_gradient(jax.lax.fori_loop(0, attack.steps, step, start))


def random_targets(
  keys: Key[Array, "b"], labels: Int[Array, "b"], num_classes: int
) -> Int[Array, "b"]:
  """Returns for each label another class, each equally likely; one key per example."""
  draw = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_classes))
  return (labels + draw(keys)) % num_classes
