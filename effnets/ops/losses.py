"""Losses of dense predictions, element by element, in float32; whoever calls them sums and divides.

Source: Lin et al. 2017 (arXiv 1708.02002) for the focal loss, Girshick 2015 (arXiv 1504.08083) for
the smooth L1 loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def focal(
  logits: Float[Array, "*n"],
  targets: Float[Array, "*n"],
  *,
  alpha: float = 0.25,
  gamma: float = 1.5,
  label_smoothing: float = 0.0,
) -> Float[Array, "*n"]:
  """Returns the focal loss of sigmoid probabilities, in nats.

  alpha_t (1 - p_t)^gamma times the cross-entropy, with p_t the probability of the target, alpha_t
  `alpha` where that is 1, else 1 - alpha. Only the cross-entropy sees smoothed targets.

  Args:
    targets: 0 or 1. gamma: 0 leaves weighted cross-entropy. label_smoothing: in [0, 1); a target t
      becomes t (1 - s) + s / 2.
  """
  logits, targets = jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32)
  # log(1 - p_t) of the sigmoid, which stays finite where p_t rounds to 1.
  missed = jax.nn.log_sigmoid(jnp.where(targets > 0.5, -logits, logits))
  weight = jnp.where(targets > 0.5, alpha, 1 - alpha)
  return weight * jnp.exp(gamma * missed) * sigmoid_cross_entropy(logits, targets, label_smoothing)


def sigmoid_cross_entropy(
  logits: Float[Array, "*n"], targets: Float[Array, "*n"], label_smoothing: float = 0.0
) -> Float[Array, "*n"]:
  """Returns -t log p - (1 - t) log(1 - p) with p the sigmoid; targets t may lie between 0 and 1."""
  logits = jnp.asarray(logits, jnp.float32)
  targets = targets * (1 - label_smoothing) + label_smoothing / 2
  return -targets * jax.nn.log_sigmoid(logits) - (1 - targets) * jax.nn.log_sigmoid(-logits)


def huber(error: Float[Array, "*n"], delta: float) -> Float[Array, "*n"]:
  """Returns e^2 / 2 up to |e| = delta, from there on delta |e| - delta^2 / 2.

  `huber(e, delta) / delta` is what others call smooth L1 loss with beta = delta.

  >>> huber(jnp.array([0.5, -3.0]), 1.0).tolist()
  [0.125, 2.5]
  """
  size = jnp.abs(jnp.asarray(error, jnp.float32))
  # Both branches are finite everywhere, so neither gives NaN gradients.
  near = jnp.minimum(size, delta)
  return 0.5 * near**2 + delta * (size - near)


def hardest(
  costs: Float[Array, "b n"], counted: Bool[Array, "b n"], share: float | Float[Array, ""]
) -> Bool[Array, "b n"]:
  """Returns which of the counted elements of each row have the largest costs: `share` of them.

  Rounded to whole elements, at least one where any counts; equals of the last one are taken too.

  >>> costs = jnp.array([[3.0, 1.0, 9.0, 2.0]])
  >>> hardest(costs, jnp.array([[True, True, False, True]]), 0.67).tolist()
  [[True, False, False, True]]

  Source: bootstrapping of DeepLab's code, there over the pixels of a device's whole batch.
  """
  ranked = jnp.sort(jnp.where(counted, costs, -jnp.inf), -1, descending=True)
  count = jnp.sum(counted, -1, keepdims=True)
  last = jnp.clip(jnp.round(share * count).astype(jnp.int32), 1, jnp.maximum(count, 1)) - 1
  return counted & (costs >= jnp.take_along_axis(ranked, last, -1))


def gaussian_kl(
  mean: Float[Array, "*n"],
  log_variance: Float[Array, "*n"],
  prior_mean: Float[Array, "*n"] | float = 0.0,
  prior_log_variance: Float[Array, "*n"] | float = 0.0,
) -> Float[Array, "*n"]:
  """Returns KL(N(mean, e^log_variance) || N(prior_mean, e^prior_log_variance)), in nats.

  One value a dimension, not reduced; the default prior is the standard normal.

  >>> float(gaussian_kl(jnp.float32(0.3), jnp.float32(-0.5), -0.1, 0.2))
  0.16379...
  """
  # Of nearly equal distributions the terms cancel: not a difference of numbers near 1.
  wider = jnp.asarray(log_variance - prior_log_variance)
  distance = jnp.square(mean - prior_mean) * jnp.exp(-jnp.asarray(prior_log_variance))
  return 0.5 * (jnp.expm1(wider) - wider + distance)
