"""RandAugment: the published table, the draws, and equal pixels however it is executed."""

import fractions

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from effnets import augment, errors, streams
from effnets.augment import magnitudes, randaugment

_BATCH, _HEIGHT, _WIDTH = 96, 20, 24

# Magnitude: rotation, levels left by posterize, effective solarize threshold, addition, factor,
# shear, half side of the cutout, translation.
_TABLE = {
  0: (0, 2, 0, 0, 0.10, 0, 0, 0),
  1: (3, 2, 25, 11, 0.28, 0.03, 4, 10),
  2: (6, 2, 51, 22, 0.46, 0.06, 8, 20),
  3: (9, 2, 76, 33, 0.64, 0.09, 12, 30),
  4: (12, 2, 102, 44, 0.82, 0.12, 16, 40),
  5: (15, 4, 128, 55, 1.00, 0.15, 20, 50),
  6: (18, 4, 153, 66, 1.18, 0.18, 24, 60),
  7: (21, 4, 179, 77, 1.36, 0.21, 28, 70),
  8: (24, 8, 204, 88, 1.54, 0.24, 32, 80),
  9: (27, 8, 230, 99, 1.72, 0.27, 36, 90),
  10: (30, 16, 0, 110, 1.90, 0.30, 40, 100),
  12: (36, 16, 51, 132, 2.26, 0.36, 48, 120),
  15: (45, 64, 128, 165, 2.80, 0.45, 60, 150),
  17: (51, 64, 179, 187, 3.16, 0.51, 68, 170),
  18: (54, 128, 204, 198, 3.34, 0.54, 72, 180),
  20: (60, 256, 0, 220, 3.70, 0.60, 80, 200),
  24: (72, 2, 102, 264, 4.42, 0.72, 96, 240),
  27: (81, 2, 179, 297, 4.96, 0.81, 108, 270),
  28: (84, 2, 204, 308, 5.14, 0.84, 112, 280),
  30: (90, 2, 0, 330, 5.50, 0.90, 120, 300),
}


@pytest.mark.parametrize("magnitude", _TABLE)
def test_table(magnitude):
  rotation, levels, threshold, addition, factor, shear, half, pixels = _TABLE[magnitude]
  value = {
    name: magnitudes.argument(name, magnitude)
    for name in randaugment.OPERATION_LISTS["code16"]
    if augment.OPERATIONS[name].unit
  }
  assert value["rotate"] == pytest.approx(rotation)
  for name in ("color", "contrast", "brightness", "sharpness"):
    assert value[name] == pytest.approx(factor)
  assert value["shear_x"] == value["shear_y"] == pytest.approx(shear)
  assert value["translate_x"] == value["translate_y"] == pytest.approx(pixels)
  assert (value["solarize_add"], value["cutout"]) == (addition, half)
  # posterize and solarize wrap, so what they do to every level is what counts.
  ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
  assert len(np.unique(augment.apply("posterize", ramp, value["posterize"]))) == levels
  solarized = np.asarray(augment.apply("solarize", ramp, value["solarize"])).reshape(256, 3)[:, 0]
  level = np.arange(256)
  np.testing.assert_array_equal(solarized, np.where(level < threshold, level, 255 - level))


def test_table_formulas_at_every_magnitude():
  for magnitude in range(32):
    level = fractions.Fraction(magnitude, 10)
    for name, scale in (("posterize", 4), ("solarize", 256), ("solarize_add", 110), ("cutout", 40)):
      exact = scale * level
      got = magnitudes.argument(name, magnitude)
      # The published code cuts a float64 product, which may lie just below a whole number.
      assert got == int(exact) or (exact.denominator == 1 and got == exact - 1), (name, magnitude)
    for name, exact in (
      ("rotate", 30 * level),
      ("color", level * fractions.Fraction(18, 10) + fractions.Fraction(1, 10)),
      ("shear_y", level * fractions.Fraction(3, 10)),
      ("translate_x", 100 * level),
    ):
      assert magnitudes.argument(name, magnitude) == pytest.approx(float(exact), abs=1e-12)
  assert magnitudes.argument("equalize", 9) is None


