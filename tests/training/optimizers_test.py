"""Optimizers against the sheet's three steps and loops in NumPy."""

import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from flax import traverse_util

from effnets import errors, parallel
from effnets.training import optimizers

PARAMS = {
  "stem": {"conv": {"kernel": jnp.array([1.0, -2.0])}, "bn": {"scale": jnp.array([1.5])}},
  "stem_2": {"kernel": jnp.array([0.5])},
  "head": {"kernel": jnp.array([3.0]), "bias": jnp.array([0.25])},
}
GRADS = jax.tree.map(lambda v: 0.5 * v + 0.1, PARAMS)


def run(config, params=PARAMS, grads=GRADS, rates=(0.1, 0.1, 0.1)):
  """Returns params after one update per rate with constant gradients."""
  rates_array = jnp.array(rates)
  tx = optimizers.create(config, lambda step: rates_array[step])
  state = tx.init(params)
  for _ in rates:
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def loop(update, decays=lambda path: True, rates=(0.1, 0.1, 0.1)):
  """Returns params after the scalar rule `update(v, g, slots, lr, t, decays)`, leaf by leaf."""

  def leaf(path, v, g):
    v, g, slots = np.float64(v), np.float64(g), {}
    for t, lr in enumerate(rates):
      v = v - update(v, g, slots, lr, t + 1, decays(parallel.path_name(path)))
    return v

  return jax.tree_util.tree_map_with_path(leaf, PARAMS, GRADS)


def check(actual, expected, rtol=2e-6, atol=0.0):
  jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol, atol), actual, expected)


# Adam's 1 - b2 ** t is off by up to 6e-5 of itself in float32, so three steps of 0.1 by 1e-5.
ADAM = 1e-5


def test_rmsprop_is_tensorflows():
  tx = optimizers.create({"name": "rmsprop"}, lambda step: 0.1)
  v, g = jnp.float32(1.0), jnp.float32(0.5)
  state = tx.init(v)
  rows = [(0.925, 0.0519594, 0.9480406), (0.8575, 0.1007270, 0.8473136)]
  rows += [(0.79675, 0.1466348, 0.7006788)]
  for ms, mom, expected in rows:
    updates, state = tx.update(g, state, v)
    v = optax.apply_updates(v, updates)
    slots = jax.tree.leaves(state)
    # Slots: the mean square, the schedule's count, the (negative) momentum.
    assert any(np.isclose(s, ms, rtol=1e-6) for s in slots)
    assert any(np.isclose(s, -mom, rtol=1e-6) for s in slots)
    np.testing.assert_allclose(v, expected, rtol=1e-6)


def test_rmsprop_puts_the_rate_inside_the_momentum():
  def rule(v, g, s, lr, t, decays):
    s["ms"] = 0.8 * s.get("ms", 1.0) + 0.2 * g * g
    s["mom"] = 0.7 * s.get("mom", 0.0) + lr * g / np.sqrt(s["ms"] + 0.01)
    return s["mom"]

  rates = (0.0, 0.1, 0.03, 0.2)
  config = {"name": "rmsprop", "decay": 0.8, "momentum": 0.7, "eps": 0.01}
  check(run(config, rates=rates)[0], loop(rule, rates=rates))


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd(nesterov):
  def rule(v, g, s, lr, t, decays):
    s["mom"] = 0.9 * s.get("mom", 0.0) + g
    return lr * (g + 0.9 * s["mom"] if nesterov else s["mom"])

  check(run({"name": "sgd", "nesterov": nesterov})[0], loop(rule))


def adam(g, s, t, b1=0.9, b2=0.999, eps=1e-8):
  s["m"] = b1 * s.get("m", 0.0) + (1 - b1) * g
  s["v"] = b2 * s.get("v", 0.0) + (1 - b2) * g * g
  return s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)


def test_adam():
  check(run({"name": "adam"})[0], loop(lambda v, g, s, lr, t, d: lr * adam(g, s, t)), atol=ADAM)


def test_adamw_decays_all_but_norms():
  def rule(v, g, s, lr, t, decays):
    return lr * (adam(g, s, t) + (0.3 * v if decays else 0.0))

  expected = loop(rule, decays=lambda path: "/bn/" not in path)
  check(run({"name": "adamw", "weight_decay": 0.3})[0], expected, atol=ADAM)


