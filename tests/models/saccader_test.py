"""Saccader, DRAM and networks on patches: the sheet's counts, shapes, what they look at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, saccader


def _counted(shapes):
  return [counting.parameters(shapes[kind]) for kind in ("params", "batch_stats")]


def test_counts_and_shapes_of_the_paper():
  module = models.create("saccader")
  count = models.count(module, method="maps")
  shapes = count.shapes
  assert _counted(shapes) == [35_523_625, 60_288]
  assert counting.parameters(shapes) - counting.parameters(shapes["params"]) == 60_288
  parts = {name: counting.parameters(part) for name, part in shapes["params"].items()}
  where = sum(number for name, number in parts.items() if name.startswith("where_"))
  assert (where, parts["mix"], parts["cell"]) == (14_424_064, 524_800, 512)
  body = models.count(module.body.module, method="patches")
  assert count.madds - body.madds == pytest.approx(5.394e9, abs=0.5e6)
  images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
  ends = jax.eval_shape(lambda v, x: module.apply(v, x, method="maps"), shapes, images)
  sizes = {name: end.shape[3] for name, end in ends.items() if end.ndim == 4}
  assert sizes == {
    **{"features2d": 2048, "what_features2d": 512, "logits2d": 1001},
    **{"where_features2d": 512, "mixed_features2d": 512},
  }
  assert {end.shape[:3] for end in ends.values() if end.ndim == 4} == {(2, 19, 19)}
  large = models.abstract(models.create("saccader", image_size=331))
  assert _counted(large) == _counted(shapes) and module.grid(331) == 32


def test_counts_of_the_baseline():
  shapes = models.abstract(models.create("dram"))
  assert _counted(shapes) == [45_564_779, 45_440]
  assert counting.parameters(shapes) == 45_610_219  # the paper's own figure
  assert models.create("dram").sides(224) == (77, 150, 224)


def test_a_classifier_on_patches_is_the_sum_of_both():
  module = models.create("saccader_classifier", classifier="efficientnet_b0")
  params = models.abstract(module)["params"]
  assert counting.parameters(params["locator"]) == 35_523_625
  alone = models.create("efficientnet_b0", 1001)
  assert counting.parameters(params["classifier_net"]) == models.count(alone).params
  assert module.patch_size(331) == 113 and module.frozen_names() == ("locator",)
  assert models.create("saccader_classifier", patch=77).patch_size(331) == 77


@pytest.fixture(scope="module")
def small():
  """A Saccader with moved weights, and images of 37 pixels: a grid of 6 x 6."""
  module = models.create("saccader_mini", glimpses=5)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: (x + 0.02 * rng.random(x.shape)).astype(np.float32), models.init(module, 0)
  )
  images = rng.normal(size=(2, 37, 37, 3)).astype(np.float32)
  return module, variables, images


@pytest.fixture(scope="module")
def looked(small):
  """What every policy looks at, in one program."""
  module, variables, images = small
  keys = jax.random.split(jax.random.key(0), 2)

  def run(variables, images):
    every = {
      policy: module.apply(variables, images, policy=policy, keys=keys, method="look")
      for policy in saccader.POLICIES
    }
    return every, module.apply(variables, images, method="maps")

  return jax.device_get(jax.jit(run)(variables, images))


@pytest.mark.parametrize("policy", saccader.POLICIES)
def test_what_a_policy_finds(looked, policy):
  every, maps = looked
  found, values = every[policy], maps["logits2d"].reshape(2, 36, 10)
  for b in range(2):
    places = found["places"][b]
    np.testing.assert_array_equal(found["patch_logits"][b], values[b, places])
    corners = np.stack([places // 6, places % 6], -1) * 2 / 5 - 1
    np.testing.assert_allclose(found["locations"][b], corners, atol=1e-6)
    if policy not in ("random", "centre"):
      assert len(set(places.tolist())) == 5
  np.testing.assert_allclose(found["logits"], found["patch_logits"].mean(1), rtol=1e-5)
  if policy == "learned":
    assert (found["location_logits"].argmax(-1) == found["places"]).all()
    for b in range(2):
      for t in range(5):
        assert (found["location_logits"][b, t, found["places"][b, :t]] < -9e4).all()
  if policy == "centre":
    # The middle of six rows, 2.5, goes to the even one.
    assert (found["places"] == 2 * 6 + 2).all()


def test_pixels_outside_of_the_glimpses_do_not_matter_given_the_places(small):
  module, variables, images = small

  @jax.jit
  def run(images, places):
    ends = module.apply(variables, images, method="maps")
    return saccader.gathered(saccader.flat(ends["logits2d"]), places).mean(1)

  places = jnp.array([[0, 8, 15, 35, 21], [7, 3, 30, 31, 14]])
  seen = np.zeros((2, 37, 37, 1), np.float32)
  for b, row in enumerate(places.tolist()):
    for place in row:
      top, left, bottom, right = module.field.patch(place, 6)
      seen[b, top:bottom, left:right] = 1
  assert 0.3 < seen.mean() < 0.9
  assert (np.asarray(run(images * seen, places)) == np.asarray(run(images, places))).all()


def test_soft_attention_weighs_all_patches(small):
  module, variables, images = small
  soft = module.clone(soft_attention=True)

  @jax.jit
  def run(variables, images):
    ends = soft.apply(variables, images, method="maps")
    return soft.apply(variables, images, method="look"), ends["logits2d"]

  found, values = jax.device_get(run(variables, images))
  shares = np.asarray(jax.nn.softmax(found["location_logits"], -1))
  expected = np.einsum("btn,bnk->btk", shares, values.reshape(2, 36, 10))
  np.testing.assert_allclose(found["patch_logits"], expected, rtol=1e-4)


def test_a_fixed_backbone_gets_no_gradient(small):
  module, variables, images = small

  @jax.jit
  def run(params):
    ends, state = module.apply(
      {**variables, "params": params},
      *(images,),
      train=True,
      fixed=True,
      method="maps",
      mutable=["batch_stats"],
    )
    return sum(jnp.sum(end**2) for end in ends.values()), state["batch_stats"]

  grads, moved = jax.grad(run, has_aux=True)(variables["params"])
  assert all((g == 0).all() for g in jax.tree.leaves(grads["backbone"]))
  assert all((g != 0).any() for g in jax.tree.leaves(grads["where_0_1"]))
  same = lambda part: all(  # noqa: E731
    (a == b).all()
    for a, b in zip(
      jax.tree.leaves(moved[part]), jax.tree.leaves(variables["batch_stats"][part]), strict=True
    )
  )
  assert same("backbone") and not same("where_0_1")


def test_the_cell_is_float32_in_a_half_precision_network(small):
  module, variables, images = small
  half = module.clone(dtype="bfloat16")
  found = jax.eval_shape(lambda: half.apply(variables, images, method="maps"))
  assert found["features2d"].dtype == jnp.bfloat16
  for name in ("mixed_features2d", "logits2d", "vector"):
    assert found[name].dtype == jnp.float32


def test_what_dram_looks_at():
  module = models.create("dram_mini", glimpses=3, image_size=40, sigma=0.2)
  variables = models.init(module, 0)
  images = np.random.default_rng(0).normal(size=(2, 40, 40, 3)).astype(np.float32)
  keys = jax.random.split(jax.random.key(1), 2)

  @jax.jit
  def run(images, keys):
    drawn = module.apply(variables, images, keys=keys, method="look")
    return drawn, module.apply(variables, images, method="look")

  drawn, plain = jax.device_get(run(images, keys))
  edge = 1 - 17 / 40
  for found in (drawn, plain):
    assert found["step_logits"].shape == (2, 3, 10)
    np.testing.assert_array_equal(found["logits"], found["step_logits"][:, -1])
    np.testing.assert_allclose(found["locations"], np.clip(found["drawn"], -edge, edge))
    assert (np.abs(found["means"]) < edge).all()
  np.testing.assert_array_equal(plain["drawn"], plain["means"])
  # The first look sees everything, so the first location is the image's own.
  assert (plain["means"][0, 0] != plain["means"][1, 0]).all()
  logs = module.log_probabilities(drawn["means"], drawn["drawn"])
  expected = -((drawn["drawn"] - drawn["means"]) ** 2).sum(-1) / (2 * 0.2**2)
  np.testing.assert_allclose(logs, expected, rtol=1e-5)


def test_coarse_windows_are_their_mean_where_they_classify():
  module = models.create("dram_mini", image_size=40)
  images = np.random.default_rng(0).normal(size=(1, 40, 40, 5)).astype(np.float32)
  found, whole = (
    np.asarray(module.glimpse(jnp.asarray(images), jnp.zeros((1, 2)), limited=limited))
    for limited in (True, False)
  )
  assert found.shape == (1, 17, 17, 15)
  np.testing.assert_array_equal(found[..., :5], whole[..., :5])
  means = whole[..., 5:].mean((1, 2), keepdims=True)
  np.testing.assert_allclose(found[..., 5:], np.broadcast_to(means, (1, 17, 17, 10)), atol=1e-6)
  # The patch itself is cut without change.
  np.testing.assert_allclose(whole[0, :, :, :5], images[0, 11:28, 11:28], atol=1e-6)


@pytest.mark.parametrize(
  ("name", "settings", "words"),
  [
    ("saccader", {"glimpses": 362}, r"glimpses=362: there are 19 x 19 = 361 positions"),
    ("saccader", {"glimpses": 0}, "glimpses=0: .* give from 1 to 361"),
    ("saccader", {"policy": "lerned"}, "policy='lerned' is not a policy. Nearest: 'learned'"),
    ("saccader", {"image_size": 64}, "image_size=64: .* receptive field of 77"),
    ("saccader", {"groups": 12}, "groups=12: 2048 features cannot be halved so often"),
    ("dram", {"readout": "first"}, "readout='first' is not a readout"),
    ("dram", {"patch": 300}, "patch=300 should be from 1 to config.model.image_size=224"),
    ("saccader_classifier", {"locator": "dram"}, "locator='dram' is not a network that looks"),
    ("saccader_classifier", {"classifier": "saccader"}, "classifier='saccader' is not a classif"),
  ],
)
def test_wrong_settings(name, settings, words):
  with pytest.raises(errors.UserError, match=words):
    models.create(name, **settings)


def test_more_glimpses_than_places_when_it_looks(small):
  module, variables, images = small
  with pytest.raises(errors.UserError, match="glimpses=37: there are 6 x 6 = 36 positions"):
    jax.eval_shape(lambda: module.apply(variables, images, count=37, method="look"))
  with pytest.raises(errors.UserError, match="policy='sampled' draws; it needs a key"):
    jax.eval_shape(lambda: module.apply(variables, images, policy="sampled", method="look"))
