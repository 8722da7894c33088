"""One-shot search by the loop: what moves what, and the experiment from end to end."""

import json

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from effnets import commands, configuration, errors, tasks, training
from effnets.search import network, one_shot, sharing, spaces

SPACE = spaces.create("mnas_micro")


def settings(**changes):
  config = ml_collections.ConfigDict(configuration.load("configs/one_shot.py").to_dict())
  config.batch_size = 8
  config.one_shot.update({"idle": 0.0, "warmup": 0.0, **changes})
  return config


@pytest.fixture(scope="module")
def ready():
  return training.prepare(settings(architectures=2).lock(), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def gradient(ready):
  return gradient_of(ready)


def gradient_of(ready):
  """(params, baseline, batch) -> gradient, the baseline after it and the metrics."""

  def value(params, baseline, batch):
    variables = {"params": params, sharing.CONTROLLER: baseline}
    return ready.task.loss(variables, (), batch, jax.random.key(0), jnp.array(3))

  def run(params, baseline, batch):
    grads, aux = jax.grad(value, has_aux=True)(params, baseline, batch)
    return grads, aux.model_state[sharing.CONTROLLER], aux.metrics

  return jax.jit(run)


def batch_of(ready, first=0):
  rows = [ready.examples.stream[first + i] for i in range(ready.examples.batch_size)]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def start(ready):
  variables = ready.task.init(0)
  return variables["params"], variables[sharing.CONTROLLER]


def test_a_batch_is_half_of_examples_that_judge(ready):
  config = settings()
  assert ready.examples.batch_size == 16 and ready.examples.labelled == 8
  assert config.data.unlabelled.split == config.data.split.validation
  assert ready.examples.stream.tally.name == "cluttered_digits/train, cluttered_digits/validation"


def test_the_controller_learns_by_reinforce_alone(ready, gradient):
  """The gradient of the logits in NumPy, from the accuracies of the networks themselves."""
  task, batch = ready.task, batch_of(ready)
  params, _ = start(ready)
  rng = np.random.default_rng(0)
  mask = task.searcher.mask
  logits = np.where(mask, rng.normal(size=mask.shape), 0).astype(np.float32)
  params = {**params, sharing.CONTROLLER: {"logits": logits}}
  baseline = {"total": np.float32(0.03), "weight": np.float32(0.1)}
  grads, moved, metrics = gradient(params, baseline, batch)

  sampled = task.searcher.sample(logits, jax.random.key(0), jnp.array(3))
  tokens = np.asarray(sampled.tokens)
  held, _ = tasks.halves(batch)
  weights = {name: value for name, value in params.items() if name != sharing.CONTROLLER}
  rewards = []
  for n, row in enumerate(tokens):
    # The plain network of the same weights; its norms take the moments of the batch.
    module = task.net.network(tuple(row))
    plain = {"params": task.net.extract(weights, tuple(row))}
    images = (held["image"][n::2].astype(np.float32) - np.array(task.mean)) / np.array(task.std)
    plain |= jax.tree.map(jnp.zeros_like, {k: v for k, v in _stats(module).items()})
    out, _ = module.apply(plain, jnp.asarray(images), train=True, mutable=["batch_stats"])
    right = np.mean(np.argmax(out, -1) == held["label"][n::2])
    madds = float(task.net.madds(task.net.weights(row), 16))
    rewards.append(right - 0.1 * abs(madds / 180e3 - 1))
  rewards = np.array(rewards)
  total, weight = 0.95 * 0.03 + 0.05 * rewards.mean(), 0.95 * 0.1 + 0.05
  assert float(moved["total"]) == pytest.approx(total, abs=1e-6)
  assert float(moved["weight"]) == pytest.approx(weight)
  assert float(metrics["reward"][0]) == pytest.approx(rewards.mean(), abs=1e-6)
  advantage = rewards - total / weight
  p = np.exp(logits) * mask
  p /= p.sum(-1, keepdims=True)
  active = np.asarray(task.searcher.active(tokens))
  expected = np.zeros_like(logits)
  for a, row, on in zip(advantage, tokens, active, strict=True):
    expected -= a * (np.eye(mask.shape[1])[row] - p) * on[:, None] / 2
  np.testing.assert_allclose(grads[sharing.CONTROLLER]["logits"], expected * mask, atol=1e-6)


def _stats(module):
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False)
  )
  return {"batch_stats": jax.tree.map(lambda x: np.zeros(x.shape), shapes["batch_stats"])}


def test_the_weights_learn_from_their_own_examples(ready, gradient):
  params, baseline = start(ready)
  batch = batch_of(ready)
  first, *_ = gradient(params, baseline, batch)
  other = {**batch, "image": batch["image"].copy(), "label": batch["label"].copy()}
  # Other pictures to judge by: the rows that begin with the first.
  other["image"][::2], other["label"][::2] = 255 - other["image"][::2], 0
  second, *_ = gradient(params, baseline, other)
  for name in ("stem", "head", "classifier"):
    jax.tree.map(np.testing.assert_array_equal, first[name], second[name])
  logits = [np.asarray(grads[sharing.CONTROLLER]["logits"]) for grads in (first, second)]
  assert np.abs(logits[0] - logits[1]).max() > 1e-3
  other["image"][1::2] = 255 - other["image"][1::2]
  third, *_ = gradient(params, baseline, other)
  assert np.abs(third["stem"]["conv"]["kernel"] - first["stem"]["conv"]["kernel"]).max() > 1e-4