def test_lamb():
  def rule(v, g, s, lr, t, decays):
    u = adam(g, s, t, eps=1e-6) + (0.3 * v if decays else 0.0)
    return lr * u * np.linalg.norm(v) / np.linalg.norm(u)

  expected = loop(rule, decays=lambda path: "/bn/" not in path)
  check(run({"name": "lamb", "weight_decay": 0.3})[0], expected, atol=ADAM)


def test_lars():
  def leaf(path, v, g):
    name, mom, v, g = parallel.path_name(path), 0.0, np.float64(v), np.float64(g)
    for _ in range(3):
      u = g if "/bn/" in name else g + 0.3 * v
      if name.endswith("kernel"):
        u = u * 0.001 * np.linalg.norm(v) / np.linalg.norm(u)
      mom = 0.9 * mom + 0.1 * u
      v = v - mom
    return v

  expected = jax.tree_util.tree_map_with_path(leaf, PARAMS, GRADS)
  check(run({"name": "lars", "weight_decay": 0.3})[0], expected, rtol=1e-5)


def test_clipping_is_of_the_global_norm():
  params, _ = run(
    {"name": "sgd", "momentum": 0.0, "nesterov": False, "clip_norm": 0.2}, rates=[1.0]
  )
  norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(GRADS)))
  check(params, jax.tree.map(lambda v, g: v - g * 0.2 / norm, PARAMS, GRADS))


def test_clipping_of_each_gradient_comes_before_that_of_all():
  plain = {"name": "sgd", "momentum": 0.0, "nesterov": False}
  params, _ = run({**plain, "clip_each": 0.2, "clip_norm": 0.3}, rates=[1.0])
  shrunk = jax.tree.map(lambda g: g * min(1.0, 0.2 / np.linalg.norm(np.ravel(g))), GRADS)
  norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(shrunk)))
  assert norm > 0.3
  check(params, jax.tree.map(lambda v, g: v - g * 0.3 / norm, PARAMS, shrunk))


def test_frozen_weights_stay_and_others_move():
  config = {"name": "adamw", "frozen": ["stem", "head/bias"], "weight_decay": 0.1, "clip_norm": 0.2}
  params, state = run(config)
  np.testing.assert_array_equal(params["stem"]["conv"]["kernel"], [1.0, -2.0])
  np.testing.assert_array_equal(params["stem"]["bn"]["scale"], [1.5])
  np.testing.assert_array_equal(params["head"]["bias"], [0.25])
  assert params["stem_2"]["kernel"] != 0.5 and params["head"]["kernel"] != 3.0
  # Neither state nor a share of the clipped norm is spent on frozen weights.
  trained = {"stem_2": PARAMS["stem_2"], "head": {"kernel": PARAMS["head"]["kernel"]}}
  grads = {"stem_2": GRADS["stem_2"], "head": {"kernel": GRADS["head"]["kernel"]}}
  alone, alone_state = run({**config, "frozen": ()}, trained, grads)
  np.testing.assert_array_equal(params["head"]["kernel"], alone["head"]["kernel"])

  def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))

  assert size(state) == size(alone_state)


@pytest.mark.parametrize(
  "path, expected",
  [
    ("stem/conv/kernel", True),
    ("block_3/depthwise/kernel", True),
    ("block_3/se/reduce/bias", True),
    ("head/dense/bias", True),
    ("stem/bn/scale", False),
    ("stem/bn/bias", False),
    ("block_3/project_bn/bias", False),
    ("BatchNorm_0/scale", False),
    ("norm2/bias", False),
    ("head_norm/scale", False),
    ("tpu_batch_normalization_2/gamma", False),
  ],
)
def test_decayed(path, expected):
  assert optimizers.decayed(path) is expected


def test_mask_and_coupled_weight_decay():
  assert optimizers.mask(PARAMS) == {
    "stem": {"conv": {"kernel": True}, "bn": {"scale": False}},
    "stem_2": {"kernel": True},
    "head": {"kernel": True, "bias": True},
  }
  assert optimizers.coupled_weight_decay({"name": "rmsprop", "weight_decay": 1e-5}) == 1e-5
  assert optimizers.coupled_weight_decay({"name": "adamw", "weight_decay": 1e-5}) == 0.0


