"""Every corruption against its definition, built slowly or in closed form, away from the code."""

import colorsys
import io
import itertools
import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from effnets import errors
from effnets.augment import corruptions
from effnets.augment.corruptions import blur, digital, edges, filters, tables, weather

# Nothing is drawn for these.
FIXED = "gaussian_blur defocus_blur zoom_blur brightness saturate contrast pixelate".split()
FIXED.append("jpeg_compression")
ALL = (*corruptions.CORRUPTIONS, *corruptions.EXTRA_CORRUPTIONS)


def picture(height=21, width=18, seed=0):
  """Returns smooth random colours, so that a shift by a pixel matters but is not all."""
  levels = np.random.default_rng(seed).uniform(-60, 300, (height, width, 3))
  return np.clip(ndimage.gaussian_filter(levels, (1, 1, 0)), 0, 255).astype(np.uint8)


def rng(seed=0):
  return np.random.default_rng(seed)


def levels(x):
  return np.floor(np.clip(x, 0, 1) * 255 + 1e-9).astype(np.uint8)


def at_most_one_level(found, expected, share=0.01):
  """Checks equality, but for truncation on the other side of a rounding error."""
  difference = np.abs(found.astype(int) - expected.astype(int))
  assert difference.max() <= 1 and (difference > 0).mean() <= share


def frost_photos():
  return [np.full((60, 70, 3), value, np.uint8) for value in (10, 20, 30, 40, 50, 60)]


@pytest.mark.parametrize("name", ALL)
def test_any_size_and_only_the_generator_decides(name):
  for height, width in ((32, 32), (45, 33), (100, 90)):
    image = picture(height, width)
    before = image.copy()
    made = [
      corruptions.corrupt(image, name, 3, rng(seed), frost=[picture(120, 130, 5)])
      for seed in (7, 7, 8)
    ]
    assert made[0].shape == image.shape and made[0].dtype == np.uint8
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(image, before)
    assert np.array_equal(made[0], made[2]) == (name in FIXED)
    assert not np.array_equal(made[0], image)


def test_every_level_survives_the_way_to_floats_and_back():
  image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, -1)
  np.testing.assert_array_equal(corruptions.apply.pixels(image / 255.0), image)


def grey(value=127.5, side=200):
  return np.full((side, side, 3), value) / 255


@pytest.mark.parametrize("severity", tables.SEVERITIES)
def test_moments_of_the_noises(severity):
  from effnets.augment.corruptions import noise

  x = grey()
  count = x.size
  (sigma,) = tables.parameters("gaussian_noise", severity, 224)
  change = noise.gaussian(x, rng(), sigma) - x
  assert change.std() == pytest.approx(sigma, rel=4 / math.sqrt(2 * count))
  assert abs(change.mean()) < 4 * sigma / math.sqrt(count)
  (photons,) = tables.parameters("shot_noise", severity, 224)
  change = noise.shot(x, rng(), photons) - x
  assert change.var() == pytest.approx(0.5 / photons, rel=0.03)
  assert abs(change.mean()) < 4 * math.sqrt(0.5 / photons / count)
  (sigma,) = tables.parameters("speckle_noise", severity, 224)
  change = noise.speckle(x, rng(), sigma) - x
  assert change.std() == pytest.approx(sigma / 2, rel=4 / math.sqrt(2 * count))
  (share,) = tables.parameters("impulse_noise", severity, 224)
  after = noise.impulse(x, rng(), share)
  for extreme in (0, 1):
    deviation = math.sqrt(share / 2 * (1 - share / 2) / count)
    assert (after == extreme).mean() == pytest.approx(share / 2, abs=4 * deviation)
  hit = after != x
  assert hit.sum() == ((after == 0) | (after == 1)).sum()
  # Channels are hit independently of each other.
  assert (hit[..., 0] & hit[..., 1]).mean() == pytest.approx(share**2, abs=4 * share / 200)


def test_gaussian_noise_is_cut_and_truncated():
  image = picture()
  expected = levels(image / 255 + rng().normal(0, 0.18, image.shape))
  at_most_one_level(corruptions.corrupt(image, "gaussian_noise", 3, rng(), size=224), expected)


