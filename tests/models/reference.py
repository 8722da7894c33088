"""Weights and outputs of other implementations, for tests of whole networks.

Two fillings, both the same on every machine: by hash of a tensor's number in execution order (the
papers' sheets print outputs for it), and by the tensor's name in timm (files in `data/` hold
timm's outputs in float64).
"""

import json
import math
import pathlib

import jax
import numpy as np

from effnets import models
from effnets.models import stage_tables
from tests.oracle import recipe


def noise(number, shape):
  """Returns float64 values in [-1, 1) from a tensor's number."""
  index = np.arange(math.prod(shape), dtype=np.uint64)
  low = np.uint64(0xFFFFFFFF)
  h = (index * np.uint64(2654435761) + np.uint64(97531 * number + 12345)) & low
  h ^= h >> np.uint64(16)
  h = (h * np.uint64(0x45D9F3B)) & low
  h ^= h >> np.uint64(16)
  return (2 * h.astype(np.float64) / 2**32 - 1).reshape(shape)


def images(size):
  """Returns the sheets' input."""
  return noise(1_000_000, (1, size, size, 3)).astype(np.float32)


def numbered(module):
  """Returns variables filled in execution order, and the number of tensors."""
  shapes = models.abstract(module, 64)
  numbers = iter(range(100_000))

  def put(tree, name, gain, offset=0.0):
    values = offset + gain * noise(next(numbers), tree[name].shape)
    tree[name] = values.astype(np.float32)

  def fill(params, stats):
    """Fills a layer's tensors; parts and layers of a block come in the order of `places`."""
    if "kernel" in params:
      put(params, "kernel", math.sqrt(6 / math.prod(params["kernel"].shape[:-1])))
      if "bias" in params:
        put(params, "bias", 0.1)
    elif "scale" in params:
      put(params, "scale", 0.2, 1.0)
      put(params, "bias", 0.1)
      put(stats, "mean", 0.1)
      put(stats, "var", 0.5, 1.0)
    else:
      places = ("conv", "norm", "expand", "depthwise", "squeeze", "project")
      if "reduce" in params:
        places = ("reduce", "expand")
      if "0" in params:
        places = sorted(params, key=int)
      assert set(params) <= set(places)
      for place in places:
        if place in params:
          fill(params[place], stats.get(place, {}))

  params, stats = shapes["params"], shapes["batch_stats"]
  order = ["stem", *(f"block_{i}" for i in range(len(stage_tables.unroll(module.rows)))), "head"]
  for name in (*order, "hidden", "classifier"):
    if name in params:
      fill(params[name], stats.get(name, {}))
  return shapes, next(numbers)


def run(module, variables, batch, *, quick=False):
  """Returns logits and end points in float64; quick: the compiler makes no effort."""

  def function(variables, batch):
    ends = module.apply(variables, batch, method="features")
    kept = {name: ends[name] for name in ("features", "pooled_features")}
    kept["last"] = ends.get("head_1x1", ends["features"])
    return module.apply(variables, batch), kept

  options = {"xla_backend_optimization_level": 0} if quick else {}
  compiled = jax.jit(function, compiler_options=options)
  return jax.tree.map(lambda x: np.asarray(x, np.float64), compiled(variables, batch))


def assert_golden(module, want, *, place="features", size=224):
  """Compares with a sheet's row: tensors, five logits, mean, std, argmax, mean and std of `place`.

  The sheets print five digits, and ask for 1e-3 of the logits' deviation in float32.
  """
  tensors, first, mean, std, best, place_mean, place_std = want
  variables, used = numbered(module)
  assert used == tensors
  logits, ends = run(module.clone(plain=True), variables, images(size), quick=True)
  np.testing.assert_allclose(logits[0, :5], first, atol=1e-3 * std, rtol=1e-4)
  assert logits.argmax() == best
  end = ends[place]
  got = (logits.mean(), logits.std()), (end.mean(), end.std())
  np.testing.assert_allclose(got[0], (mean, std), atol=1e-3 * std)
  np.testing.assert_allclose(got[1], (place_mean, place_std), atol=1e-3 * place_std)


# ---- timm ----------------------------------------------------------------------------------------


def timm_names(module, shapes):
  """Returns timm's name of every leaf, by its path (collection, scopes and leaf)."""
  stages = stage_tables.stages(stage_tables.unroll(module.rows))
  places = [(s, r) for s, stage in enumerate(stages) for r in range(len(stage))]
  params = shapes["params"]
  last = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var"}

  def layer(scope):
    """Returns the name of the layer at `scope`, without the part's number and the leaf."""
    top, *rest = scope
    norm = rest[-1:] == ["norm"]
    if top == "stem":
      return "bn1" if norm else "conv_stem"
    if top == "head" and module.hidden:  # then the last 1x1 is a stage, and the hidden layer `head`
      return f"blocks.{len(stages)}.0." + ("bn1" if norm else "conv")
    if top == "head":
      return "bn2" if norm else "conv_head"
    if top in ("hidden", "classifier"):
      return {"hidden": "conv_head"}.get(top, top)
    prefix = "blocks.{}.{}.".format(*places[int(top.removeprefix("block_"))])
    if rest[0] == "squeeze":
      return f"{prefix}se.conv_{rest[1]}"
    wide = "expand" in params[top]
    order = ("expand", "depthwise", "project") if wide else ("depthwise", "project")
    if norm:
      return f"{prefix}bn{order.index(rest[0]) + 1}"
    point = "conv_pwl" if wide else "conv_pw"
    return prefix + {"expand": "conv_pw", "depthwise": "conv_dw", "project": point}[rest[0]]

  def name(path):
    _, *scope, leaf = (key.key for key in path)
    part = f".{scope.pop()}" if scope[-1].isdigit() else ""
    return f"{layer(scope)}{part}.{last.get(leaf, leaf)}"

  return jax.tree_util.tree_map_with_path(lambda path, _: name(path), shapes)


def assert_equals_timm(module, file, *, tolerance=1e-4):
  """Compares names, shapes, logits and pooled features with `data/<file>.npz`."""
  with np.load(pathlib.Path(__file__).parent.parent / "oracle" / f"{file}.npz") as stored:
    oracle = {name: stored[name] for name in stored.files}
  shapes = models.abstract(module, 64)
  names = timm_names(module, shapes)
  gain = float(oracle["gain"])
  found = {}

  def value(name, leaf):
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(leaf.shape)]
    back = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[len(leaf.shape)]
    shape = tuple(leaf.shape[axis] for axis in order)
    found[name] = shape
    return recipe.tensor(name, shape, gain).transpose(back).astype(np.float32)

  variables = jax.tree.map(value, names, shapes)
  stored_names = {n: tuple(s) for n, s in json.loads(str(oracle["names"])) if "num_b" not in n}
  assert found == stored_names
  size, batch = int(oracle["size"]), int(oracle["batch"])
  pictures = np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)
  logits, ends = run(module, variables, pictures, quick=module.plain)
  for got, want in ((logits, oracle["logits"]), (ends["pooled_features"], oracle["features_mean"])):
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < tolerance