def test_takes_config_dicts_with_fields_of_several_optimizers():
  config = ml_collections.ConfigDict(
    {"name": "sgd", "learning_rate": 0.1, "b1": None, "eps": None, "frozen": ("stem",)}
  )
  params, _ = run(ml_collections.FrozenConfigDict(config))
  np.testing.assert_array_equal(params["stem"]["bn"]["scale"], [1.5])


@pytest.mark.parametrize(
  "config, message",
  [
    (
      {"name": "rmsprob"},
      r"config.optimizer.name='rmsprob' is not an optimizer. Nearest: 'rmsprop'",
    ),
    ({}, r"config.optimizer.name=None is not an optimizer. Valid: 'adam', 'adamw'"),
    ({"name": "sgd", "momentun": 1}, r"config.optimizer.momentun=1: .* Nearest: momentum"),
    ({"name": "sgd", "b1": 0.5}, r"config.optimizer.b1=0.5 has no effect on 'sgd'"),
    (
      {"name": "sgd", "momentum": 1.0},
      r"config.optimizer.momentum=1.0 should be a number in \[0, 1\)",
    ),
    ({"name": "sgd", "clip_norm": 0}, r"config.optimizer.clip_norm=0 should be a positive number"),
    ({"name": "sgd", "weight_decay": float("nan")}, r"weight_decay=nan should be"),
    (
      {"name": "adamw", "weight_decay_kind": "coupled"},
      r"weight_decay_kind='coupled' does not go with config.optimizer.name='adamw'.*rmsprop",
    ),
    ({"name": "sgd", "weight_decay_kind": "l2"}, r"weight_decay_kind='l2' is not a kind"),
  ],
)
def test_errors(config, message):
  with pytest.raises(errors.UserError) as caught:
    optimizers.create(config, lambda step: 0.1)
  assert re.search(message, str(caught.value)), str(caught.value)


def test_frozen_prefix_that_covers_nothing():
  tx = optimizers.create({"name": "sgd", "frozen": ["stem_3"]}, lambda step: 0.1)
  with pytest.raises(errors.UserError, match=r"config.optimizer.frozen='stem_3' .*'stem_2'"):
    jax.eval_shape(tx.init, PARAMS)


def test_coupled_decay_is_the_gradient_of_the_loss_term():
  def term(params):
    weights = [
      params["stem"]["conv"]["kernel"],
      params["stem_2"]["kernel"],
      *params["head"].values(),
    ]
    return 0.3 * sum(0.5 * jnp.sum(w**2) for w in weights)

  expected = jax.tree.map(jnp.add, GRADS, jax.grad(term)(PARAMS))
  check(optimizers.add_coupled_decay(GRADS, PARAMS, 0.3), expected)


def test_weights_that_undecayed_names_are_left_out_of_both_kinds_of_decay():
  undecayed = ("^stem_2/", "bias$")
  left = ["stem/conv/kernel", "head/kernel"]
  config = {"name": "sgd", "undecayed": undecayed, "weight_decay": 0.3}
  flat = traverse_util.flatten_dict(PARAMS, sep="/")
  rule = optimizers.decay_rule(config)
  assert sorted(path for path in flat if rule(path)) == sorted(left)
  found = optimizers.add_coupled_decay(GRADS, PARAMS, 0.3, rule=rule)
  expected = traverse_util.flatten_dict(GRADS, sep="/")
  expected |= {path: expected[path] + 0.3 * flat[path] for path in left}
  check(found, traverse_util.unflatten_dict(expected, sep="/"))
  # Without gradients AdamW moves by decay alone.
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  tx = optimizers.create({**config, "name": "adamw"}, lambda step: 0.1)
  updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
  moved = traverse_util.flatten_dict(updates, sep="/")
  assert sorted(path for path, u in moved.items() if np.any(u)) == sorted(left)


def test_norms_decay_too_if_they_shall():
  flat = traverse_util.flatten_dict(PARAMS, sep="/")
  rule = optimizers.decay_rule({"name": "sgd", "decay_norms": True, "undecayed": ("^head/bias",)})
  assert [path for path in flat if not rule(path)] == ["head/bias"]
  assert not all(optimizers.decayed(path) for path in flat if rule(path))
  with pytest.raises(errors.UserError, match="config.optimizer.decay_norms='yes' is not True or"):
    optimizers.decay_rule({"name": "sgd", "decay_norms": "yes"})


