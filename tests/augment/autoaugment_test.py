"""AutoAugment: draws, arguments of both conventions, PIL's operations, equal pixels everywhere."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from PIL import Image, ImageEnhance, ImageOps

from effnets import augment, errors, streams
from effnets.augment import autoaugment

_BATCH, _SIZE = 64, 20


def _keys(count, seed=0):
  key = streams.stream(jax.random.key(seed), "augment")
  return streams.example_keys(key, streams.words(np.arange(count)))


def _images(count=_BATCH, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, _SIZE, _SIZE, 3)).astype(np.uint8)


_POLICY = augment.AutoAugment("v0", translate_const=10, cutout_const=6)
_run = jax.jit(_POLICY)


@pytest.fixture(scope="module")
def augmented():
  return np.asarray(_run(_images(), _keys(_BATCH)))


def test_draws():
  # Three sub-policies; the last has one operation, which is never applied.
  table = [
    [("invert", None, 0.3), ("rotate", 3.0, 1.0)],
    [("color", 0.1, 0.0), ("invert", None, 0.9)],
    [("invert", None, 0.0)],
  ]
  rows, probabilities = autoaugment.flatten(table)
  assert rows[4:] == [("invert", None), ("identity", None), ("identity", None)]
  assert probabilities.tolist()[2] == [0, 0]
  draws = jax.jit(lambda keys: autoaugment.draw(keys, probabilities))(_keys(30_000))
  index, sign = np.asarray(draws.index), np.asarray(draws.sign)
  # Row 1 is always applied when its sub-policy is drawn, so it shows how often that is.
  count, first = len(index), index[:, 1] == 1
  assert abs(first.mean() - 1 / 3) < 0.012
  assert abs((index[first, 0] == 0).mean() - 0.3) < 0.02
  assert set(np.unique(index[first, 0])) == {0, 6}
  assert abs((index[:, 1] == 3).mean() - 0.9 / 3) < 0.012
  assert not (index == 2).any() and not (index == 4).any()
  assert abs(sign.mean()) < 0.02 and abs(sign[first, 1].mean()) < 0.04
  # Whether an operation is applied and its sign do not hang together.
  assert abs(sign[index[:, 0] == 0, 0].mean()) < 0.06
  assert count == 30_000


def test_equals_the_drawn_operations_one_by_one(augmented):
  rows, probabilities = autoaugment.flatten(_POLICY.table())
  draws = jax.tree.map(np.asarray, autoaugment.draw(_keys(_BATCH), probabilities))
  apply = jax.jit(augment.apply, static_argnums=0)
  seen = set()
  for i, image in enumerate(_images()):
    for n in range(2):
      name, value = rows[draws.index[i, n]]
      if augment.OPERATIONS[name].signed:
        value *= int(draws.sign[i, n])
      image = np.asarray(apply(name, image[None], value))[0]
      seen.add(name)
    np.testing.assert_array_equal(augmented[i], image)
  assert len(seen) > 8


def test_loop_over_chunks_gives_the_same_pixels(augmented):
  chunks = augment.AutoAugment("v0", translate_const=10, cutout_const=6, execution="chunks")
  np.testing.assert_array_equal(jax.jit(chunks)(_images(), _keys(_BATCH)), augmented)


def test_shard_map_equals_one_device(augmented):
  mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
  spec = P("data")
  mapped = jax.shard_map(_POLICY, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
  np.testing.assert_array_equal(jax.jit(mapped)(_images(), _keys(_BATCH)), augmented)


def test_arguments_of_the_official_convention():
  table = augment.AutoAugment("v0").table()
  assert table[0] == [("equalize", None, 0.8), ("shear_y", pytest.approx(0.12), 0.8)]
  assert table[15] == [("rotate", pytest.approx(21), 1), ("translate_y", pytest.approx(225), 0.8)]
  # Posterize at 2 keeps no bit, which is read as one; solarize at 10 wraps and inverts everything.
  assert table[22] == [("posterize", 0, 0.8), ("solarize", 256, 0.6)]
  assert table[6][1] == ("solarize_add", 33, 0.8)
  assert {name for sub in table for name, _, _ in sub if name.startswith("contrast")} == set()


def test_arguments_of_the_older_convention():
  lines = augment.AutoAugment("cifar10").table()
  assert lines[1] == [("rotate", 6, 0.7), ("translate_x", 9, 0.3)]
  assert lines[20] == [("shear_y", pytest.approx(0.21), 0.2), ("posterize", 2, 0.3)]
  # 256 is above every level: nothing is inverted.
  assert lines[49] == [("equalize", None, 0.7), ("identity", None, 0.5)]
  assert lines[7] == [("autocontrast", None, 0.9), ("solarize", 180, 0.8)]
  assert lines[61] == [("cutout", 4, 0.2), ("equalize", None, 0.1)]
  assert lines[0][1] == ("contrast_fixed", pytest.approx(1.18), 0.2)
  whole = [v for sub in lines for name, v, _ in sub if name.startswith("translate")]
  assert set(whole) == {0, 3, 4, 6, 7, 8, 9}
  assert augment.AutoAugment("svhn").fill == (125, 122, 113)


_ENHANCE = {
  "color": ImageEnhance.Color,
  "contrast_fixed": ImageEnhance.Contrast,
  "brightness": ImageEnhance.Brightness,
  "sharpness": ImageEnhance.Sharpness,
}


def _pil(name, value, picture):
  """Returns what PIL makes of an operation of the older convention, and how far we may be off."""
  if name in _ENHANCE:
    return _ENHANCE[name](picture).enhance(value), 1
  if name.startswith("translate"):
    shift = (1, 0, value, 0, 1, 0) if name == "translate_x" else (1, 0, 0, 0, 1, value)
    fill = (125, 122, 113)
    return picture.transform(picture.size, Image.Transform.AFFINE, shift, fillcolor=fill), 0
  plain = {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}
  plain |= {"invert": ImageOps.invert, "identity": lambda picture: picture}
  if name in plain:
    return plain[name](picture), 1 if name == "autocontrast" else 0
  return getattr(ImageOps, name)(picture, value), 0


def test_older_convention_against_pil():
  image = np.clip(np.random.default_rng(1).normal(120, 50, (_SIZE, _SIZE, 3)), 0, 255)
  image = image.astype(np.uint8)
  seen = set()
  for policy in ("cifar10", "original", "svhn"):
    for name, value, _ in (op for sub in augment.AutoAugment(policy).table() for op in sub):
      if name in ("rotate", "shear_x", "shear_y", "cutout") or (name, value) in seen:
        continue  # PIL samples elsewhere, and has no cutout
      seen.add((name, value))
      expected, tolerance = _pil(name, value, Image.fromarray(image))
      fill = (125, 122, 113)
      got = np.asarray(_apply(name, image[None], value, fill=fill))[0].astype(int)
      assert np.abs(got - np.asarray(expected)).max() <= tolerance, (name, value)
  assert len({name for name, _ in seen}) == 12


_apply = jax.jit(augment.apply, static_argnums=0, static_argnames="fill")


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"policy": "cifar"}, r"autoaugment\.policy='cifar' is not a learned.*Nearest: 'cifar10'"),
    ({"policy": ""}, r"autoaugment\.policy='' is not a learned policy.*Valid: 'cifar10'"),
    ({"cutout_const": -1}, r"autoaugment\.cutout_const=-1 is not a number in \[0, 4096\]"),
    ({"translate_const": "9"}, r"autoaugment\.translate_const='9'"),
    ({"fill": 300}, r"autoaugment\.fill=300 is neither a level in \[0, 255\]"),
    ({"fill": (1, 2)}, r"autoaugment\.fill=\(1, 2\)"),
    ({"fixed_contrast": 1}, r"autoaugment\.fixed_contrast=1 is not True or False"),
    ({"execution": "chunk"}, r"autoaugment\.execution='chunk'.*Nearest: 'chunks'"),
  ],
)
def test_errors(settings, message):
  with pytest.raises(errors.UserError, match=message):
    augment.AutoAugment(**settings)


def test_call_errors():
  with pytest.raises(ValueError, match=r"AutoAugment takes .*; got \(4, 20, 20, 3\) and \(3,\)"):
    _POLICY(_images(4), _keys(3))