@pytest.mark.parametrize(
  ("severity", "inside", "total", "centre"),
  [
    (1, 29, 1, 0.0344828),
    (2, 49, 1, 0.0204082),
    (3, 113, 1, 0.0088496),
    (4, 197, 1.0129755, 0.0050761),
    (5, 317, 1.0107858, 0.0031546),
  ],
)
def test_disks_are_those_of_the_benchmark(severity, inside, total, centre):
  radius, sigma = tables.parameters("defocus_blur", severity, 224)
  kernel = blur.disk(radius, sigma)
  assert kernel.shape == ((17, 17) if radius <= 8 else (21, 21))
  assert kernel.sum() == pytest.approx(total, abs=1e-7)
  assert kernel[len(kernel) // 2, len(kernel) // 2] == pytest.approx(centre, abs=1e-7)
  points = itertools.product(range(-20, 21), repeat=2)
  assert sum(a * a + b * b <= radius**2 for a, b in points) == inside


def test_defocus_by_loops_over_pixels():
  image = picture()
  kernel = blur.disk(4, 0.5)
  padded = np.pad(image / 255, ((8, 8), (8, 8), (0, 0)), mode="reflect")
  expected = np.zeros(image.shape)
  for row, column in np.ndindex(*image.shape[:2]):
    window = padded[row : row + 17, column : column + 17]
    expected[row, column] = np.tensordot(kernel, window, 2)
  at_most_one_level(
    corruptions.corrupt(image, "defocus_blur", 2, rng(), size=224), levels(expected)
  )


def slow_gaussian(x, sigma):
  radius = int(4 * sigma + 0.5)
  weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
  weights /= weights.sum()
  for axis in (0, 1):
    padded = np.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
    rows = [np.take(padded, range(i, i + x.shape[axis]), axis) for i in range(2 * radius + 1)]
    x = sum(w * r for w, r in zip(weights, rows, strict=True))
  return x


def test_gaussian_blur_by_shifts():
  image = picture()
  expected = levels(slow_gaussian(image / 255, 2))
  at_most_one_level(corruptions.corrupt(image, "gaussian_blur", 2, rng(), size=224), expected)


@pytest.mark.parametrize("severity", tables.SEVERITIES)
@pytest.mark.parametrize("size", tables.SIZES)
def test_glass_by_sweeping_over_pixels(severity, size):
  image = picture(26, 23)
  sigma, reach, sweeps = tables.parameters("glass_blur", severity, size)
  x = np.floor(255 * np.clip(slow_gaussian(image / 255, sigma), 0, 1))
  draws = rng(3)
  for _ in range(sweeps):
    offsets = draws.integers(-reach, reach, (2, 26, 23))
    assert offsets.min() >= -reach and offsets.max() <= reach - 1
    for row in range(26 - reach, reach, -1):
      for column in range(23 - reach, reach, -1):
        down, right = offsets[:, row, column]
        x[row, column] = x[row + down, column + right]
  expected = levels(slow_gaussian(x / 255, sigma))
  at_most_one_level(corruptions.corrupt(image, "glass_blur", severity, rng(3), size=size), expected)


@pytest.mark.parametrize(
  ("severity", "taps", "first"),
  [
    (1, 21, 0.234745),
    (2, 31, 0.147785),
    (3, 31, 0.095011),
    (4, 31, 0.065044),
    (5, 41, 0.052166),
  ],
)
def test_motion_kernels(severity, taps, first):
  kernel = filters.motion_kernel(*tables.parameters("motion_blur", severity, 224))
  assert len(kernel) == taps and kernel.sum() == pytest.approx(1)
  assert kernel[0] == pytest.approx(first, abs=1e-6)


def slow_motion(x, radius, sigma, degrees):
  weights = [math.exp(-i * i / (2 * sigma**2)) for i in range(2 * radius + 1)]
  angle = degrees * math.pi / 180
  out = np.zeros(x.shape)
  for row, column in np.ndindex(*x.shape[:2]):
    for i, weight in enumerate(weights):
      r = row + math.ceil(i * math.sin(angle) - 0.5)
      c = column + math.ceil(i * math.cos(angle) - 0.5)
      r, c = min(max(r, 0), x.shape[0] - 1), min(max(c, 0), x.shape[1] - 1)
      out[row, column] += weight / sum(weights) * x[r, c]
  return out


def test_motion_by_loops_over_pixels_and_taps():
  image = picture(12, 11)
  angle = rng(5).uniform(-45, 45)
  expected = levels(slow_motion(image / 255, 8, 2, angle))
  at_most_one_level(corruptions.corrupt(image, "motion_blur", 4, rng(5), size=32), expected)


def test_zoom_factors_and_their_mean():
  found = [tables.parameters("zoom_blur", s, 224)[0] for s in tables.SEVERITIES]
  assert [len(factors) for factors in found] == [12, 16, 11, 13, 11]
  assert [factors[-1] for factors in found] == pytest.approx([1.11, 1.15, 1.20, 1.24, 1.30])
  image = picture(33, 40)
  total = image / 255
  for factor in found[3]:
    tall, wide = math.ceil(33 / factor), math.ceil(40 / factor)
    top, left = (33 - tall) // 2, (40 - wide) // 2
    part = image[top : top + tall, left : left + wide] / 255
    large = ndimage.zoom(part, (factor, factor, 1), order=1)
    top, left = (large.shape[0] - 33) // 2, (large.shape[1] - 40) // 2
    total = total + large[top : top + 33, left : left + 40]
  expected = levels(total / (len(found[3]) + 1))
  at_most_one_level(corruptions.corrupt(image, "zoom_blur", 4, rng(), size=224), expected)


def test_snow_step_by_step():
  image = picture(16, 17)
  mean, sigma, zoom, threshold, radius, smear, share = tables.parameters("snow", 2, 224)
  draws = rng(4)
  field = filters.zoom_centre(draws.normal(mean, sigma, (16, 17)), zoom)
  layer = np.array([[0 if v < threshold else int(255 * min(v, 1)) for v in row] for row in field])
  layer = slow_motion(layer / 255, radius, smear, draws.uniform(-135, -45))
  out = np.zeros(image.shape)
  for row, column in np.ndindex(16, 17):
    r, g, b = image[row, column] / 255
    pale = 1.5 * (0.299 * r + 0.587 * g + 0.114 * b) + 0.5
    for channel, value in enumerate((r, g, b)):
      out[row, column, channel] = (
        share * value
        + (1 - share) * max(value, pale)
        + layer[row, column]
        + layer[15 - row, 16 - column]
      )
  at_most_one_level(corruptions.corrupt(image, "snow", 2, rng(4), size=224), levels(out))


def test_frost_takes_one_of_five_photos():
  image = np.full((32, 32, 3), 100, np.uint8)
  seen = set()
  for seed in range(60):
    made = corruptions.corrupt(image, "frost", 3, rng(seed), frost=frost_photos(), size=224)
    seen.add(int(made[0, 0, 0]))
  assert seen == {int((0.7 * 100 + 0.7 * value) + 1e-9) for value in (10, 20, 30, 40, 50)}
  ramp = np.arange(60, dtype=np.uint8)[:, None, None] + np.zeros((60, 70, 3), np.uint8)
  made = corruptions.corrupt(0 * image, "frost", 5, rng(1), frost=[ramp], size=224)
  first = np.round(made[0, 0, 0] / 0.75)
  np.testing.assert_allclose(made[:, 5, 1], 0.75 * (first + np.arange(32)), atol=1)
  with pytest.raises(ValueError, match="takes photos"):
    corruptions.corrupt(image, "frost", 1, rng())
  with pytest.raises(ValueError, match="smaller than the picture"):
    corruptions.corrupt(image, "frost", 1, rng(), frost=[np.zeros((31, 90, 3), np.uint8)])


def slow_plasma(side, decay, draws):
  """The midpoint rule point by point; draws are taken level by level in reading order."""
  field = {(0, 0): 0.0}
  step, rough = side, 100.0
  while step >= 2:
    half = step // 2
    places = range(0, side, step)
    for rows, columns, near in (
      (
        [p + half for p in places],
        [p + half for p in places],
        ((-1, -1), (-1, 1), (1, -1), (1, 1)),
      ),
      (list(places), [p + half for p in places], ((-1, 0), (1, 0), (0, -1), (0, 1))),
      ([p + half for p in places], list(places), ((-1, 0), (1, 0), (0, -1), (0, 1))),
    ):
      new = {}
      for row, column in itertools.product(rows, columns):
        around = [field[(row + half * a) % side, (column + half * b) % side] for a, b in near]
        new[row, column] = sum(around) / 4 + rough * draws.uniform(-rough, rough)
      field |= new
    step, rough = half, rough / decay
  values = np.array([[field[r, c] for c in range(side)] for r in range(side)])
  return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("side", [2, 16, 32])
def test_plasma_point_by_point(side):
  np.testing.assert_allclose(
    weather.plasma(side, 1.7, rng(2)), slow_plasma(side, 1.7, rng(2)), atol=1e-9
  )


def test_fog():
  image = picture(12, 20)
  veil = slow_plasma(32, 1.75, rng(9))[:12, :20, None]
  most = image.max() / 255
  expected = levels((image / 255 + 1.5 * veil) * most / (most + 1.5))
  at_most_one_level(corruptions.corrupt(image, "fog", 5, rng(9), size=32), expected)


@pytest.mark.parametrize("severity", tables.SEVERITIES)
@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_colours_against_colorsys(name, severity):
  image = picture(12, 12)
  image[0, :3] = [[0, 0, 0], [80, 80, 80], [255, 255, 255]]
  values = tables.parameters(name, severity, 224)
  expected = np.zeros(image.shape)
  for row, column in np.ndindex(12, 12):
    hue, saturation, value = colorsys.rgb_to_hsv(*(image[row, column] / 255))
    if name == "brightness":
      value = min(value + values[0], 1)
    else:
      saturation = min(saturation * values[0] + values[1], 1)
    expected[row, column] = colorsys.hsv_to_rgb(hue, saturation, value)
  at_most_one_level(corruptions.corrupt(image, name, severity, rng(), size=224), levels(expected))


def test_contrast_of_each_channel():
  image = picture()
  expected = np.zeros(image.shape)
  for channel in range(3):
    mean = sum(image[..., channel].ravel().tolist()) / (255 * 21 * 18)
    expected[..., channel] = (image[..., channel] / 255 - mean) * 0.2 + mean
  found = corruptions.corrupt(image, "contrast", 3, rng(), size=224)
  at_most_one_level(found, levels(expected))


@pytest.mark.parametrize("severity", [1, 2, 5])
def test_elastic_by_loops_over_pixels(severity):
  image = picture(15, 19)
  strength, sigma, reach = tables.parameters("elastic_transform", severity, 32)
  draws = rng(6)
  corners = np.array([[9 + 5, 7 + 5], [9 + 5, 7 - 5], [9 - 5, 7 - 5]], float)  # x, y
  moved = corners + draws.uniform(-reach, reach, (3, 2))
  solved = np.linalg.solve(np.column_stack([corners, np.ones(3)]), moved)  # forth
  matrix, offset = solved[:2].T, solved[2]

  def read(source, y, x, fold):
    total = 0.0
    for dy, dx in itertools.product((0, 1), repeat=2):
      row, column = math.floor(y) + dy, math.floor(x) + dx
      weight = (1 - abs(y - row)) * (1 - abs(x - column))
      total = total + weight * source[fold(row, 15), fold(column, 19)]
    return total

  def mirror(i, n):  # cbabcba
    i = abs(i) % (2 * n - 2)
    return min(i, 2 * n - 2 - i)

  def reflect(i, n):  # cbaabccba
    i %= 2 * n
    return min(i, 2 * n - 1 - i)

  turned = np.zeros(image.shape)
  for row, column in np.ndindex(15, 19):
    x, y = np.linalg.solve(matrix, np.array([column, row]) - offset)
    turned[row, column] = read(image / 255, y, x, mirror)
  expected = turned
  if strength:
    right, down = (
      strength
      * ndimage.gaussian_filter(draws.uniform(-1, 1, (15, 19)), sigma, mode="reflect", truncate=3)
      for _ in range(2)
    )
    expected = np.zeros(image.shape)
    for row, column in np.ndindex(15, 19):
      expected[row, column] = read(
        turned, row + down[row, column], column + right[row, column], reflect
      )
  found = corruptions.corrupt(image, "elastic_transform", severity, rng(6), size=32)
  at_most_one_level(found, levels(expected))


def test_pixelate_is_pillows_box():
  image = picture(224, 224)
  for severity, small in zip(tables.SEVERITIES, (134, 112, 89, 67, 56), strict=True):
    box = Image.Resampling.BOX
    expected = Image.fromarray(image).resize((small, small), box).resize((224, 224), box)
    np.testing.assert_array_equal(
      corruptions.corrupt(image, "pixelate", severity, rng()), np.asarray(expected)
    )


def test_jpeg_is_pillows_file():
  image = picture(40, 50)
  for severity, quality in zip(tables.SEVERITIES, (25, 18, 15, 10, 7), strict=True):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=quality)
    np.testing.assert_array_equal(
      corruptions.corrupt(image, "jpeg_compression", severity, rng(), size=224),
      np.asarray(Image.open(file)),
    )


