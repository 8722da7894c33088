"""All registered spaces: names, versions, samples, mutations, published networks."""

import dataclasses

import numpy as np
import pytest

from effnets import errors, models
from effnets.models import stage_tables
from effnets.search import space, spaces

NAMES = spaces.names()


def plain(spec):
  """A table's layers one by one, as several ways to write rows are one network."""
  if not isinstance(spec, stage_tables.Table):
    return spec
  rows = [dataclasses.replace(row, joined=False) for row in stage_tables.unroll(spec.rows)]
  return dataclasses.replace(spec, rows=tuple(rows))


@pytest.mark.parametrize("name", NAMES)
def test_every_space(name):
  made = spaces.create(name)
  assert made.name == name and spaces.create(name).version == made.version
  assert space.Space.from_json(made.to_json()).version == made.version
  rng = np.random.default_rng(0)
  tokens = made.sample(rng)
  for _ in range(10):
    made.validate(tokens)
    spec = made.decode(tokens)
    assert plain(made.decode(made.encode(spec))) == plain(spec)
    changed = made.mutate(tokens, rng)
    assert changed != tokens
    tokens = changed
  assert made.count_unique() <= made.count_raw()


def test_versions_differ():
  assert len({spaces.create(name).version for name in NAMES}) == len(NAMES)
  plain = spaces.create("mnas")
  assert spaces.create("mnas", activation="swish").version != plain.version
  kept = spaces.create("mnas", squeezes=[0])  # a list, as a config has it
  assert space.Space.from_json(kept.to_json()).version == kept.version != plain.version


def test_wrong_names():
  with pytest.raises(errors.UserError, match=r"space='mnaz' is not a space. Nearest: 'mnas'"):
    spaces.create("mnaz")
  with pytest.raises(
    errors.UserError, match=r"'activatoin' is not a setting of 'mnas'. Nearest: 'ac"
  ):
    spaces.create("mnas", activatoin="relu")
  with pytest.raises(errors.UserError, match="'nb201' are no networks"):
    spaces.network(spaces.create("nb201"), (0,) * 6)


# Other numbers of blocks, offsets or channels than the space has.
OUTSIDE = {
  ("spinenet_vertex", "spinenet_49"),
  ("spinenet_vertex", "spinenet_r0_sp53"),
  ("spinenet_vertex_v2", "spinenet_49"),
  ("spinenet_vertex_v2", "spinenet_r0_sp53"),
  ("mnasfpn_no_expand", "mnasfpn_mobilenetv2"),
  ("assemblenet_tiny", "assemblenet_50"),
  ("assemblenet_growing_tiny", "assemblenet_50"),
}
KNOWN = [(name, network) for name in NAMES for network in spaces.create(name).known]
# AssembleNet, with trained edges, is compared in `graphs_test` and `growing_test`; larger spaces
# of the same networks add nothing.
ELSEWHERE = ("assemblenet", "assemblenet_growing", "spinenet_all", "mnasfpn_conn_search")
PUBLISHED = [pair for pair in KNOWN if pair not in OUTSIDE and pair[0] not in ELSEWHERE]


def test_what_is_outside():
  for name, network in OUTSIDE:
    assert (name, network) in KNOWN and network not in spaces.create(name).published


@pytest.mark.parametrize("name,network", PUBLISHED)
def test_published_networks_have_the_parameters_of_the_zoo(name, network):
  made, entry = spaces.create(name), models.entry(network)
  tokens = made.published[network]
  overrides = {} if made.kind == "table" else {"model": network}
  module = spaces.network(made, tokens, entry.num_classes, **overrides)
  if made.kind == "table":
    count = models.count(module, entry.image_size)
    assert count.madds == pytest.approx(entry.madds, rel=1e-3)
  else:
    # Their multiply-adds come from the same module as the zoo's.
    shapes = models.abstract(module, 128)
    count = models.counting.Count(models.counting.parameters(shapes["params"]), 0)
  assert count.params == entry.params
  assert made.key(made.encode(made.decode(tokens))) == made.key(tokens)


def test_all_that_was_found_is_there():
  found = {network for _, network in PUBLISHED}
  assert found >= {
    "mnasnet_a1",
    "mnasnet_b1",
    "efficientnet_b0",
    "mobilenetv2",
    "mnasnet_small",
    "mixnet_s",
    "spinenet_49",
    "spinenet_mobile_49",
    "mnasfpn_mobilenetv2",
    "retinanet_r50_nasfpn",
    "nasfpnlite_mobilenetv2",
  }
