"""AssembleNet against the counts and shapes of the sheet, graphs against each other."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models, ops, zoo
from effnets.models import assemblenet, counting
from effnets.models import assemblenet_graphs as graphs

PUBLISHED = ("assemblenet_50", "assemblenet_101")


@pytest.mark.parametrize(
  ("classes", "of_50", "of_101"),
  [
    (157, 36_900_957, 53_122_909),
    pytest.param(339, 37_273_875, 53_309_459, marks=pytest.mark.slow),
    pytest.param(400, 37_398_864, 53_371_984, marks=pytest.mark.slow),
    pytest.param(600, 37_808_664, 53_576_984, marks=pytest.mark.slow),
    pytest.param(101, 36_786_213, 53_065_509, marks=pytest.mark.slow),
  ],
)
def test_parameters(classes, of_50, of_101):
  for name, params in zip(PUBLISHED, (of_50, of_101), strict=True):
    module = models.create(name, classes, edges="fixed")
    assert counting.parameters(models.abstract(module)["params"]) == params


def test_edges_moments_and_multiply_adds():
  for name, backbone, moments, madds in (
    ("assemblenet_50", 36_579_264, 86_656, 250_453_223_424),
    ("assemblenet_101", 52_961_984, 150_912, 397_194_982_400),
  ):
    count = models.count(models.create(name, 157, edges="learned"))
    params = dict(count.shapes["params"])
    head = counting.parameters(params.pop("classifier"))
    edges = sum(node["edges"].size for node in params.values() if "edges" in node)
    assert edges == 28 and count.params - head - edges == backbone
    assert counting.parameters(count.shapes["batch_stats"]) == moments
    assert count.madds == madds


@pytest.mark.parametrize(
  ("graph", "counts"),
  [
    ("assemblenet_50", (20_157_789, 26_796_381, 36_900_957, 53_452_893, 61_204_573, 83_273_821)),
    pytest.param(
      "assemblenet_101",
      (10_876_765, 15_743_325, 21_582_941, 32_818_781, 38_141_789, 53_122_909),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_depths(graph, counts):
  for depth, params in zip((26, 38, 50, 68, 77, 101), counts, strict=True):
    module = assemblenet.build(
      graph=graph, depth=depth, edges="fixed", num_classes=157, image_size=64, frames=1
    )
    assert counting.parameters(models.abstract(module)["params"]) == params


_NODES = """
9952 9952 3200 3200 102976 102976 102976 102976 589824 589824 589824 589824
"""


def test_parameters_and_shapes_of_nodes():
  own = {
    "assemblenet_50": (8_376_320, 8_343_552, 17_061_888, 1024, 2048),
    "assemblenet_101": (21_520_512, 21_487_744, 7_156_224, 768, 1024),
  }
  for name, (*last, wide, final) in own.items():
    module = models.create(name)
    variables = models.abstract(module)
    expected = [*map(int, _NODES.split()), *last]
    found = [counting.parameters(variables["params"][f"node_{i}"]) for i in range(15)]
    assert found == expected
    sizes = ((224, (56, 28, 14, 7)), (256, (64, 32, 16, 8)))
    for size, sides in sizes[: 1 if name == "assemblenet_101" else 2]:
      clip = jax.ShapeDtypeStruct((1, 3, size, size, 3), jnp.float32)
      ends = jax.eval_shape(
        lambda v, x, m=module: m.apply(v, x, method="features"), variables, clip
      )
      for i, end in enumerate(ends[f"node_{n}"] for n in range(15)):
        level = max(0, (i >= 8) + (i >= 12) + (i >= 14))
        channels = 32 if i < 4 else (128, 256, wide, final)[level]
        assert end.shape == (1, 3, sides[level], sides[level], channels)


def test_published_graphs():
  graph = graphs.ASSEMBLENET_50
  assert len(graph.edges) == 30 and len(graph.weighted) == 28
  inputs = [len(graph.nodes[i].inputs) for i in (6, 7, 8, 9, 10, 11, 12, 13, 14)]
  assert inputs == [4, 2, 5, 4, 3, 2, 4, 2, 2]
  assert graph.structure()[8] == [1, [0, 4, 5, 6, 7], 64, 2, 2, 0]
  assert graph.structure()[0] == [-1, 4] and graph.structure()[14] == [3, [12, 13], 512, 2, 2, 0]
  assert len(graphs.KNOWN["assemblenet_full"].edges) == 86
  graphs.check_weights(graph, graphs.PUBLISHED_WEIGHTS)
  logits = [-math.log(1 / w - 1) for w in graphs.PUBLISHED_WEIGHTS[6]]
  np.testing.assert_allclose(logits, (-1.83111, 1.70767, -0.81279, -0.91125), atol=1e-5)


def walked(graph, *, classes, depth, inner, stem_channels, frames, size):
  """Returns parameters and multiply-adds by walking the list of nodes."""
  stems = sum(node.kind != "block" for node in graph.nodes)
  width = stem_channels // stems
  params = madds = 0
  made = []

  def conv(taps, inputs, outputs, pixels, norm=True):
    nonlocal params, madds
    params += taps * inputs * outputs + (2 * outputs if norm else 0)
    madds += taps * inputs * outputs * pixels * frames

  for node in graph.nodes:
    if node.kind != "block":
      conv(49, 3 if node.kind == "rgb" else 2, width, (size // 2) ** 2)
      if node.kind == "rgb":
        conv(5, width, width, (size // 2) ** 2)
      made.append((width, size // 4))
      continue
    channels, side = zip(*(made[i] for i in node.inputs), strict=True)
    if len(node.inputs) > 1:
      params += len(node.inputs)
      for narrow in set(channels) - {max(channels)}:
        conv(1, narrow, max(channels), min(side) ** 2, norm=False)
    c, side, f = max(channels), min(side), node.filters
    stride = 2 if node.level else 1
    for unit in range(assemblenet.REPEATS[depth][node.level]):
      out = side // stride if unit == 0 else side
      conv(3 if unit % 2 else 1, c, f, side**2)
      conv(9, f, inner[node.level], out**2)
      conv(1, inner[node.level], 4 * f, out**2)
      if unit == 0:
        conv(1, c, 4 * f, out**2)
      c, side = 4 * f, out
    made.append((c, side))
  top = made[-1][0]
  return params + (top + 1) * classes, madds + top * classes


_SLOW = ("assemblenet_101", "assemblenet_full", "two_stream50")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ())
    for name in models.list_models(task="video")
  ],
)
def test_entries(name):
  entry, module = models.entry(name), models.create(name)
  assert module.num_classes == entry.num_classes
  assert (module.frames, module.image_size) == (entry.frames, entry.image_size)
  count = models.count(module)
  assert (count.params, count.madds) == (entry.params, entry.madds)
  depth = next(d for d, repeats in assemblenet.REPEATS.items() if repeats == module.repeats)
  sizes = {"classes": entry.num_classes, "depth": depth, "inner": module.inner}
  sizes |= {"stem_channels": module.stem_channels, "frames": module.frames}
  params, madds = walked(module.graph, size=module.image_size, **sizes)
  assert count.params == params - (28 if module.weights else 0)
  assert count.madds == madds


def test_the_zoo_shows_frames(capsys):
  assert zoo.main(["assemblenet_tiny"]) == 0
  assert "16x32x32" in capsys.readouterr().out


def small(graph, **settings):
  return assemblenet.build(
    graph=graph, num_classes=3, inner=(4, 4, 4, 4), stem_channels=4, depth=26, **settings
  )


def run(module, variables, clips, **keywords):
  return jax.jit(lambda v, x: module.apply(v, x, **keywords))(variables, clips)


def drawn(shape=(2, 3, 16, 16, 3), seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_heads_over_time():
  graph = graphs.parse([[-1, 1], [0, [0], 2, 1, 1, 0]])
  clips, soft, mean = drawn(), small(graph, pool="softmax"), small(graph)
  variables = models.init(soft, 0, inputs=(clips,))
  frames = mean.apply(variables, clips, method="features")["frame_features"]
  dense = variables["params"]["classifier"]
  logits = np.asarray(frames @ dense["kernel"] + dense["bias"])
  shares = np.exp(logits / math.sqrt(3))
  shares /= shares.sum(1, keepdims=True)
  np.testing.assert_allclose(run(soft, variables, clips), (logits * shares).sum(1), atol=1e-5)
  np.testing.assert_allclose(run(mean, variables, clips), logits.mean(1), atol=1e-5)
  one = clips[:, :1]
  np.testing.assert_allclose(soft.apply(variables, one), mean.apply(variables, one), atol=1e-6)


def test_a_certain_edge_is_a_single_input():
  both = graphs.parse([[-1, 1], [-1, 2], [0, [0, 1], 2, 1, 1, 0]])
  module, clips = small(both), drawn()
  variables = models.init(module, 0, inputs=(clips,))
  variables["params"]["node_2"]["edges"] = np.array([np.inf, -np.inf], np.float32)
  one = graphs.parse([[-1, 1], [0, [0], 2, 1, 1, 0]])
  params = dict(variables["params"])
  node = {name: value for name, value in params["node_2"].items() if name != "edges"}
  stats = variables["batch_stats"]
  fewer = {
    "params": {"node_0": params["node_0"], "node_1": node, "classifier": params["classifier"]},
    "batch_stats": {"node_0": stats["node_0"], "node_1": stats["node_2"]},
  }
  # The remaining stem has half of the channels that it would have alone.
  alone = small(one).clone(stem_channels=2)
  np.testing.assert_allclose(run(module, variables, clips), run(alone, fewer, clips), atol=1e-6)
  assert module.edge_weights(variables["params"])[2] == (1.0, 0.0)


def test_a_masked_edge_is_none():
  # A wider graph than the one kept, of other channel counts, so that fusions have convolutions.
  wide = graphs.parse(
    [[-1, 1], [-1, 2], [0, [0, 1], 2, 1, 1, 0], [0, [0, 1], 2, 2, 1, 0]]
    + [[1, [0, 1, 2, 3], 3, 1, 2, 0]]
  )
  kept = tuple(edge for edge in wide.edges if edge != (3, 4))
  clips, module = drawn(), small(wide, masked=True)
  variables = models.init(module, 0, inputs=(clips,))
  variables["params"]["node_4"]["edges"] = np.array([0.3, -1.0, 2.0, 0.5], np.float32)
  # Blocks begin as their shortcuts; scales of one let all of their convolutions take part.
  variables["params"] = jax.tree_util.tree_map_with_path(
    lambda path, x: np.ones_like(x) if path[-1].key == "scale" else x, variables["params"]
  )
  closed = dict(variables, graph=assemblenet.masks(wide, kept))
  nodes = list(wide.structure())
  nodes[4] = [1, [0, 1, 2], 3, 1, 2, 0]
  without = {name: dict(tree) for name, tree in variables.items() if name != "graph"}
  for tree in without.values():
    tree.pop("node_3")
    tree["node_3"] = tree.pop("node_4")
  del nodes[3]
  edges = without["params"]["node_3"]["edges"][:3]
  without["params"]["node_3"] = {**without["params"]["node_3"], "edges": edges}
  less = small(graphs.parse(nodes))
  expected = run(less, without, clips)
  np.testing.assert_allclose(run(module, closed, clips), expected, atol=1e-6)
  assert np.abs(run(module, variables, clips) - expected).max() > 1e-4
  with pytest.raises(errors.UserError, match=r"edges \[\(0, 9\)\] are not in the graph"):
    assemblenet.masks(wide, ((0, 9),))


def test_flow_is_given_or_computed():
  graph, clips = graphs.parse([[-2, 1], [0, [0], 2, 1, 1, 0]]), drawn()
  inside = small(graph, flow_iterations=5)
  variables = models.init(inside, 0, inputs=(clips,))
  outside = small(graph, flow="given")
  assert len(outside.abstract_inputs()) == 2 and len(inside.abstract_inputs()) == 1
  flow = ops.flow.representation_flow(clips, iterations=5)
  expected = outside.apply(variables, clips, flow)
  np.testing.assert_allclose(run(inside, variables, clips), expected, atol=1e-6)
  with pytest.raises(ValueError, match="takes flow"):
    outside.apply(variables, clips)


def test_any_graph_trains():
  # Random graphs over several nodes a level, of any filters and dilations.
  rng = np.random.default_rng(1)
  for _ in range(3):
    nodes = [graphs.Node(-1, kind, int(rng.choice([1, 2, 4]))) for kind in ("rgb", "rgb", "flow")]
    for level in range(4):
      for _ in range(rng.integers(1, 4)):
        before = [i for i, node in enumerate(nodes) if node.level < level]
        inputs = tuple(sorted(rng.choice(before, rng.integers(1, len(before) + 1), replace=False)))
        dilation, filters = int(rng.choice([1, 2, 4, 8])), int(rng.choice([2, 4, 6]))
        nodes.append(graphs.Node(level, "block", dilation, tuple(map(int, inputs)), filters))
    used = {i for node in nodes for i in node.inputs}
    final = {i for i, node in enumerate(nodes) if node.level == 3}
    idle = set(range(len(nodes))) - used - final
    nodes = [
      graphs.dataclasses.replace(node, inputs=tuple(sorted({*node.inputs, *idle})))
      if i == max(final)
      else node
      for i, node in enumerate(nodes)
    ]
    graph = graphs.Assembly(tuple(nodes))
    module = small(graph, frames=5, image_size=50, flow_iterations=2)
    shapes = models.abstract(module)
    state = {name: tree for name, tree in shapes.items() if name != "params"}

    def loss(params, state, clips, module=module):
      logits, _ = module.apply(
        {"params": params, **state}, clips, train=True, mutable=["batch_stats"]
      )
      return logits.sum()

    grads = jax.eval_shape(jax.grad(loss), shapes["params"], state, *module.abstract_inputs())
    assert jax.tree.structure(grads) == jax.tree.structure(shapes["params"])
    again, weights = graphs.read(graphs.text(graph))
    assert again == graph and weights is None


def test_graphs_are_written_and_read(tmp_path):
  path = tmp_path / "graph.json"
  graphs.write(path, graphs.ASSEMBLENET_50, graphs.PUBLISHED_WEIGHTS)
  assert graphs.read(str(path)) == (graphs.ASSEMBLENET_50, graphs.PUBLISHED_WEIGHTS)
  official = [[list(w)] if w else [] for w in graphs.PUBLISHED_WEIGHTS]
  nested = {"structure": graphs.ASSEMBLENET_50.structure(), "edge_weights": official}
  assert graphs.read(json.dumps(nested))[1] == graphs.PUBLISHED_WEIGHTS
  drawing = graphs.dot(graphs.ASSEMBLENET_50, graphs.PUBLISHED_WEIGHTS)
  assert drawing.count("->") == 30 and 'n13 -> n14 [penwidth=2.54, label="0.85"]' in drawing


@pytest.mark.parametrize(
  ("nodes", "words"),
  [
    ([[-1, 1]], "there is no block"),
    ([[-1, 0], [0, [0], 2, 1, 1, 0]], "node 0 has dilation 0"),
    ([[-1, 1], [0, [], 2, 1, 1, 0]], r"node 1 has inputs \(\); it takes one or more of \(0,\)"),
    ([[-1, 1], [0, [1], 2, 1, 1, 0]], r"node 1 has inputs \(1,\)"),
    ([[-1, 1], [0, [0], 2, 1, 1, 0], [0, [1], 2, 1, 1, 0]], r"node 2 has inputs \(1,\)"),
    ([[-1, 1], [4, [0], 2, 1, 1, 0]], "node 1 is on level 4; there are 0 to 3"),
    ([[-1, 1], [0, [0], 0, 1, 1, 0]], "node 1 has 0 filters"),
    ([[-1, 1], [-1, 1], [0, [0], 2, 1, 1, 0]], "node 1 leads nowhere"),
    ([[-3, 1], [0, [0], 2, 1, 1, 0]], "is no graph.*KeyError: -3"),
  ],
)
def test_impossible_graphs(nodes, words):
  with pytest.raises(errors.UserError, match=f"config.model.graph.*{words}"):
    models.create("assemblenet_tiny", graph=json.dumps(nodes))


def test_impossible_settings(tmp_path):
  bad = tmp_path / "bad.json"
  graph = [[-1, 1], [-1, 1], [0, [0, 1], 2, 1, 1, 0]]
  for weights, words in (
    ([[], []], "2 lists for 3 nodes"),
    ([[], [], [0.5]], r"node 2 has 1 edge_weights; its 2 input\(s\) take 2"),
    ([[], [], [0.5, 1.5]], "node 2 has the edge weight 1.5"),
  ):
    bad.write_text(json.dumps({"structure": graph, "edge_weights": weights}))
    with pytest.raises(errors.UserError, match=words):
      graphs.read(str(bad))
  for settings, words in (
    ({"graph": "assemblenet_5"}, "is not a graph or a JSON file.*Nearest: 'assemblenet_50'"),
    ({"graph": str(tmp_path / "none.json")}, "cannot be read"),
    ({"depth": 51}, "config.model.depth=51 is not a valid choice"),
    ({"edges": "fixed"}, "config.model.edges='fixed' needs a graph with edge_weights"),
    ({"pool": "max"}, "config.model.pool='max'"),
    ({"inner": (8, 16)}, "config.model.inner=.* levels 0 to 2"),
    ({"dropout_rate": 1.0}, "config.model.dropout_rate=1.0"),
    ({"dtype": "float16"}, "config.model.dtype='float16'"),
    ({"frames": 0}, "config.model.frames=0"),
  ):
    with pytest.raises(errors.UserError, match=words):
      models.create("assemblenet_tiny", **settings)
