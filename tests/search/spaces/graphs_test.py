"""Spaces of graphs: SpineNet, pyramids, AssembleNet; the sheets' counts, brute force."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from effnets import errors, models
from effnets.models import assemblenet_graphs, counting, mnasfpn, pyramids, scale_permuted
from effnets.search import spaces
from effnets.search.spaces import necks, spine

PAIRS = 834_966_920_275_488_000_000  # of parents, without a window
NEAR = 1_062_485_424_000_000_000  # with intermediate parents among the last five


def test_counts_of_spinenet():
  orders = math.factorial(10) * math.factorial(5)
  assert orders == 435_456_000
  assert spaces.create("spinenet_all").count_raw() == orders * PAIRS * 4**10 * 2**15
  assert spaces.create("spinenet").count_raw() == orders * NEAR * 4**10 * 2**15
  # Without offsets and kinds, as for R0-SP53.
  plain = spaces.create("spinenet_all", offsets=(0,), kinds=("bottleneck",))
  assert plain.count_raw() == orders * PAIRS and f"{plain.count_raw():.4e}" == "3.6359e+29"
  for name, raw in (
    ("spinenet_all", "1.2493e+40"),
    ("spinenet", "1.5897e+37"),
    ("spinenet_vertex", "4.8418e+38"),
    ("spinenet_vertex_v2", "7.6478e+29"),
    ("spinenet_vertex_mbconv", "7.3880e+33"),
  ):
    assert f"{spaces.create(name).count_raw():.4e}" == raw
  assert f"{spaces.create('spinenet_vertex').count_interchangeable():.2e}" == "3.36e+35"


def _tiny_spine(**settings):
  return spine.SpineSpace(
    **{
      "allocation": ((3, 2), (4, 1)),
      "offsets": (-1, 0, 1),
      "kinds": ("bottleneck",),
      "window": 2,
      "outputs": (3,),
      **settings,
    }
  )


def test_unique_count_of_spinenet_by_brute_force():
  made = _tiny_spine()
  points = list(made.points())
  # Ordered pairs of parents: one of two orders each.
  assert len(points) == made.count_raw() * 2**4
  assert made.count_unique() == len({made.key(tokens) for tokens in points})
  assert made.count_unique() < made.count_interchangeable() < made.count_raw()


def test_equal_levels_are_one():
  made = spaces.create("spinenet")
  tokens = list(made.published["spinenet_49"])
  item = lambda place: tokens[made.index[f"slot{place}.item"]]  # noqa: E731
  same = [p for p in range(10) if made.base[item(p)] == 4]
  first, second = (made.index[f"slot{p}.item"] for p in same[:2])
  offsets = [made.index[f"slot{p}.offset"] for p in same[:2]]
  swapped = list(tokens)
  swapped[first], swapped[second] = tokens[second], tokens[first]
  assert swapped != tokens and made.key(swapped) == made.key(tokens)
  assert made.decode(swapped) == made.decode(tokens) == scale_permuted.SPINENET
  # A level that another item reaches by another offset is the same too.
  other = list(tokens)
  three = next(p for p in range(10) if made.base[item(p)] == 3)
  places = [made.index[f"slot{p}.item"] for p in (three, same[0])]
  shifts = [made.index[f"slot{three}.offset"], offsets[0]]
  other[places[0]], other[places[1]] = other[places[1]], other[places[0]]
  other[shifts[0]] -= 1
  other[shifts[1]] += 1
  if min(other[s] for s in shifts) >= 0 and max(other[s] for s in shifts) < 4:
    assert made.key(other) == made.key(tokens)
  # Parents have no order.
  place = made.index["block9.parent0"]
  tokens[place], tokens[place + 1] = tokens[place + 1], tokens[place]
  assert made.key(tokens) == made.key(swapped)


def test_spinenet_49_needs_a_window_of_four():
  graph = scale_permuted.SPINENET
  for window in (4, 5, 0):
    made = spaces.create("spinenet", window=window)
    assert made.decode(made.encode(graph)) == graph
  with pytest.raises(errors.UserError, match="block 7 has parents"):
    spaces.create("spinenet", window=3).encode(graph)
  assert "spinenet_49" not in spaces.create("spinenet", window=3).published
  levels = sorted(block.level for block in graph if not block.output)
  offsets = [a - b for a, b in zip(levels, [2, 3, 3, 3, 4, 4, 4, 4, 4, 5], strict=True)]
  assert set(offsets) <= {-1, 0, 1, 2}
  with pytest.raises(errors.UserError, match="with offsets"):
    spaces.create("spinenet", offsets=(0, 1)).encode(graph)


def test_connections_alone():
  levels = (2, 3, 3, 3, 4, 4, 4, 4, 4, 5, 7, 6, 5, 4, 3)  # an hourglass
  made = spaces.create("spinenet", order=levels, kinds=("bottleneck",))
  assert made.count_raw() == made.count_unique() == NEAR
  graph = made.decode(made.sample(np.random.default_rng(0)))
  assert tuple(block.level for block in graph) == levels
  assert models.abstract(spaces.network(made, made.encode(graph), 10), 64)["params"]
  with pytest.raises(errors.UserError, match="should end with each of"):
    spaces.create("spinenet", order=(3, 3, 4))


def test_spinenet_inside_a_detector():
  made = spaces.create("spinenet_tiny")
  tokens = made.published["spinenet_tiny"]
  module = spaces.network(made, tokens, model="retinanet_spinenet_tiny")
  assert models.count(module).params == models.entry("retinanet_spinenet_tiny").params
  tokens = made.sample(np.random.default_rng(1))
  module = spaces.network(made, tokens, model="retinanet_spinenet_tiny")
  params = models.abstract(module, 128)["params"]["backbone"]
  for number, block in enumerate(made.decode(tokens), scale_permuted.STEM):
    found = {name.split("_")[1] for name in params[f"block_{number}"] if name.startswith("from_")}
    assert found == set(map(str, block.parents))


def test_counts_of_pyramids():
  pairs = math.prod(math.comb(5 + i, 2) for i in range(7))
  assert spaces.create("nasfpn").count_raw() == 1_931_334_451_200_000 == 4**2 * 2**7 * pairs * 120
  pairs = math.prod(math.comb(4 + i, 2) for i in range(15))
  assert spaces.create("nasfpn_lite").count_raw() == 3**11 * 2**15 * pairs * 24
  made = spaces.create("mnasfpn")
  inner = math.prod(math.comb(4 + b, 2) * 4 * 2 * 2 * len(necks.EXPANDS) for b in range(5))
  outer = math.prod(math.comb(4 + b, 2) * 2 * 2 * len(necks.EXPANDS) for b in range(5, 9))
  assert made.count_raw() == len(necks.WIDTHS) * inner * outer


def test_nasfpn_cell():
  made = spaces.create("nasfpn")
  tokens = made.published["retinanet_r50_nasfpn"]
  assert made.decode(tokens) == pyramids.FOUND
  assert pyramids.merged((3, 4, 5, 6, 7), pyramids.FOUND) == pyramids.nasfpn((3, 4, 5, 6, 7))
  # Level 3 may not be among the first two, nor an output twice.
  wrong = [pyramids.Merge(3, "sum", (1, 3)), *pyramids.FOUND[1:]]
  with pytest.raises(errors.UserError, match="cell0.level=3 is outside"):
    made.encode(tuple(wrong))
  place = made.index["cell6.output"]
  with pytest.raises(errors.UserError, match=r"token 27|token 26|cannot be"):
    made.validate((*tokens[:place], tokens[made.index["cell5.output"]], *tokens[place + 1 :]))


def test_unused_features_are_added_to_the_output_of_their_level():
  made = spaces.create("nasfpn_tiny")
  rng = np.random.default_rng(0)
  for _ in range(20):
    cells = made.decode(made.sample(rng))
    nodes = pyramids.merged((3, 4, 5, 6), cells)
    used = {i for node in nodes for i in node.inputs}
    levels = [3, 4, 5, 6, *(cell.level for cell in cells)]
    outputs = {level: 4 + i for i, c in enumerate(cells) for level in [c.level] if c.output}
    for feature, level in enumerate(levels):
      assert feature in used or feature >= outputs[level]


def _tiny_cell(most=2):
  return necks.CellSpace(
    widths=(16,),
    expands=(),
    merges=("add",),
    kernels=(3,),
    most=most,
    inner=1,
    model="mnasfpn_tiny",
  )


@pytest.mark.parametrize("most", [2, 3])
def test_unique_count_of_mnasfpn_by_inclusion_and_exclusion(most):
  # The four outputs are too many to list, so their pairs are: which of them use the inner block.
  made = _tiny_cell(most)
  ways = lambda n: sum(math.comb(n, size) for size in range(2, most + 1))  # noqa: E731
  unused = math.prod(ways(n) for n in (4, 5, 6, 7))
  outputs, used = [(5, 6, 7, 8)], 0
  sets = [
    [s for k in range(2, most + 1) for s in itertools.combinations(range(n), k)] for n in outputs[0]
  ]
  with_inner = [sum(4 in s for s in options) for options in sets]
  for chosen in itertools.product((True, False), repeat=4):
    if any(chosen):
      used += math.prod(
        w if c else len(s) - w for c, w, s in zip(chosen, with_inner, sets, strict=True)
      )
  assert made.count_unique() == unused + ways(4) * 4 * used


def test_unused_blocks_of_mnasfpn_are_left_out():
  made = spaces.create("mnasfpn")
  tokens = made.published["mnasfpn_mobilenetv2"]
  # Two inputs have no order.
  blocks = [dataclasses.replace(b, inputs=tuple(sorted(b.inputs))) for b in mnasfpn.FOUND]
  assert made.decode(tokens) == mnasfpn.Spec(tuple(blocks))
  # Blocks 5 to 8 are inner ones that nothing uses.
  for name, token in (("block6.level", 3), ("block7.expand", 5), ("block8.merge", 1)):
    changed = made.change(tokens, made.index[name], token)
    assert changed != tokens and made.key(changed) == made.key(tokens)
  changed = made.change(tokens, made.index["block4.expand"], 0)
  assert made.key(changed) != made.key(tokens)


def test_ablations_of_mnasfpn():
  made = spaces.create("mnasfpn_no_expand")
  assert not any(d.kind == "expand" for d in made.decisions)
  spec = made.decode(made.sample(np.random.default_rng(0)))
  assert not spec.expanded and {b.expand for b in spec.blocks} == {spec.width}
  made = spaces.create("mnasfpn_conn_search")
  assert made.count_unique() > spaces.create("mnasfpn").count_unique()
  rng, sizes = np.random.default_rng(0), set()
  for _ in range(30):
    for block in made.decode(made.sample(rng)).blocks:
      assert block.merge == "add" and len(set(block.inputs)) == len(block.inputs)
      sizes.add(len(block.inputs))
  assert sizes == {2, 3, 4}
  with pytest.raises(errors.UserError, match="most=5"):
    spaces.create("mnasfpn_conn_search", most=5)


def test_assemblenet():
  made = spaces.create("assemblenet")
  assert len(made.edges) == 16 + 32 + 24 + 14 == 86
  tokens = made.published["assemblenet_50"]
  assert len(made.edges_of(tokens)) == 30
  graph = made.decode(tokens)
  assert graph == assemblenet_graphs.ASSEMBLENET_50
  assert assemblenet_graphs.parse(graph.structure()) == graph
  structure = json.loads(json.dumps(graph.structure()))
  assert structure[8] == [1, [0, 4, 5, 6, 7], 64, 2, 2, 0] and structure[2] == [-2, 1]


def test_the_published_assemblenet_is_the_zoos():
  made = spaces.create("assemblenet")
  module = spaces.network(made, made.published["assemblenet_50"])
  # The zoo's weights of edges are those that the search found; here 28 of them are learned.
  assert counting.count(module).params == models.entry("assemblenet_50").params + 28


def test_counts_of_assemblenet_by_brute_force():
  made = spaces.create(
    "assemblenet_tiny", stems=("rgb", "flow"), counts=(2, 1, 1), filters=(4, 8, 16)
  )
  assert made.count_raw() == sum(1 for _ in made.points())


def test_edges_come_back_where_a_node_would_be_alone():
  made = spaces.create("assemblenet")
  tokens = made.published["assemblenet_50"]
  strength = {edge: 1.0 / (1 + i) for i, edge in enumerate(made.edges)}
  changed = made.with_edges(tokens, [(12, 14)], strength)
  made.validate(changed)
  edges = set(made.edges_of(changed))
  for number in range(4, 15):
    incoming = [e for e in made.edges if e[1] == number]
    assert max(incoming, key=strength.get) in edges or any(e in edges for e in incoming)
  assert {source for source, _ in edges} == set(range(14))
  assert made.with_edges(tokens, made.edges_of(tokens)) == tokens
  with pytest.raises(errors.UserError, match=r"\(14, 4\)"):
    made.with_edges(tokens, [(14, 4)])
