"""Location pre-training and policy gradient against slow loops and closed forms."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from effnets import configuration, errors, models, ops, parallel, streams, tasks
from effnets.models import saccader
from effnets.tasks import glimpses

# So small that its step compiles in a second or two; patches of 17 pixels, 4 apart, as in mini.
_NANO = {
  "repeats": (1, 1, 1),
  "planes": (2, 2, 2),
  "strides": (2, 2, 1),
  "kernel3": (1, 1, 1),
  "stem": 4,
  "groups": 1,
}


def _config(task="reinforcement", model="saccader_mini", size=37, **settings):
  config = configuration.load("configs/saccader.py")
  config.task.name = task
  config.data.image_size = size
  config.model = ml_collections.ConfigDict({"name": model, "dtype": "float32", "glimpses": 3})
  if model == "saccader_mini":
    config.model.update(_NANO)
  elif model == "dram_mini":
    config.model.update({"repeats": (1,), "lstm": 4, "glimpses": 2})
  config.glimpses.update(settings)
  return config


def _task(config, batch=4, placement=None):
  placement = placement or parallel.create({"data": 1}, devices=jax.devices()[:1])
  return tasks.create(config, placement, num_classes=10, step_batch=batch)


def _batch(size=37, count=4):
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (count, size, size, 3)).astype(np.uint8),
    "label": np.arange(count) % 10,
    "weight": np.ones(count, np.float32),
    "position": streams.words(np.arange(count)),
    "index": np.arange(count),
  }


def _moved(task):
  """Initial variables, moved so that no scale is 0."""
  rng, variables = np.random.default_rng(1), task.init(0)
  move = lambda x: (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float32)  # noqa: E731
  return {**variables, "params": jax.tree.map(move, variables["params"])}


def test_reinforce_is_the_sheets():
  rewards = jnp.array([1.0, 0.0, 1.0, 1.0])
  logs = jnp.array([-2.0, -1.0, -3.0, -2.5])
  assert float(glimpses.reinforce(rewards, logs[:, None]).mean()) == 0.28125
  # Steps are averaged, so that twice the steps do not double it; no gradient enters rewards.
  twice = jnp.stack([logs, logs], 1)
  assert float(glimpses.reinforce(rewards, twice).mean()) == 0.28125
  grad = jax.grad(lambda r: glimpses.reinforce(r, logs[:, None]).sum())(rewards)
  assert (grad == 0).all()


def test_decay_has_a_factor_for_each_part():
  params = {
    "backbone": {"stem": {"conv": {"kernel": np.full((2, 3), 2.0)}, "norm": {"scale": np.ones(3)}}},
    "where_0_0": {"conv": {"kernel": np.full(5, 3.0)}},
    "mix": {"kernel": np.ones(4), "bias": np.full(4, 9.0)},
    "cell": {"kernel": np.full((7, 1), 1.0)},
  }
  # 6 weights of 2; 5 of 3, 4 and 7 of 1.
  found = float(glimpses.decay(params, 0.1, 0.01))
  assert found == pytest.approx(0.5 * 0.1 * 24 + 0.5 * 0.01 * (45 + 4 + 7))


@pytest.mark.parametrize("mask", glimpses.MASKS)
def test_the_location_loss_is_a_slow_loop(mask):
  task = _task(_config("location", mask=mask, location_decay=0.0))
  variables, batch, root = _moved(task), _batch(), jax.random.key(3)
  assert task.frozen == ("backbone",)

  @jax.jit
  def run(variables):
    images = task._inputs(batch["image"])
    keys = streams.example_keys(streams.stream(root, "look"), batch["position"])
    (ends, _) = task.module.apply(
      variables, images, train=True, fixed=True, method="maps", mutable=["batch_stats"]
    )
    features = saccader.flat(ends["mixed_features2d"])
    drawn, _ = ops.glimpses.look(features, ends["vector"], 3, ops.glimpses.sampled(keys))
    return task.loss(variables, (), batch, root, 0), ends, drawn

  (value, aux), ends, drawn = jax.device_get(run(variables))
  logits = ends["logits2d"].reshape(4, 36, 10)
  features = ends["mixed_features2d"].reshape(4, 36, -1).astype(np.float64)
  total = []
  for b in range(4):
    predicted = logits[b].mean(0).argmax()
    order = np.argsort(-logits[b, :, predicted], kind="stable")[:3]
    seen = np.zeros(36)
    for t in range(3):
      s = features[b] @ ends["vector"] / np.sqrt(features.shape[-1]) - 1e5 * seen
      w = np.exp(s - s.max())
      h = (w / w.sum()) @ features[b]
      g = np.exp(h - h.max())
      scores = features[b] @ (g / g.sum()) - 1e5 * seen
      total.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[order[t]])
      seen[order[t] if mask == "targets" else drawn[b, t]] = 1
  np.testing.assert_allclose(value, np.mean(total), rtol=1e-4)
  entropy, count = aux.metrics["location_cross_entropy"]
  np.testing.assert_allclose(entropy / count, np.mean(np.minimum(total, 100)), rtol=1e-4)


def test_the_loss_of_policy_gradient_is_both_parts():
  parts = {"samples": 3, "reinforce_weight": 0.5, "cross_entropy_weight": 2.0}
  parts |= {"decay": 0.0, "location_decay": 0.0}
  made = {kind: _task(_config(reward=kind, **parts)) for kind in glimpses.REWARDS}
  variables, batch, root = _moved(made["01"]), _batch(), jax.random.key(3)

  @jax.jit
  def run(variables):
    keys = streams.example_keys(streams.stream(root, "look"), batch["position"])
    found = made["01"].episodes(variables, made["01"]._inputs(batch["image"]), keys)
    return {kind: t.loss(variables, (), batch, root, 0) for kind, t in made.items()}, found

  losses, (logits, logs, _) = jax.device_get(run(variables))
  assert logits.shape == (3, 4, 10) and logs.shape == (3, 4, 3) and (logs < 0).all()
  # Episodes of one image differ.
  assert (logs[0] != logs[1]).any()
  shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  entropy = -np.mean([[shares[s, b, batch["label"][b]] for b in range(4)] for s in range(3)])
  for kind, low in (("01", 0.0), ("pm1", -1.0)):
    value, aux = losses[kind]
    rewards = np.where(logits.argmax(-1) == batch["label"], 1.0, low)
    policy = -((rewards - rewards.mean())[..., None] * logs).mean()
    np.testing.assert_allclose(value, 0.5 * policy + 2 * entropy, rtol=1e-4)
    assert aux.metrics["reward"][0] / 4 == pytest.approx(rewards.mean())


def test_gradients_reach_both_networks_and_policy_gradient_only_the_places():
  rng = np.random.default_rng(0)

  def norms(**settings):
    task = _task(_config(decay=0.0, location_decay=0.0, **settings))
    variables, batch = _moved(task), _batch()
    batch["label"] = rng.integers(0, 10, 4)

    @jax.jit
    def grads(params):
      loss = lambda p: task.loss({**variables, "params": p}, (), batch, jax.random.key(0), 0)[0]  # noqa: E731
      return jax.grad(loss)(params)

    found = grads(variables["params"])
    return {n: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found[n])) for n in found}

  entropy = norms(reinforce_weight=0.0)
  # Drawn places let no gradient through: cross-entropy alone teaches no location network.
  assert entropy["cell"] == entropy["mix"] == entropy["where_0_1"] == 0 < entropy["backbone"]


def test_dram_learns_by_the_same_rule():
  config = _config(model="dram_mini", size=24, samples=1, decay=0.0, location_decay=0.0)
  task = _task(config)
  variables, batch, root = _moved(task), _batch(24), jax.random.key(3)

  @jax.jit
  def run(variables):
    keys = streams.example_keys(streams.stream(root, "look"), batch["position"])
    found = task.module.apply(
      variables,
      task._inputs(batch["image"]),
      train=True,
      keys=keys,
      method="look",
      mutable=["batch_stats"],
    )
    return task.loss(variables, (), batch, root, 0), found[0]

  (value, _), found = jax.device_get(run(variables))
  logs = -((found["drawn"] - found["means"]) ** 2).sum(-1) / (2 * 0.1**2)
  logits = found["step_logits"][:, -1]
  rewards = (logits.argmax(-1) == batch["label"]).astype(float)
  policy = -((rewards - rewards.mean())[:, None] * logs).mean()
  entropy = np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(4), batch["label"]])
  np.testing.assert_allclose(value, policy + entropy, rtol=1e-4)


def test_both_executions_have_one_baseline():
  values = {}
  for execution in ("jit", "shard_map"):
    placement = parallel.create({"data": 2}, execution=execution, devices=jax.devices()[:2])
    config = _config(samples=1)
    config.batch_norm.group = "local"
    task = _task(config, placement=placement)
    variables, batch = _moved(task), _batch()

    def loss(variables, batch, task=task):
      return task.loss(variables, (), batch, jax.random.key(3), 0)[0]

    run = loss
    if execution == "shard_map":
      spec = jax.sharding.PartitionSpec
      run = placement.per_device(
        lambda v, b, loss=loss: jax.lax.pmean(loss(v, b), parallel.BATCH_AXES),
        (spec(), spec(parallel.BATCH_AXES)),
        spec(),
      )
    values[execution] = float(jax.jit(run)(variables, batch))
  assert values["jit"] == pytest.approx(values["shard_map"], rel=1e-5)


def test_what_is_judged(monkeypatch):
  task = _task(_config())
  variables, batch = _moved(task), _batch()
  policies = ("learned", "random")
  predict = glimpses.compare(task, policies, 4, seed=0)
  found = jax.device_get(jax.jit(predict)(variables, batch))
  images = task._inputs(batch["image"])
  maps = jax.jit(lambda v: task.module.apply(v, images, method="maps")["logits2d"])(variables)
  values = np.asarray(maps).reshape(4, 36, 10)
  for policy in policies:
    for t in range(1, 5):
      for b in range(4):
        mean = values[b, found[f"{policy}/places"][b, :t]].mean(0)
        order = np.argsort(-mean, kind="stable").tolist()
        assert found[f"{policy}/hits1"][b, t - 1] == (order[0] == batch["label"][b])
        assert found[f"{policy}/hits5"][b, t - 1] == (batch["label"][b] in order[:5])
  every = values.mean(1).argmax(-1) == batch["label"]
  assert (found["all/hits1"][:, 0] == every).all()


def test_what_is_left_without_what_was_looked_at(monkeypatch):
  task = _task(_config())
  variables, batch = _moved(task), _batch()
  monkeypatch.setattr(glimpses, "_hits", lambda logits, labels: {"logits": logits})
  predict = glimpses.compare(task, ("learned", "centre"), 4, seed=0, hidden=2)
  found = jax.device_get(jax.jit(predict)(variables, batch))
  pictures = batch["image"].copy()
  for picture, places in zip(pictures, found["learned/places"], strict=True):
    for place in places[:2]:
      y, x = 4 * (place // 6), 4 * (place % 6)
      picture[y : y + 17, x : x + 17] = 0
  maps = jax.jit(lambda x: task.module.apply(variables, task.inputs(x), method="maps")["logits2d"])
  expected = np.asarray(maps(pictures)).mean((1, 2))
  np.testing.assert_allclose(found["complement/logits"][:, 0], expected, rtol=1e-5, atol=1e-6)


def test_figures_tell_what_was_looked_at():
  task = _task(_config())
  places = np.array([[0, 35, 1], [7, 7, 7]])
  outputs = {"logits": np.eye(10)[:2], "places": places}
  figures = task.evaluate(outputs, {"label": np.array([0, 1])})
  assert set(figures) == set(task.figures) and figures["top1"] == 1
  # Windows of 17 pixels, 4 apart, on 37: 0 and 1 overlap by 13 columns; 35 is alone but for a
  # corner of 0 ... 20 x 20 pixels on.
  first = np.zeros((37, 37))
  for place in places[0]:
    y, x = 4 * (place // 6), 4 * (place % 6)
    first[y : y + 17, x : x + 17] = 1
  assert figures["coverage"] == pytest.approx((first.mean() + 17**2 / 37**2) / 2)
  apart = 2 / 37 * np.array([np.hypot(20, 20), 4, np.hypot(20, 16)])
  assert figures["diversity"] == pytest.approx((apart.mean() + 0) / 2)


def test_windows_of_dram_are_the_patches_that_it_takes():
  task = _task(_config(model="dram_mini", size=24, samples=1))
  points = np.random.default_rng(0).uniform(-1, 1, (3, 5, 2)).astype(np.float32)
  tops = np.asarray(ops.glimpses.patch_top(jnp.asarray(points), 24, 17))
  with jax.transfer_guard("disallow"):  # as inside the loop
    found = task.windows({"locations": points})
  np.testing.assert_array_equal(found[..., :2], tops)
  assert (found[..., 2] == 17).all()


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"mask": "target"}, "config.glimpses.mask='target' is not .*Nearest: 'targets'"),
    ({"reward": "0"}, "config.glimpses.reward='0' is not"),
    ({"samples": 0}, "config.glimpses.samples=0 should be a whole number of at least 1"),
    ({"decay": -1.0}, "config.glimpses.decay=-1.0 should be a number of at least 0"),
    ({"sample": 3}, "config.glimpses='sample' is not a setting. Nearest: 'samples'"),
    ({"size": 16}, "image_size=16: .* receptive field of 17"),
    ({"model": "dram_mini"}, "config.glimpses.samples=2: a DRAM makes one episode"),
    ({"model": "efficientnet_tiny"}, "config.model.name='efficientnet_tiny' is not a network that"),
    ({"task": "location", "model": "dram_mini"}, "'location' is for the model saccader"),
    ({"task": "patches"}, "'patches' is for the model saccader_classifier"),
  ],
)
def test_wrong_settings(changes, words):
  with pytest.raises(errors.UserError, match=words):
    _task(_config(**changes))


def test_without_its_section():
  config = _config()
  with config.unlocked():
    del config.glimpses
  with pytest.raises(errors.UserError, match="config.glimpses is missing"):
    _task(config)
  assert models.entry("saccader").task == "glimpses"
