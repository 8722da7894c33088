"""Narrower networks of the zoo: what is inherited, and the way to a target."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import configuration, errors, models
from effnets.models import stage_tables
from effnets.search import adapting, cost, spaces


@pytest.mark.parametrize(
  "name", ["efficientnet_b0", "mnasnet_a1", "mobilenetv3_large", "mixnet_s", "efficientnet_tiny"]
)
def test_the_whole_is_the_zoos_network(name):
  space, entry = spaces.create("narrower", model=name), models.entry(name)
  zoo = models.create(name)
  own = spaces.network(space, space.whole, zoo.num_classes)
  shapes = lambda module: jax.tree.map(lambda x: x.shape, models.abstract(module))  # noqa: E731
  assert shapes(own) == shapes(zoo)
  assert cost.of(space, space.whole, num_classes=zoo.num_classes).params == entry.params


def test_counts_of_narrow_networks():
  space = spaces.create("narrower", model="mobilenetv3_small", multiple=4)
  for seed in range(3):
    tokens = space.sample(np.random.default_rng(seed))
    found = models.count(spaces.network(space, tokens, 10), 224)
    counted = cost.of(space, tokens, num_classes=10)
    assert (counted.params, counted.madds) == (found.params, found.madds)
    assert space.encode(space.decode(tokens)) == tokens


def test_blocks_that_add_their_input_share_its_width():
  space = spaces.create("narrower", model="mobilenetv3_large")
  zoo, chosen = models.create("mobilenetv3_large"), space.sample(np.random.default_rng(1))
  inputs, channels = zoo.stem, space.decode(chosen).stem
  for old, new in zip(stage_tables.unroll(zoo.rows), space.decode(chosen).rows, strict=True):
    adds = old.stride == 1 and old.channels == inputs
    assert new.skip == adds
    if adds:
      assert new.channels == channels
    inputs, channels = old.channels, new.channels
  # Of the paper's two kinds of proposals: the expansion of all blocks but the first, and the
  # bottlenecks of 24, 40, 80, 112 and 160 channels; that of 16 is the stem's.
  kinds = [decision.kind for decision in space.decisions]
  assert (kinds.count("inner"), kinds.count("width")) == (14, 5)


def test_a_cut_that_loses_nothing_changes_nothing():
  space = spaces.create("narrower", model="efficientnet_tiny")
  tokens = space.sample(np.random.default_rng(2))
  wide, narrow = (spaces.network(space, t, 10) for t in (space.whole, tokens))
  shapes = models.abstract(narrow, 32)
  rng = np.random.default_rng(0)

  def fill(leaf, small):
    # Noise where the narrow network has something, zeros where it has not.
    values = np.zeros(leaf.shape, np.float32)
    inside = tuple(slice(length) for length in small.shape)
    values[inside] = rng.uniform(0.2, 1.0, small.shape) * rng.choice([-1, 1], small.shape)
    return values

  variables = jax.tree.map(fill, models.abstract(wide, 32), shapes)
  variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
  cut = adapting.truncated(variables, shapes)
  whole, part = (
    jax.jit(lambda v, module=module: module.apply(v, jnp.asarray(images), train=False))(own)
    for module, own in ((wide, variables), (narrow, cut))
  )
  scale = np.abs(whole).max()
  assert scale > 1e-3
  np.testing.assert_allclose(part / scale, whole / scale, atol=2e-5)
  with pytest.raises(ValueError, match="cannot be cut"):
    adapting.truncated(cut, models.abstract(wide, 32))


class _Trainings:
  """Accuracy by a formula; counts what it is asked for, and may be cut short."""

  asked: list = []
  left = 10**9

  def __init__(self, config, space, execution, folder):
    del config, execution, folder
    self.space = space

  def __call__(self, tokens, variables):
    if not _Trainings.left:
      raise KeyboardInterrupt
    _Trainings.left -= 1
    _Trainings.asked.append(tokens)
    # Narrowing the first block hurts most.
    share = [t / max(w, 1) for t, w in zip(tokens, self.space.whole, strict=True)]
    loss = sum((1 - s) / (1 + place) for place, s in enumerate(share))
    return 0.9 - 0.01 * loss, {"of": variables["of"] + 1, "tokens": np.array(tokens)}


def _run(monkeypatch, path, target=0.5):
  monkeypatch.setattr(adapting, "_Trainings", _Trainings)
  seeded = ({"of": np.array(0)}, {"top1": 0.9})
  monkeypatch.setattr(adapting, "_seed", lambda config, folder, say: seeded)
  given = {}

  def trained(config, folder, name, initial):
    given[name] = initial
    return {"top1": 0.5}

  monkeypatch.setattr(adapting.trainings, "finished", trained)
  config = configuration.load(f"configs/netadapt.py:target={target}")
  return adapting.run(config, path, lambda text: None), given


def test_the_way_to_a_target_goes_on_where_it_was_cut(tmp_path, monkeypatch):
  monkeypatch.setattr(_Trainings, "asked", [])
  result, given = _run(monkeypatch, tmp_path / "whole")
  whole = list(_Trainings.asked)
  space = spaces.create("narrower", model="efficientnet_tiny")
  costs = [step["cost"] for step in result["path"]]
  seed = cost.of(space, space.whole, image_size=32, num_classes=10).madds
  assert costs[0] == seed and costs[-1] <= 0.5 * seed < costs[-2]
  assert all(a - b >= 0.1 * seed * (1 - 1e-9) for a, b in zip(costs, costs[1:], strict=False))
  # Weights went from network to network, and the last one's are what is trained in full.
  assert given["scratch"] is None
  assert int(given["adapted"]["of"]) == len(costs)
  assert tuple(given["adapted"]["tokens"]) == tuple(result["tokens"])
  best = json.loads((tmp_path / "whole" / "best.json").read_text())
  assert best["top"][0]["tokens"] == result["tokens"]

  _Trainings.asked.clear()
  monkeypatch.setattr(_Trainings, "left", 11)
  with pytest.raises(KeyboardInterrupt):
    _run(monkeypatch, tmp_path / "cut")
  monkeypatch.setattr(_Trainings, "left", 10**9)
  again, _ = _run(monkeypatch, tmp_path / "cut")
  assert _Trainings.asked == whole  # nothing twice
  assert again == result


def test_mistakes(tmp_path):
  with pytest.raises(errors.UserError, match="'resnet50' has blocks 'bottleneck'"):
    spaces.create("narrower", model="resnet50")
  with pytest.raises(errors.UserError, match="'efficientdet_d0' is no classifier"):
    spaces.create("narrower", model="efficientdet_d0")
  for key, value, message in (
    ("target", 1.5, "config.netadapt.target=1.5 is a share"),
    ("cost", "latencies", "config.netadapt.cost='latencies'.*Nearest: 'latency'"),
    ("execution", "shard", "Nearest: 'shared'"),
  ):
    config = configuration.load("configs/netadapt.py").copy_and_resolve_references().unlock()
    config.netadapt[key] = value
    with pytest.raises(errors.UserError, match=message):
      adapting.run(config.lock(), tmp_path / "none", lambda text: None)
  assert not (tmp_path / "none").exists()
