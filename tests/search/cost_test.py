"""Closed formulas against abstract traces and the sheets' figures."""

import dataclasses

import numpy as np
import pytest

from effnets import errors, models
from effnets.models import layers, stage_tables
from effnets.parallel import slices
from effnets.search import cost, spaces

NAMES = (
  "mnas",
  "mnas_vertex",
  "mixnet",
  "mobilenet_v3_like",
  "ofa",
  "mnas_tiny",
  "mixnet_tiny",
)


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_trace_of_the_network(name):
  made = spaces.create(name)
  tokens = made.sample(np.random.default_rng(5))
  # An odd size: rounding of halves shows.
  got = cost.of(made, tokens, image_size=45, num_classes=7)
  want = models.count(spaces.network(made, tokens, 7), 45)
  assert (got.params, got.madds) == (want.params, want.madds)


def test_published_figures():
  made = spaces.create("mnas")
  for name, params, madds in (
    ("mnasnet_a1", 3_887_038, 311.58e6),
    ("mnasnet_b1", 4_383_312, 314.42e6),
    ("efficientnet_b0", 5_288_548, 385.8e6),
    ("mobilenetv2", 3_504_872, 300.77e6),
  ):
    got = cost.of(made, made.published[name])
    assert got.params == params and got.madds == pytest.approx(madds, rel=1e-4)
  made = spaces.create("mixnet")
  got = cost.of(made, made.published["mixnet_s"])
  assert got.params == 4_134_606 and got.madds == pytest.approx(239.17e6, rel=1e-4)


def test_graphs_are_traced_once():
  made = spaces.create("spinenet_tiny")
  tokens = made.published["spinenet_tiny"]
  entry = models.entry("spinenet_tiny")
  first = cost.of(made, tokens)
  assert (first.params, first.madds) == (entry.params, pytest.approx(entry.madds, rel=1e-5))
  # The same graph with its parents the other way round needs no second trace.
  place = made.index["block4.parent0"]
  swapped = list(tokens)
  swapped[place : place + 2] = swapped[place : place + 2][::-1]
  hits = cost._traced.cache_info().hits
  assert cost.of(made, swapped) == first
  assert cost._traced.cache_info().hits == hits + 1
  assert cost.of(made, tokens, num_classes=10).params < first.params


def test_madds_of_a_separable_layer():
  # The paper's formula: H W M (K K + N).
  piece = cost.layer(stage_tables.Row("mbconv", 5, 1, 1, 24, activation="relu"), 14, 16)
  assert piece.madds == 14 * 14 * 16 * (5 * 5 + 24)


def test_keys_tell_layers_apart():
  row = stage_tables.Row("mbconv", 3, 1, 6, 16, squeeze=layers.Squeeze(0.25))
  keys = {cost.layer(row, 14, 16).key, cost.layer(row, 7, 16).key, cost.layer(row, 14, 24).key}
  for changed in (
    {"kernel": 5},
    {"stride": 2},
    {"expand": 3},
    {"squeeze": None},
    {"skip": False},
    {"pooled": True},
    {"activation": "relu"},
    {"project_parts": 2},
    {"kernel": (3, 5)},
  ):
    keys.add(cost.layer(dataclasses.replace(row, **changed), 14, 16).key)
  assert len(keys) == 12


def test_roofline_by_hand():
  chip = slices.Chip(flops=1e9, memory=1, bandwidth=1e6, source="")
  # 8 x 8 pixels, 4 to 4 channels: 1,024 multiply-adds; 512 numbers, 16 weights, 4 biases.
  piece = cost.layer(stage_tables.Row("conv", 1, 1, 1, 4, skip=False), 8, 4)
  assert (piece.madds, piece.moved, piece.params) == (1024, 512 + 16 + 4, 16 + 8)
  slow = slices.Chip(flops=1e3, memory=1, bandwidth=1e9, source="")
  assert cost.roofline([piece], slow, batch=3) == pytest.approx(3 * 2048 / 1e3)
  moved = (532 - 24) * 3 + 24
  assert cost.roofline([piece] * 2, chip, batch=3) == pytest.approx(2 * 2 * moved / 1e6)
  assert cost.roofline([piece], slow, overhead=1.0) == pytest.approx(1 + 2048 / 1e3)


def test_what_is_not_counted_is_refused():
  with pytest.raises(errors.UserError, match="operation='bottleneck'"):
    cost.layer(stage_tables.Row("bottleneck", 3, 1, 4, 16), 8, 8)
  with pytest.raises(errors.UserError, match="it is not counted"):
    cost.pieces(stage_tables.Table(8, (), 0), 8, 8)
