"""Every search's config is the paper's, and its detectors are points of its space."""

import math

import jax
import numpy as np
import pytest

from effnets import configuration, errors, models
from effnets.models import initialize
from effnets.search import cost, network, proxy, recipes, settings, spaces

COCO_TRAINED = 110_895  # of 118,287, as the papers say


@pytest.mark.parametrize(
  "config, values",
  [
    (
      "search_efficientnet.py:imagenet",
      {"search.reward.targets": (400e6,), "search.space.options.activation": "swish"},
    ),
    ("search_mobilenetv3.py:imagenet", {"search.reward.options.exponent": -0.15}),
    ("search_mobilenetv3.py:imagenet,large", {"search.space.name": "mnas"}),
    ("search_mixnet.py:imagenet", {"search.space.name": "mixnet", "search.trials": 8000}),
    (
      "search_spinenet.py:coco",
      {"search.trials": 14_000, "train.epochs": 5.0, "data.image_size": 512, "batch_size": 256},
    ),
    (
      "search_mnasfpn.py:coco",
      {"search.reward.options.exponent": -0.3, "search.trials": 10_000, "data.image_size": 320},
    ),
    (
      "search_assemblenet.py:moments_in_time",
      {"train.steps": 10_000, "search.algorithm.options.population": 20},
    ),
    ("search_assemblenet.py", {"model.masked": True, "search.reward.costs": ()}),
    ("search_mnasfpn.py:trials=3,target=9e6,algorithm=random", {"search.trials": 3}),
  ],
)
def test_searches_are_the_papers(config, values, tmp_path):
  config = configuration.load(f"configs/{config}")
  configuration.check(config)
  leaves = configuration.flatten(config)
  assert {key: leaves[key] for key in values} == values
  made = settings.create(config, tmp_path)
  # At its target a soft reward is the accuracy.
  at_target = dict(zip(config.search.reward.costs, config.search.reward.targets, strict=True))
  assert made.reward({"accuracy": 0.5, **at_target}) == pytest.approx(0.5)
  assert config.data.split.validation != config.data.split.test


def test_the_held_out_part_of_coco():
  assert 118_287 - recipes.HELD_OUT_COCO == COCO_TRAINED


def test_a_found_detector_is_the_registered_one_with_another_graph():
  config = configuration.load("configs/search_spinenet.py")
  space = spaces.create("spinenet_tiny")
  tokens = space.published["spinenet_tiny"]
  child = proxy.child(config, space, tokens, 0)
  made = child.model.to_dict()
  assert made.pop("name") == network.DETECTOR
  module = models.create(network.DETECTOR, num_classes=11, **made)
  zoo = models.entry("retinanet_spinenet_tiny")
  found = models.count(module, 128)
  assert (found.params, found.madds) == (zoo.params, pytest.approx(zoo.madds, rel=1e-4))
  # What the search counts is the whole detector, not the body alone.
  counted = network.counted(child, space)
  assert cost.of(space, tokens, image_size=128, num_classes=11, **counted).params == zoo.params


def _films():
  """Returns the search over films, its space and a point with some of the edges."""
  config = configuration.load("configs/search_assemblenet.py")
  space = spaces.create("assemblenet_tiny", dilations=(1,))
  return config, space, space.sample(np.random.default_rng(3))


def _masked(config, space, tokens):
  child = proxy.child(config, space, tokens, 0)
  settings = {key: value for key, value in child.model.items() if key != "name"}
  return models.create(child.model.name, **settings)


def test_children_of_a_masked_graph_are_one_program():
  config, space, some = _films()
  every = space.with_edges(some, space.edges)
  assert some != every
  texts, masks = set(), []
  for tokens in (some, every):
    module = _masked(config, space, tokens)
    run, arguments = initialize.trace(module, train=False)
    shapes = jax.eval_shape(run, *arguments)
    texts.add(jax.jit(module.apply).lower(shapes, *arguments[1:]).as_text())
    masks.append(initialize.init(module, 0)["graph"])
  assert len(texts) == 1
  for tokens, found in zip((some, every), masks, strict=True):
    kept = set(space.edges_of(tokens))
    for target in range(2, 7):
      sources = [source for source, other in space.edges if other == target]
      mask = [(source, target) in kept for source in sources]
      assert found[f"node_{target}"]["mask"].tolist() == mask
  with pytest.raises(errors.UserError, match="config.model.kept=.*there is no .*6, 5"):
    models.create("assemblenet_tiny", masked=True, kept=((0, 2), (5, 6), (6, 5)))
  with pytest.raises(errors.UserError, match="with config.model.masked=True"):
    models.create("assemblenet_tiny", kept=((0, 2),))


def test_weights_of_edges_come_from_what_was_trained():
  config, space, some = _films()
  kept = space.edges_of(some)
  for module in (_masked(config, space, some), space.build(space.decode(some))):
    params, expected = {}, {}
    for target, node in enumerate(module.graph.nodes):
      logits = [0.1 * target - 0.2 * source for source in node.inputs]
      params[f"node_{target}"] = {"edges": np.array(logits)}
      for source, logit in zip(node.inputs, logits, strict=True):
        lone = len(node.inputs) == 1
        expected[source, target] = 1.0 if lone else 1 / (1 + math.exp(-logit))
    found = space.learned(module, params)["edges"]
    assert found == {
      f"edge{source}_{target}.edge": pytest.approx(expected[source, target], rel=1e-6)
      for source, target in kept
    }


def test_spaces_of_the_other_kind_are_refused():
  config = configuration.load("configs/search_spinenet.py")
  space = spaces.create("mnas_tiny")
  with pytest.raises(errors.UserError, match="'mnas_tiny' is one of classifiers, .*'detection'"):
    proxy.child(config, space, (0,) * len(space), 0)
  with pytest.raises(errors.UserError, match="is one of networks of clips"):
    proxy.child(config, spaces.create("assemblenet_tiny"), (), 0)
  with pytest.raises(errors.UserError, match="width=24 is decided by the space 'mnasfpn_tiny'"):
    models.create(network.DETECTOR, space="mnasfpn_tiny", model="mnasfpn_tiny", width=24)
  with pytest.raises(errors.UserError, match="config.model.model='efficientnet_b0'"):
    models.create(network.DETECTOR, model="efficientnet_b0")