def test_mud_lies_where_drops_were():
  image = picture(64, 64)
  mean, sigma, smear, threshold, amount, _ = tables.parameters("spatter", 4, 224)
  field = slow_gaussian(rng(1).normal(mean, sigma, (64, 64))[..., None], smear)
  cover = slow_gaussian((field > threshold).astype(float), amount)
  cover[cover < 0.8] = 0
  expected = image / 255 * (1 - cover) + cover * np.array([63, 42, 20]) / 255
  found = corruptions.corrupt(image, "spatter", 4, rng(1), size=224)
  at_most_one_level(found, levels(expected))
  assert 0.02 < cover.astype(bool).mean() < 0.6


def test_water_shines_in_its_colour():
  image = np.zeros((224, 224, 3), np.uint8)
  made = corruptions.corrupt(image, "spatter", 3, rng(1), size=224) / 255
  # At most the amount times pale turquoise, and somewhere as much.
  np.testing.assert_allclose(made.max((0, 1)), 0.5 * np.array([175, 238, 238]) / 255, atol=1 / 255)
  wet = made[..., 1] > 0.1
  assert 0.01 < wet.mean() < 0.6
  np.testing.assert_allclose(made[wet][:, 0] / made[wet][:, 1], 175 / 238, atol=0.05)
  assert not corruptions.corrupt(image[:2, :2], "spatter", 1, rng(3), size=224).any()


