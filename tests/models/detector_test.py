"""Bodies, pyramids and heads in every combination, and what is said of impossible ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import heads, pyramids

_CHEAPEST = (
  "efficientnet_tiny mobilenetv1_025 mobilenetv2_035 mobilenetv3_small mnasnet_small mixnet_s "
  "resnet50 efficientnet_lite0"
).split()


@pytest.mark.parametrize("backbone", _CHEAPEST)
@pytest.mark.parametrize("pyramid", ["bifpn", "fpn", "panet", "qufpn", "nasfpn"])
def test_every_body_with_every_pyramid(backbone, pyramid):
  module = models.create(
    "efficientdet_d0", 7, backbone=backbone, pyramid=pyramid, repeats=1, width=16, head_repeats=1
  )
  images = jax.ShapeDtypeStruct((1, 70, 96, 3), jnp.float32)
  classes, boxes = jax.eval_shape(lambda x: _run(module, x), images)
  sizes = [(9, 12), (5, 6), (3, 3), (2, 2), (1, 1)]
  assert [x.shape for x in classes] == [(1, *size, 63) for size in sizes]
  assert [x.shape for x in boxes] == [(1, *size, 36) for size in sizes]


def _run(module, images):
  return module.init_with_output(jax.random.key(0), images)[0]


@pytest.mark.parametrize("name", models.list_models("*_tiny", task="classification"))
def test_tiny_bodies_end_early(name):
  # Their coarsest level is 3 or 4; the others are pooled from it.
  module = models.create("efficientdet_tiny", backbone=name)
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  classes, _ = jax.eval_shape(lambda x: _run(module, x), images)
  assert [x.shape[1] for x in classes] == [8, 4, 2, 1]


def test_own_graph():
  nodes = (pyramids.Node(3, (0, 1), "sum"), pyramids.Node(4, (1, 2), "attention"))
  module = models.create("efficientdet_tiny", nodes=nodes, max_level=4, repeats=1)
  cell = models.abstract(module, 64)["params"]["pyramid"]["cell_0"]
  assert sorted(cell) == ["node_0", "node_1"] and "edges" not in cell["node_0"]


@pytest.mark.parametrize(
  ("overrides", "words"),
  [
    ({"pyramid": "bifpm"}, "config.model.pyramid='bifpm' is not .*Nearest: 'bifpn'"),
    ({"fusion": "fsat"}, "config.model.fusion='fsat'.*Nearest: 'fast'"),
    ({"head": "ssd2"}, "config.model.head='ssd2'"),
    ({"backbone": "efficientnet_bo"}, "config.model.name='efficientnet_bo'.*efficientnet_b0"),
    ({"backbone": "efficientdet_d0"}, "config.model.backbone='efficientdet_d0' is not a class"),
    ({"min_level": 6}, "config.model.min_level=6: the backbone has levels"),
    ({"min_level": 5, "max_level": 4}, "config.model.max_level=4 should be at least min_level"),
    ({"pyramid": "nasfpn", "max_level": 6}, "'nasfpn' has 5 levels, not 4"),
    ({"aspects": "exakt"}, "config.model.aspects='exakt'"),
    ({"nodes": (pyramids.Node(3, (9,)),)}, "node 0 has inputs .9,.; there are 0 to 4"),
    ({"nodes": (pyramids.Node(9, (0,)),)}, "node 0 is on level 9"),
    ({"num_classes": 0}, "config.model.num_classes=0 should be a whole number"),
    ({"width": 0}, "config.model.width=0"),
  ],
)
def test_wrong_settings(overrides, words):
  with pytest.raises(errors.UserError, match=words):
    module = models.create("efficientdet_d0", **overrides)
    models.abstract(module, 64)


def test_frozen_body():
  module = models.create("efficientdet_tiny", frozen_blocks=2)
  assert module.frozen_names() == ("backbone/stem", "backbone/block_0", "backbone/block_1")
  assert models.create("efficientdet_tiny", frozen_blocks=-1).frozen_names() == ("backbone",)
  assert models.create("efficientdet_tiny").frozen_names() == ()


def test_survival_of_heads():
  rng = np.random.default_rng(0)
  tower = heads.Tower((3,), 4, 3, (("predict", 5, 0.0),), survival=0.8, separable=False)
  x = jnp.asarray(rng.normal(size=(3, 6, 6, 4)).astype(np.float32))
  variables = tower.init(jax.random.key(0), x, 0)
  # The first repeat is not survived; 0.1 is below what drops, 0.5 and 0.9 are not.
  noise = jnp.array([[0.1, 0.5, 0.1], [0.5, 0.1, 0.9], [0.1, 0.1, 0.1]])
  (found,) = tower.apply(variables, x, 0, noise=noise)
  (plain,) = tower.apply(variables, x, 0)
  repeat = lambda index, y: tower.bind(variables).norms[index][0](  # noqa: E731
    tower.bind(variables).convolutions[index](y)
  )
  for factors, got in (([[0, 1, 0], [1, 0, 1], [0, 0, 0]], found), (None, plain)):
    y = repeat(0, x)
    for index in (1, 2):
      kept = 1.0 if factors is None else np.array(factors)[:, index, None, None, None] / 0.8
      y = y + kept * repeat(index, y)
    (want,) = tower.bind(variables).predictors
    np.testing.assert_allclose(got, want(y), rtol=1e-5, atol=1e-5)


def test_survival_is_drawn_for_each_level_and_in_training_alone():
  module = models.create(
    "efficientdet_tiny", head_survival=0.5, head_repeats=2, width=8, max_level=4, repeats=1
  )
  images = jnp.ones((2, 32, 32, 3))
  variables = models.init(module, 0, image_size=32)
  keys = {"drop_path": jax.random.split(jax.random.key(1), 2)}
  drawn = module._survivals(keys, 2)
  assert drawn.shape == (2, 2, 2, 2) and len(np.unique(drawn)) == 16

  @functools.partial(jax.jit, static_argnames="train")
  def run(keys, train):
    return module.apply(variables, images, train=train, keys=keys, mutable=["batch_stats"])[0]

  quiet = run(keys, False)
  np.testing.assert_array_equal(quiet[0][0][0], quiet[0][0][1])
  noisy = run(keys, True)
  assert not np.allclose(noisy[0][0][0], noisy[0][0][1])
  with pytest.raises(errors.UserError, match="config.model.head_survival=1.5"):
    models.create("efficientdet_tiny", head_survival=1.5)
