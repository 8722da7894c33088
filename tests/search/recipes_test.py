"""Every search's config is the paper's, and its detectors are points of its space."""

import pytest

from effnets import configuration, errors, models
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


def test_spaces_of_the_other_kind_are_refused():
  config = configuration.load("configs/search_spinenet.py")
  space = spaces.create("mnas_tiny")
  with pytest.raises(errors.UserError, match="'mnas_tiny' is one of classifiers, .*'detection'"):
    proxy.child(config, space, (0,) * len(space), 0)
  with pytest.raises(errors.UserError, match="width=24 is decided by the space 'mnasfpn_tiny'"):
    models.create(network.DETECTOR, space="mnasfpn_tiny", model="mnasfpn_tiny", width=24)
  with pytest.raises(errors.UserError, match="config.model.model='efficientnet_b0'"):
    models.create(network.DETECTOR, model="efficientnet_b0")