def test_edges_of_a_square():
  layer = np.zeros((20, 24), np.uint8)
  layer[6:14, 8:16] = 200
  found = edges.canny(layer, 50, 150)
  # One closed line around it, on one side of the step, and nothing anywhere else.
  rows, columns = np.nonzero(found)
  assert rows.min() >= 5 and rows.max() <= 14 and columns.min() >= 7 and columns.max() <= 16
  assert len(rows) >= 24 and not found[7:13, 9:15].any()
  faint = edges.canny(layer // 10, 50, 150)  # its gradient is 80: weak, and nothing strong beside
  assert not faint.any()


def test_equalized_by_counting():
  pixels = rng().integers(3, 60, (12, 13)).astype(np.uint8)
  lowest = pixels.min()
  rest = (pixels > lowest).sum()
  expected = [
    [round(255 * ((pixels <= v) & (pixels > lowest)).sum() / rest) for v in row] for row in pixels
  ]
  np.testing.assert_array_equal(edges.equalized(pixels), expected)
  flat = np.full((3, 3), 9, np.uint8)
  np.testing.assert_array_equal(edges.equalized(flat), flat)


def test_identities():
  flat = np.full((40, 40, 3), 90, np.uint8)
  for name in ("contrast", "gaussian_blur", "motion_blur", "zoom_blur", "glass_blur"):
    made = corruptions.corrupt(flat, name, 4, rng(), size=224).astype(int)
    assert np.abs(made - 90).max() <= 1
  np.testing.assert_array_equal(corruptions.corrupt(flat, "saturate", 3, rng(), size=224), flat)
  x = digital.saturate(flat / 255, rng(), 1.0, 0.0)
  np.testing.assert_allclose(x, flat / 255)


def test_which_table_a_size_takes():
  image = np.full((85, 300, 3), 100, np.uint8)
  assert corruptions.corrupt(image, "brightness", 1, rng())[0, 0, 0] == int(100 + 0.1 * 255)
  assert corruptions.corrupt(image[:84], "brightness", 1, rng())[0, 0, 0] == int(100 + 0.05 * 255)
  sizes = [corruptions.table_size(*s) for s in ((32, 32), (600, 224), (224, 600), (299, 299))]
  assert sizes == [32, 224, 224, 299]
  for name, severity in itertools.product(ALL, tables.SEVERITIES):
    for size in tables.SIZES:
      made = corruptions.corrupt(
        picture(24, 24), name, severity, rng(), size=size, frost=frost_photos()
      )
      assert made.shape == (24, 24, 3)


def test_mistakes():
  image = picture()
  with pytest.raises(
    errors.UserError, match="corruption='fogg' is not a corruption. Nearest: 'fog"
  ):
    corruptions.corrupt(image, "fogg", 1, rng())
  with pytest.raises(errors.UserError, match="severity=6 of a corruption should be from 1 to 5"):
    corruptions.corrupt(image, "fog", 6, rng())
  with pytest.raises(errors.UserError, match="size=64 .* should be 32, 224 or 299"):
    corruptions.corrupt(image, "fog", 1, rng(), size=64)
  with pytest.raises(ValueError, match=r"uint8 \(h, w, 3\); got float64"):
    corruptions.corrupt(image / 255, "fog", 1, rng())
