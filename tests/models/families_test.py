"""Every family against the counts of the papers' sheets, and what all of them can do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, families, stage_tables

# name: trainable parameters with 1,000 classes, MAdds at 224 pixels in millions (sections 7).
SHEETS = {
  "mnasnet_a1": (3_887_038, 311.6),
  "mnasnet_a1_035": (1_747_018, 61.7),
  "mnasnet_a1_050": (2_082_006, 103.2),
  "mnasnet_a1_075": (2_912_278, 223.4),
  "mnasnet_a1_140": (6_105_992, 586.3),
  "mnasnet_b1": (4_383_312, 314.4),
  "mnasnet_b1_035": (1_788_232, 58.9),
  "mnasnet_b1_050": (2_218_512, 104.5),
  "mnasnet_b1_075": (3_170_208, 215.5),
  "mnasnet_b1_140": (7_115_728, 588.8),
  "mnasnet_small": (2_030_264, 68.3),
  "mnasnet_small_035": (1_456_334, 24.5),
  "mnasnet_small_050": (1_553_350, 28.8),
  "mnasnet_small_075": (1_753_518, 50.5),
  "mnasnet_small_140": (2_603_374, 138.1),
  "mnasnet_d1": (3_638_404, 967.7),
  "mnasnet_d1_320": (6_932_240, 1807.7),
  "mobilenetv1": (4_231_976, 568.7),
  "mobilenetv2": (3_504_872, 300.8),
  "mobilenetv3_large": (5_483_032, 216.6),
  "mobilenetv3_large_035": (2_131_832, 39.5),
  "mobilenetv3_large_050": (2_689_520, 69.2),
  "mobilenetv3_large_075": (3_993_528, 154.6),
  "mobilenetv3_large_125": (7_551_976, 355.2),
  "mobilenetv3_large_minimal": (3_924_288, 209.1),
  "mobilenetv3_large_minimal_035": (1_911_864, 37.1),
  "mobilenetv3_large_minimal_050": (2_275_264, 65.4),
  "mobilenetv3_large_minimal_075": (3_050_312, 148.8),
  "mobilenetv3_large_minimal_125": (5_054_144, 345.4),
  "mobilenetv3_small": (2_542_856, 56.5),
  "mobilenetv3_small_035": (1_358_288, 12.8),
  "mobilenetv3_small_050": (1_592_704, 21.1),
  "mobilenetv3_small_075": (2_041_872, 43.4),
  "mobilenetv3_small_125": (3_205_384, 90.8),
  "mobilenetv3_small_minimal": (2_044_736, 52.3),
  "mobilenetv3_small_minimal_035": (1_290_064, 11.4),
  "mobilenetv3_small_minimal_050": (1_445_096, 18.8),
  "mobilenetv3_small_minimal_075": (1_732_512, 40.1),
  "mobilenetv3_small_minimal_125": (2_430_816, 85.4),
  "mixnet_s": (4_134_606, 239.2),
  "mixnet_m": (5_014_382, 339.2),
  "mixnet_l": (7_329_252, 555.3),
  "mixnet_xl": (11_896_768, 904.0),
  "mixnet_xxl": (23_961_752, 1992.7),
}


def test_counts_of_sheets():
  # That entries are what their modules count is tested of all models in registry_test.
  for name, (params, madds) in SHEETS.items():
    entry = models.entry(name)
    assert entry.params == params, name
    assert entry.madds == pytest.approx(madds * 1e6, abs=0.06e6), name
    assert entry.image_size == 224


@pytest.mark.parametrize(
  "name,norms,rest,depth",
  [
    ("mnasnet_a1", 33_488, 2_606_038, 16),
    ("mnasnet_b1", 37_920, 3_102_312, 17),
    ("mnasnet_small", 16_928, 749_264, 15),
    ("mobilenetv3_large", 24_400, 4_202_032, 15),
    ("mobilenetv3_small", 12_112, 1_517_856, 11),
    ("mobilenetv3_large_075", 19_088, None, 15),
    ("mixnet_s", 32_192, 2_597_606, 16),
    ("mixnet_m", 41_712, 3_477_382, 19),
    ("mixnet_l", 54_272, 5_792_252, 19),
    ("mixnet_xl", 80_816, 10_359_768, 23),
  ],
)
def test_parts_of_counts(name, norms, rest, depth):
  module = models.create(name)
  shapes = models.abstract(module, 32)
  assert counting.parameters(shapes["batch_stats"]) == norms
  assert len(stage_tables.unroll(module.rows)) == depth
  if rest is not None:
    dense = counting.parameters(shapes["params"]["classifier"])
    assert counting.parameters(shapes["params"]) - dense == rest


@functools.cache
def _ends(name, size=224):
  module = models.create(name, plain=True)

  def run(variables, images):
    return module.apply(variables, images, method="features", inner=True)

  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  ends = jax.eval_shape(run, models.abstract(module, 32), images)
  return {name: end.shape[1:] for name, end in ends.items()}


@pytest.mark.parametrize(
  "name,channels",
  [
    ("mnasnet_a1", (16, 24, 40, 112, 320)),
    ("mobilenetv1", (64, 128, 256, 512, 1024)),
    ("mobilenetv2", (16, 24, 32, 96, 320)),
    ("mobilenetv3_large", (16, 24, 40, 112, 160)),
    ("mobilenetv3_small", (16, 16, 24, 48, 96)),
    ("mixnet_s", (16, 24, 40, 120, 200)),
    ("mixnet_m", (24, 32, 40, 120, 200)),
    ("mixnet_l", (32, 40, 56, 160, 264)),
    ("resnet50", (64, 256, 512, 1024, 2048)),
  ],
)
def test_reductions(name, channels):
  ends = _ends(name)
  for level, width in enumerate(channels, 1):
    assert ends[f"reduction_{level}"] == (224 >> level, 224 >> level, width)
  assert "reduction_6" not in ends and ends["features"] == ends["reduction_5"]


def test_end_points_that_detectors_and_segmenters_tap():
  # SSDLite at 320: the expansion of the first stride-32 block, and the last 1x1 convolution.
  for name, block, taps, last in (
    ("mobilenetv3_large", 12, 672, 960),
    ("mobilenetv3_small", 8, 288, 576),
    ("mobilenetv2", 13, 576, 1280),
    ("mnasnet_a1", 12, 672, 1280),
  ):
    ends = _ends(name, 320)
    assert ends[f"block_{block}/expand"] == (20, 20, taps)
    assert ends["head_1x1"] == (10, 10, last)
  assert _ends("mobilenetv1", 320)["block_10"] == (20, 20, 512)
  # LR-ASPP's skip: the depthwise output of layers 7 and 4, before squeeze-excitation.
  assert _ends("mobilenetv3_large", 256)["block_5/depthwise"] == (32, 32, 120)
  assert _ends("mobilenetv3_small", 256)["block_2/depthwise"] == (32, 32, 88)
  assert _ends("mobilenetv3_small")["hidden"] == (1024,)


TABLE = stage_tables.Table(
  8,
  (
    stage_tables.Row("separable", 3, 2, 1, 8, activation="relu6"),
    stage_tables.Row("mbconv", (3, 5), 1, 4, 8, activation="relu", expand_parts=2, project_parts=2),
    stage_tables.Row("bottleneck", 3, 2, 0.5, 16, activation="relu"),
  ),
  0,
  "hard_swish",
  hidden=12,
)


@pytest.mark.slow
def test_every_word_of_the_vocabulary_trains():
  # Against XLA's own convolutions and derivatives; rematerialised blocks change nothing.
  module = families.build(TABLE, num_classes=3, image_size=16, drop_path_rate=0.3)
  variables = models.init(module, 0)
  # The zero scale would hide the residual branch of the bottleneck.
  variables["params"]["block_2"]["project"]["norm"]["scale"] += 0.5
  rng = np.random.default_rng(0)
  images = rng.standard_normal((2, 16, 16, 3)).astype(np.float32)
  keys = {"drop_path": jax.random.split(jax.random.key(0), 2)}

  def gradients(module):
    def loss(params):
      logits, _ = module.apply(
        {**variables, "params": params}, images, train=True, keys=keys, mutable=["batch_stats"]
      )
      return jnp.square(logits).mean()

    options = {"xla_backend_optimization_level": 0}  # compiled quickly
    return jax.jit(jax.grad(loss), compiler_options=options)(variables["params"])

  want = gradients(module.clone(plain=True))
  got = gradients(module.clone(remat="block"))
  assert min(abs(leaf).max() for leaf in jax.tree.leaves(want)) > 0
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-4 * abs(b).max() + 1e-6, err_msg=str(path))


def test_overrides():
  module = models.create("mobilenetv3_large", 10, squeeze=False, activation="relu", kernels=(3, 5))
  assert all(row.squeeze is None and row.activation == "relu" for row in module.rows)
  assert all(row.kernel == (3, 5) for row in module.rows) and module.activation == "relu"
  # Minimalistic is what remains: 3x3, ReLU, no squeeze-excitation.
  plain = models.create("mobilenetv3_large", squeeze=False, activation="relu", kernels=(3,))
  count = models.count(plain, 32)
  assert count == models.count(models.create("mobilenetv3_large_minimal"), 32)
  entry = models.entry("mobilenetv3_large")
  assert (entry.settings()["momentum"], entry.settings()["padding"]) == (0.997, "SAME")
  assert models.entry("resnet50").settings()["padding"] == "SYMMETRIC"


@pytest.mark.parametrize(
  "overrides,words",
  [
    ({"kernels": (3, 4)}, "config.model.kernels=(3, 4) should be odd"),
    ({"partition": "exponental"}, "Nearest: 'exponential'"),
    ({"skip_rule": "true"}, "config.model.skip_rule='true'"),
    ({"activation": "hswish"}, "config.model.activation='hswish'"),
    ({"stem": -8}, "config.model.stem=-8 should be 0 or more"),
    ({"width": -1.0}, "config.model.width=-1.0 should be above 0"),
    ({"kernel": (3,)}, "Nearest: 'kernels'"),
  ],
)
def test_wrong_overrides(overrides, words):
  with pytest.raises(errors.UserError, match=re.escape(words)):
    models.create("mobilenetv2", **overrides)


def test_too_many_parts():
  module = models.create(
    "mobilenetv1", width=0.25, kernels=(3, 5, 7, 9, 11), partition="exponential"
  )
  with pytest.raises(ValueError, match="8 channels do not make 5 exponential parts"):
    models.abstract(module, 32)