def test_constants_and_increasing_variants():
  assert magnitudes.argument("translate_y", 9, translate_const=4) == pytest.approx(3.6)
  assert magnitudes.argument("cutout", 9, cutout_const=4) == 3
  strengths = [magnitudes.argument("posterize", m, increasing=True) for m in (0, 5, 10, 20)]
  assert strengths == [4, 2, 0, 0]
  thresholds = [magnitudes.argument("solarize", m, increasing=True) for m in (1, 5, 10, 20)]
  assert thresholds == [231, 128, 0, 0]
  weakest = randaugment.RandAugment(magnitude=0, increasing=True, operations=("solarize",))
  assert weakest.table() == [("identity", None)]


def test_operation_lists():
  lists = randaugment.OPERATION_LISTS
  assert {name: len(set(names)) for name, names in lists.items()} == {"paper14": 14, "code16": 16}
  assert set(lists["code16"]) - set(lists["paper14"]) == {"invert", "cutout", "solarize_add"}
  assert set(lists["paper14"]) - set(lists["code16"]) == {"identity"}
  signed = {name for name, operation in augment.OPERATIONS.items() if operation.signed}
  assert signed == {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}


def _keys(count, seed=0):
  key = streams.stream(jax.random.key(seed), "augment")
  return streams.example_keys(key, streams.words(np.arange(count)))


def test_draw_frequencies():
  draws = jax.jit(randaugment.draw, static_argnums=(1, 2))(_keys(50_000), 2, 16)
  index, sign = np.asarray(draws.index), np.asarray(draws.sign)
  share = np.bincount(index.reshape(-1), minlength=16) / index.size
  assert np.abs(share - 1 / 16).max() < 0.003
  assert abs(np.mean(index[:, 0] == index[:, 1]) - 1 / 16) < 0.004
  assert len(np.unique(index @ [16, 1])) == 256
  assert set(np.unique(sign)) == {-1, 1}
  assert abs(np.mean(sign == 1) - 0.5) < 0.01
  # Given the operation, the sign is still even: the two do not hang together.
  assert np.abs([np.mean(sign[index == k]) for k in range(16)]).max() < 0.06
  rows = np.asarray(draws.centre[..., 0]) % 20
  assert np.abs(np.bincount(rows.reshape(-1)) / rows.size - 1 / 20).max() < 0.003


def _images(count=_BATCH, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, _HEIGHT, _WIDTH, 3)).astype(np.uint8)


_SETTINGS = {"layers": 2, "magnitude": 9, "cutout_const": 6, "translate_const": 10}
_POLICY = randaugment.RandAugment(**_SETTINGS)
_run = jax.jit(_POLICY)


@pytest.fixture(scope="module")
def augmented():
  return np.asarray(_run(_images(), _keys(_BATCH)))


def test_equals_the_drawn_operations_one_by_one(augmented):
  count = 48
  draws = jax.tree.map(np.asarray, randaugment.draw(_keys(_BATCH), 2, 16))
  table = _POLICY.table()
  apply = jax.jit(augment.apply, static_argnums=0)
  seen = set()
  for i, image in enumerate(_images()[:count]):
    for n in range(2):
      name, value = table[draws.index[i, n]]
      if augment.OPERATIONS[name].signed:
        value *= int(draws.sign[i, n])
      centre = draws.centre[i, n].astype(np.int64) % [_HEIGHT, _WIDTH]
      image = np.asarray(apply(name, image[None], value, centres=centre[None]))[0]
      seen.add((name, draws.sign[i, n]))
    np.testing.assert_array_equal(augmented[i], image)
  assert len({name for name, _ in seen}) == 16


def test_loop_over_chunks_gives_the_same_pixels(augmented):
  chunks = jax.jit(randaugment.RandAugment(**_SETTINGS, execution="chunks"))
  np.testing.assert_array_equal(chunks(_images(), _keys(_BATCH)), augmented)