def test_the_controller_has_an_optimizer_of_its_own(ready):
  params, _ = start(ready)
  ones = jax.tree.map(lambda x: jnp.ones(np.shape(x)), params)
  state = ready.optimizer.init(params)
  updates, _ = jax.jit(ready.optimizer.update)(ones, state, params)
  # Adam's first step of a gradient of ones is the rate: 4.8e-3 at the first step without idling.
  logits = updates[sharing.CONTROLLER]["logits"]
  np.testing.assert_allclose(logits, np.full(logits.shape, -4.8e-3), rtol=1e-4)
  alone = optax.adam(ready.schedule)
  rest = {name: value for name, value in params.items() if name != sharing.CONTROLLER}
  given = {name: ones[name] for name in rest}
  expected, _ = jax.jit(alone.update)(given, alone.init(rest), rest)
  got = {name: updates[name] for name in rest}
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), got, expected)


def test_devices_share_a_step(ready, gradient):
  two = training.prepare(settings(architectures=2).lock(), devices=jax.devices()[:2])
  params, baseline = start(ready)
  batch = batch_of(ready)
  placed = {name: jax.device_put(value, two.placement.batch) for name, value in batch.items()}
  one, both = gradient(params, baseline, batch), gradient_of(two)(params, baseline, placed)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), one, both)


@pytest.mark.slow
def test_the_experiment(tmp_path, capsys):
  # Narrow enough that a few steps are seconds.
  config = settings(learning_rate=0.05)
  config.batch_size = 32
  config.train.steps = 120
  config.one_shot.long.train.steps = 20
  config.tensorboard = False
  commands.search(config.lock(), str(tmp_path))
  printed = capsys.readouterr().out
  assert "found a network of" in printed and "alone, test" in printed
  result = json.loads((tmp_path / "one_shot.json").read_text(encoding="utf-8"))
  tokens = tuple(result["tokens"])
  SPACE.validate(tokens)
  # The found choice of every decision is the likeliest.
  for name, choices in result["choices"].items():
    assert str(SPACE.values(tokens)[name]) == max(choices, key=choices.get)
    assert sum(choices.values()) == pytest.approx(1, abs=1e-5)
  series = training.plots.load(tmp_path / "shared")
  entropy = series["train/policy_entropy"][1]
  # Nine decisions of two choices each.
  assert entropy[0] <= 9 * np.log(2) + 1e-4 and entropy[-1] < entropy[0]
  assert (tmp_path / "plots/one_shot.png").stat().st_size > 10_000
  found = network.read(str(tmp_path / "best.json"))
  assert found["tokens"] == list(tokens) and found["values"]["madds"] == result["madds"]
  # Finished is finished.
  before = (tmp_path / "alone" / "metrics.jsonl").read_text()
  commands.search(config.lock(), str(tmp_path))
  assert (tmp_path / "alone" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda c: c.one_shot.update({"slope": 0.1}), r"config\.one_shot.*slope=0.1 below"),
    (lambda c: c.one_shot.update({"speed": 1}), r"config\.one_shot.*'speed' is not a setting"),
    (lambda c: c.one_shot.__delattr__("idle"), r"one_shot\.idle is missing; start from configs"),
    (
      lambda c: c.one_shot.update({"architectures": 3}),
      "architectures=3 does not divide the 1 examples",
    ),
    (lambda c: c.data.unlabelled.update({"ratio": 2.0}), "set ratio to 1"),
    (lambda c: c.task.update({"mixup": 0.2}), r"task\.mixup=0.2 does not go with .*one_shot.*0.0"),
    (lambda c: c.model.update({"space": "mixnet_tiny"}), "'mixnet_tiny' has no supernet"),
    (lambda c: c.model.update({"name": "efficientnet_b0"}), r"model\.name='efficientnet_b0'"),
  ],
)
def test_mistakes(change, message):
  config = settings()
  change(config)
  with pytest.raises(errors.UserError, match=message):
    training.prepare(config.lock())


def test_a_mistake_in_the_last_training_is_said_before_the_first(tmp_path):
  config = settings()
  config.one_shot.long = ml_collections.ConfigDict({"train": {"setps": 3}})
  with pytest.raises(errors.UserError, match=r"one_shot\.long.*setps"):
    commands.search(config.lock(), str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_shared_weights_are_no_network(ready):
  with pytest.raises(errors.UserError, match="is no network; train what it has found"):
    ready.task.tested(ready.task.init(0))


def test_names_of_tasks_are_taken_once():
  with pytest.raises(ValueError, match="'one_shot' is registered twice"):
    tasks.register("one_shot", one_shot.Settings)
