"""The masked network against the plain networks that it holds, which it shares no code with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from effnets import errors
from effnets.models import counting, initialize
from effnets.search import landscapes, spaces, supernet
from effnets.search.spaces import mnas

TINY = supernet.Supernet(spaces.create("mnas_tiny"), 10)
# Two blocks of up to 32 channels, so that programs are small.
SMALL = supernet.Supernet(
  mnas._hierarchical(
    [mnas.Block(2, (8, 32), (1, 2)), mnas.Block(1, (8, 16, 32), (1, 2))],
    stem=8,
    head=16,
    image_size=16,
  ),
  5,
)
# One layer, for the compiler's sake: gradients take it long.
SINGLE = supernet.Supernet(
  mnas._hierarchical(
    [mnas.Block(2, (8, 32), (1,))],
    **{"stem": 8, "head": 0, "ops": ("conv", "mbconv3"), "image_size": 16},
  ),
  5,
)
# op kernel squeeze skip filters layers, of both blocks.
POINTS = (
  (2, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1),  # width 8: mbconv3, dconv; identities
  (0, 1, 0, 2, 1, 0, 3, 1, 0, 2, 1, 1),  # conv, mbconv6; pooled
  (1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 2, 1),  # dconv, conv with an idle squeeze
)
IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype(np.float32)
LABELS = np.arange(8) % 5


def plain(net, tokens):
  """Returns the plain module and its fresh moments."""
  module = net.network(tokens)
  return module, initialize.init(module, 0)["batch_stats"]


def params(net):
  """Returns weights whose norms are not all ones and zeros."""
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype("f"), net.init(0)
  )


def masked_logits(params, tokens, images):
  return SMALL.run(params, SMALL.weights(tokens), images)


MASKED = jax.jit(masked_logits)


@pytest.mark.parametrize("tokens", POINTS)
def test_masked_is_plain(tokens):
  weights = params(SMALL)
  module, stats = plain(SMALL, tokens)

  def logits(params, images):
    variables = {"params": params, "batch_stats": stats}
    return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

  expected = jax.jit(logits)(SMALL.extract(weights, tokens), IMAGES)
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(MASKED(weights, np.array(tokens), IMAGES), expected, atol=2e-5)


def test_the_same_after_five_steps_and_nothing_else_moves():
  # Width 8 in one of 32, a kernel of 3 in one of 5, pooled skip, squeezed.
  tokens = (1, 0, 1, 2, 0, 0)
  before = weights = params(SINGLE)
  module, stats = plain(SINGLE, tokens)

  def descend(logits, params):
    def loss(params):
      return optax.softmax_cross_entropy_with_integer_labels(logits(params), LABELS).mean()

    value, gradient = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), value

  @jax.jit
  def masked(params):
    return descend(lambda p: SINGLE.run(p, SINGLE.weights(jnp.array(tokens)), IMAGES), params)

  @jax.jit
  def alone(params):
    def logits(params):
      variables = {"params": params, "batch_stats": stats}
      return module.apply(variables, IMAGES, train=True, mutable=["batch_stats"])[0]

    return descend(logits, params)

  own = SINGLE.extract(weights, tokens)
  for _ in range(5):
    weights, loss = masked(weights)
    own, expected = alone(own)
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
  for path, leaf in jax.tree_util.tree_leaves_with_path(own):
    mine = SINGLE.extract(weights, tokens)
    for key in path:
      mine = mine[key.key]
    np.testing.assert_allclose(mine, leaf, atol=2e-5, err_msg=str(path))
  moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)), weights, before)
  inside = sum(leaf.sum() for leaf in jax.tree.leaves(SINGLE.extract(moved, tokens)))
  assert inside > 1
  assert sum(leaf.sum() for leaf in jax.tree.leaves(moved)) == pytest.approx(inside, rel=1e-5)


def test_one_program_for_all():
  before = MASKED._cache_size()
  weights = params(SMALL)
  rng = np.random.default_rng(2)
  found = [MASKED(weights, np.array(SMALL.space.sample(rng)), IMAGES) for _ in range(5)]
  assert MASKED._cache_size() - before <= 1
  assert len({float(logits[0, 0]) for logits in found}) == 5


def test_multiply_adds():
  rng = np.random.default_rng(3)
  madds = jax.jit(lambda tokens: TINY.madds(TINY.weights(tokens), 32))
  for tokens in (TINY.widest, *(TINY.space.sample(rng) for _ in range(8))):
    assert float(madds(np.array(tokens))) == counting.count(TINY.network(tokens), 32).madds


def test_parameters_of_the_widest():
  without = {
    name: {part: leaf for part, leaf in block.items() if part != "spatial"}
    for name, block in TINY.init(0).items()
  }
  expected = counting.count(TINY.network(TINY.widest), 32).params
  assert sum(leaf.size for leaf in jax.tree.leaves(without)) == expected


def test_averages_of_operations():
  """Half of each kernel: the middle whole, the rim by half."""
  weights = np.array(SMALL.weights(np.array(POINTS[0])))
  masks = jax.jit(SMALL.masks)(jnp.array(weights))
  weights[1] = (0.5, 0.5, 0, 0)
  mixed = jax.jit(SMALL.masks)(jnp.array(weights))
  np.testing.assert_array_equal(masks[0]["kernel"][:, 0], 0)
  np.testing.assert_array_equal(mixed[0]["kernel"][:, 0], 0.5)
  np.testing.assert_array_equal(mixed[0]["kernel"][1:4, 1:4], 1)


def test_other_spaces():
  with pytest.raises(errors.UserError, match="'chain' has no supernet"):
    supernet.Supernet(landscapes.chain(), 10)