def test_undecayed_that_is_no_regular_expression():
  with pytest.raises(errors.UserError, match=r"config.optimizer.undecayed: '\(' is not a regular"):
    optimizers.decay_rule({"name": "sgd", "undecayed": ("(",)})


def test_every_field_of_another_optimizer_is_named_at_once():
  config = {"name": "adamw", "decay": 0.9, "momentum": 0.9, "eps": 1e-3}
  message = r"--config.optimizer.decay=None --config.optimizer.momentum=None\. "
  with pytest.raises(errors.UserError, match=message):
    optimizers.create(config, lambda step: 0.1)


def test_adam_as_berts_code_has_it():
  # BAM sheet, checks 4 and 6: no bias correction, decay outside the moments.
  config = {"name": "adamw", "eps": 1e-6, "weight_decay": 0.01, "bias_correction": False}
  optimizer = optimizers.create(config, lambda step: 1e-3)
  params = {"dense": {"kernel": jnp.float32(0.5)}}
  state, seen = optimizer.init(params), []
  for gradient in (0.1, -0.2, 0.05):
    updates, state = optimizer.update({"dense": {"kernel": jnp.float32(gradient)}}, state, params)
    params = optax.apply_updates(params, updates)
    seen.append(float(params["dense"]["kernel"]))
  np.testing.assert_allclose(seen, [0.4968337220, 0.4983843242, 0.4990558979], atol=1e-7)
  first = 0.1 / np.sqrt(0.001)
  plain = optimizers.create({**config, "name": "adam", "weight_decay": None}, lambda step: 1.0)
  updates, _ = plain.update(params, plain.init(params), params)
  assert float(updates["dense"]["kernel"]) == pytest.approx(-first, rel=1e-4)


@pytest.mark.parametrize("layers,first", [(12, 2.28768e-5), (24, 6.46108e-6)])
def test_layers_learn_slower_the_deeper_they_are(layers, first):
  names = ["embeddings_word", "embeddings_norm", "pooler"]
  names += [f"layer_{index}" for index in range(layers)]
  tree = {"backbone": {name: {"kernel": jnp.ones(())} for name in names}}
  tree["task_specific_rte"] = {"kernel": jnp.ones(())}
  rates = optimizers.layer_rates(tree, 0.9)
  rate = {name: 1e-4 * leaf["kernel"] for name, leaf in rates["backbone"].items()}
  assert rate["embeddings_word"] == rate["embeddings_norm"] == pytest.approx(first, rel=1e-5)
  if layers == 12:
    assert rate["layer_0"] == pytest.approx(2.54187e-5, rel=1e-5)
  assert rate[f"layer_{layers - 1}"] == pytest.approx(8.1e-5)
  assert rate["pooler"] == pytest.approx(9e-5)
  assert rates["task_specific_rte"]["kernel"] == 1
  # The update and its decay are scaled; what is frozen stays, and counts as a layer all the same.
  config = {"name": "adamw", "weight_decay": 0.5, "layer_decay": 0.9}
  config["frozen"] = (f"backbone/layer_{layers - 1}",)
  optimizer = optimizers.create(config, lambda step: 1e-2)
  updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
  step = -1e-2 * 1.5
  assert float(updates["task_specific_rte"]["kernel"]) == pytest.approx(step, rel=1e-5)
  assert float(updates["backbone"]["pooler"]["kernel"]) == pytest.approx(0.9 * step, rel=1e-5)
  assert float(updates["backbone"][f"layer_{layers - 1}"]["kernel"]) == 0


@pytest.mark.parametrize(
  "field,value,words",
  [("layer_decay", 0.0, "above 0 and at most 1"), ("bias_correction", 1, "is not True or False")],
)
def test_wrong_settings_of_transformers(field, value, words):
  with pytest.raises(errors.UserError, match=f"config.optimizer.{field}={value}.*{words}"):
    optimizers.create({"name": "adamw", field: value}, lambda step: 1.0)
