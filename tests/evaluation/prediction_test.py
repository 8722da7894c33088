"""Fréchet distances and figures of predicted films against figures from elsewhere and NumPy."""

import jax
import numpy as np
import pytest
from scipy import linalg

from effnets import data, errors, models
from effnets.evaluation import perceptual, prediction
from effnets.models import counting, i3d, vgg


def test_distances_of_normals():
  one, other = np.array([[2, 0.5], [0.5, 1]]), np.array([[1, -0.2], [-0.2, 3]])
  found = prediction.frechet_normal((0, 1), one, (1, -1), other)
  assert found == pytest.approx(5.8838173, abs=1e-7)
  n, k = np.mgrid[:12, :3]
  a, b = np.sin(n + k), np.cos(0.7 * n * (k + 1))
  assert prediction.frechet(a, b) == pytest.approx(0.4961436, abs=1e-7)
  assert prediction.frechet(a, a) == pytest.approx(0, abs=1e-9)
  # By the square root of a matrix that is not symmetric, as others have it.
  rng = np.random.default_rng(0)
  real, made = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(30, 5)) + 0.3
  c, d = np.cov(real.T), np.cov(made.T)
  expected = np.sum((real.mean(0) - made.mean(0)) ** 2)
  expected += np.trace(c + d - 2 * linalg.sqrtm(c @ d).real)
  assert prediction.frechet(real, made) == pytest.approx(expected, rel=1e-9)
  # Fewer clips than features: covariances are singular.
  few, others = rng.normal(size=(4, 30)), rng.normal(size=(6, 30))
  assert prediction.frechet(few, few) == pytest.approx(0, abs=1e-6)
  assert prediction.frechet(few, others) == pytest.approx(prediction.frechet(others, few), rel=1e-6)


@pytest.mark.parametrize(
  ("real", "made", "words"),
  [
    (np.zeros((1, 3)), np.zeros((4, 3)), "at least two real clips.*\\(1, 3\\)"),
    (np.zeros((4, 3)), np.full((4, 3), np.nan), "generated clips are not all finite"),
    (np.zeros((4, 3)), np.zeros((4, 2)), "real clips have 3 features, generated ones 2"),
  ],
)
def test_features_that_cannot_be_compared(real, made, words):
  with pytest.raises(errors.UserError, match=words):
    prediction.frechet(real, made)


def clips(shape=(2, 9, 8, 8, 3), kind=np.uint8, high=255):
  return (np.linspace(0, high, int(np.prod(shape))).reshape(shape)).astype(kind)


def test_protocol():
  prediction.check_clips(clips(), clips(kind=np.float32), least_frames=9)
  for made, words in (
    (clips(kind=np.float32, high=1), r"in \[0, 1\], as if they were scaled"),
    (clips(kind=np.float32) - 1, r"in \[-1, 254\]; expected levels from 0 to 255"),
    (clips(kind=np.float64, high=256), "in .0, 256."),
    (clips(kind=np.int32), "are int32; expected uint8"),
    (clips((2, 9, 8, 16, 3)), r"\(9, 8, 8, 3\), generated ones \(9, 8, 16, 3\)"),
    (clips((2, 10, 8, 8, 3)), "other lengths or sizes"),
    (clips((2, 8, 8, 8, 3)), "have 8 frames; this measure needs 9"),
    (clips((1, 9, 8, 8, 3)), "1 generated clip.s."),
    (clips((9, 8, 8, 3)), "expected b t h w 3"),
    (np.full((2, 9, 8, 8, 3), np.inf, np.float32), "not finite"),
  ):
    with pytest.raises(errors.UserError, match=words):
      prediction.check_clips(clips(), made, least_frames=9)


def test_best_of_many():
  rng = np.random.default_rng(0)
  values = rng.normal(size=(5, 16, 7))
  means = [prediction.best(values[:, :n]).mean() for n in range(1, 17)]
  assert all(a <= b for a, b in zip(means, means[1:], strict=False)) and means[0] < means[-1]
  expected = [max(clip, key=lambda sample: sum(sample)) for clip in values.tolist()]
  np.testing.assert_allclose(prediction.best(values), expected)


def test_figures():
  rng = np.random.default_rng(1)
  outputs = {
    "psnr": rng.normal(size=(4, 3, 5)),
    "psnr_copy": rng.normal(size=(4, 5)),
    "ssim": rng.random((4, 3, 5)),
    "ssim_copy": rng.random((4, 5)),
    "frechet_digits_real": rng.normal(size=(4, 2)),
    "frechet_digits_made": rng.normal(size=(4, 3, 2)),
  }
  found = prediction.prediction(outputs)
  assert tuple(found) == prediction.names({"frechet_digits": ()})
  assert found["psnr"] == pytest.approx(outputs["psnr"].mean())
  assert found["ssim_copy"] == pytest.approx(outputs["ssim_copy"].mean())
  assert found["ssim_best"] == pytest.approx(outputs["ssim"].mean(2).max(1).mean())
  expected = prediction.frechet(
    outputs["frechet_digits_real"], outputs["frechet_digits_made"].reshape(12, 2)
  )
  assert found["frechet_digits"] == expected
  over_time = prediction.curves(outputs)
  np.testing.assert_allclose(over_time["psnr"], outputs["psnr"].mean((0, 1)))
  chosen = outputs["psnr"].mean(2).argmax(1)
  np.testing.assert_allclose(over_time["psnr_best"], outputs["psnr"][range(4), chosen].mean(0))