def test_chosen_execution_follows_the_platform():
  arguments = (_images(4), _keys(4))
  lowered = _run.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
  # Only the loop over chunks sorts.
  assert "stablehlo.sort" in lowered
  assert "stablehlo.sort" not in _run.lower(*arguments).as_text()


def test_result_depends_on_own_image_and_key_only(augmented):
  order = np.random.default_rng(3).permutation(_BATCH)
  shuffled = np.asarray(_run(_images()[order], _keys(_BATCH)[order]))
  np.testing.assert_array_equal(shuffled, augmented[order])
  others = _images(seed=5)
  others[:7] = _images()[:7]
  np.testing.assert_array_equal(np.asarray(_run(others, _keys(_BATCH)))[:7], augmented[:7])


def test_same_key_same_result_other_key_other_result(augmented):
  np.testing.assert_array_equal(_run(_images(), _keys(_BATCH)), augmented)
  other = np.asarray(_run(_images(), _keys(_BATCH, seed=1)))
  assert np.mean((other != augmented).any((1, 2, 3))) > 0.9


def test_shard_map_equals_one_device(augmented):
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "fsdp"))
  spec = P(("data", "fsdp"))
  mapped = jax.shard_map(_POLICY, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False)
  np.testing.assert_array_equal(jax.jit(mapped)(_images(), _keys(_BATCH)), augmented)


def test_extreme_settings():
  policy = randaugment.RandAugment(
    layers=3,
    magnitude=31,
    operations=("rotate", "contrast", "posterize", "translate_x"),
    fixed_contrast=True,
    execution="chunks",
  )
  images = _images(16)
  result = jax.jit(policy)(images, _keys(16))
  assert result.dtype == np.uint8 and result.shape == images.shape
  assert "contrast_fixed" in dict(policy.table())


def test_a_repeated_name_is_a_weight():
  policy = randaugment.RandAugment(operations=["invert", "invert", "invert", "identity"], layers=1)
  result = np.asarray(jax.jit(policy)(_images(2000)[:, :2, :2], _keys(2000)))
  inverted = (result != _images(2000)[:, :2, :2]).any((1, 2, 3))
  assert abs(inverted.mean() - 0.75) < 0.04


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"layers": 0}, r"randaugment\.layers=0 is not a whole number in \[1, 10\]\. Nearest: 1"),
    ({"layers": 1.5}, r"randaugment\.layers=1.5 is not a whole number"),
    ({"layers": True}, r"randaugment\.layers=True"),
    ({"magnitude": 90}, r"randaugment\.magnitude=90 .*\[0, 31\]\. Nearest: 31"),
    ({"magnitude": float("nan")}, r"randaugment\.magnitude=nan"),
    ({"magnitude": "9"}, r"randaugment\.magnitude='9'"),
    ({"cutout_const": -1}, r"randaugment\.cutout_const=-1"),
    ({"operations": "code61"}, r"randaugment\.operations='code61'.*Nearest: 'code16'"),
    ({"operations": ("rotat",)}, r"randaugment\.operations='rotat'.*Nearest: 'rotate'"),
    ({"operations": ()}, r"randaugment\.operations=\(\) is empty"),
    ({"fill": 256}, r"randaugment\.fill=256"),
    ({"increasing": 1}, r"randaugment\.increasing=1"),
    ({"execution": "mapp"}, r"randaugment\.execution='mapp'.*Nearest: 'map'"),
  ],
)
def test_settings_errors(settings, message):
  with pytest.raises(errors.UserError, match=message):
    randaugment.RandAugment(**settings)


def test_call_errors():
  with pytest.raises(ValueError, match=r"keys \(b,\); got \(4, 20, 24, 3\) and \(3,\)"):
    _POLICY(_images(4), _keys(3))
  with pytest.raises(ValueError, match="float32.*before normalisation"):
    _POLICY(_images(4).astype(np.float32), _keys(4))