def test_curves_are_drawn(tmp_path):
  figures = {"psnr": [20.0, 18.0], "psnr_best": [21.0, 19.5], "psnr_copy": [15.0, 12.0]}
  with open(tmp_path / "x.png", "wb") as file:
    prediction.draw(figures, file, first=4, label="clips")
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


# ---- Networks that look at films -----------------------------------------------------------------


def named(variables, scope=""):
  """Returns variables as a checkpoint of the scopes that the sheet tells."""
  found = {}

  def visit(tree, *names):
    for name, value in tree.items():
      if isinstance(value, dict):
        visit(value, *names, name)
      else:
        norm = "batch_norm" in names
        found[scope + "/".join((*names, name))] = value[None, None, None, None] if norm else value

  for tree in variables.values():
    visit(tree)
  return found


def test_weights_of_i3d(tmp_path):
  abstract = models.abstract(i3d.I3D())
  rng = np.random.default_rng(0)
  drawn = {
    kind: _drawn(tree, rng) for kind, tree in abstract.items()
  }  # fmt: skip
  arrays = named(drawn, "RGB/inception_i3d/")
  assert "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w" in arrays
  assert "RGB/inception_i3d/Mixed_5c/Branch_2/Conv3d_0b_3x3/conv_3d/w" in arrays
  assert arrays["RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w"].shape == (7, 7, 7, 3, 64)
  found = perceptual.i3d_variables(arrays)
  for kind in drawn:
    assert named({kind: found[kind]}).keys() == named({kind: drawn[kind]}).keys()
  name = "Logits/Conv3d_0c_1x1/conv_3d"
  np.testing.assert_array_equal(found["params"][name]["w"], drawn["params"][name]["w"])
  arrays.pop("RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w")
  arrays["RGB/inception_i3d/Conv3d_2b_1x1/conv_3d/w"] = np.zeros((1, 1, 1, 64, 65))
  with pytest.raises(
    errors.UserError, match="Conv3d_1a_7x7/conv_3d/w is missing.*not .1, 1, 1, 64"
  ):
    perceptual.i3d_variables(arrays, "config.task.i3d='x'")
  (tmp_path / "x.npz").write_bytes(b"nothing")
  with pytest.raises(errors.UserError, match="config.task.i3d=.*no whole .npz"):
    perceptual.read(str(tmp_path / "x.npz"), "config.task.i3d")
  with pytest.raises(errors.UserError, match="there is no such file"):
    perceptual.read(str(tmp_path / "y.npz"), "config.task.i3d")


def _drawn(tree, rng):
  return {
    name: _drawn(value, rng)
    if isinstance(value, dict)
    else np.broadcast_to(np.float32(rng.random()), value.shape)
    for name, value in tree.items()
  }


def test_weights_of_vgg16():
  abstract = models.abstract(vgg.VGG16())
  assert counting.parameters(abstract) == 14_714_688  # its convolutions, as Keras counts them
  arrays = {}
  for stage, (_, repeats) in enumerate(vgg.STAGES, 1):
    for index in range(1, repeats + 1):
      shapes = abstract["params"][f"conv{stage}_{index}"]
      arrays[f"block{stage}_conv{index}_W_1:0"] = np.zeros(shapes["kernel"].shape, np.float32)
      arrays[f"block{stage}_conv{index}_b_1:0"] = np.full(shapes["bias"].shape, stage + index / 10)
  found = perceptual.vgg16_variables(arrays)["params"]
  assert found["conv4_2"]["bias"][0] == pytest.approx(4.2)
  arrays.pop("block3_conv3_W_1:0")
  with pytest.raises(errors.UserError, match="VGG16: conv3_3/kernel is missing"):
    perceptual.vgg16_variables(arrays)


def test_cosine_of_features():
  rng = np.random.default_rng(0)
  a = [rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 2, 2, 7))]
  b = [rng.normal(size=x.shape) for x in a]
  each = []
  for x, y in zip(a, b, strict=True):
    norms = np.sqrt((x**2).sum(-1)) * np.sqrt((y**2).sum(-1))
    each.append(((x * y).sum(-1) / norms).mean((1, 2)))
  np.testing.assert_allclose(vgg.cosine(a, b), np.mean(each, 0), rtol=1e-5)
  np.testing.assert_allclose(vgg.cosine(a, a), 1, rtol=1e-5)


def test_the_small_network_tells_motion():
  source = data.open_source("moving_digits", "test", options={"examples": 24})
  films = np.stack([source[i]["film"].read(range(10)) for i in range(24)]) / 255
  variables = perceptual.digits_variables()
  features = jax.jit(perceptual.digits_features)
  look = lambda x: np.asarray(features(variables, x.astype(np.float32)))  # noqa: E731
  real, other = look(films[:12]), look(films[12:])
  still = look(np.repeat(films[12:, :1], 10, 1))
  assert prediction.frechet(real, still) > 2 * prediction.frechet(real, other)
