"""Schedules against the figures of the sheets and against NumPy formulas in float64."""

import math
import re

import jax
import numpy as np
import pytest

from effnets import errors
from effnets.training import schedules

IMAGENET = 1281167


def imagenet(batch_size, total_steps, base=0.016, **config):
  spe = IMAGENET / batch_size
  return schedules.create(
    {"name": "exponential", "warmup_epochs": 5, "decay_epochs": 2.4, **config},
    learning_rate=schedules.scaled(base, batch_size=batch_size, per_examples=256),
    total_steps=total_steps,
    steps_per_epoch=spe,
    batch_size=batch_size,
  )


@pytest.mark.parametrize(
  "step, rate",
  [
    (0, 0.0),
    (1000, 0.0409338),
    (3127, 0.1204352),
    (10000, 0.1066204),
    (100000, 0.0171453),
    (218949, 0.00154565),
  ],
)
def test_efficientnet_recipe(step, rate):
  schedule = imagenet(2048, 218949)
  # The sheet prints six or seven digits.
  np.testing.assert_allclose(schedule(step), rate, rtol=4e-6)
  assert schedule(step).dtype == np.float32


def test_efficientdets_recipe():
  # Official schedule class: 0.08 per 64 images, from a twentieth of it, cosine of the raw step.
  config = {"name": "cosine", "warmup_steps": 1000, "warmup_start": 0.05, "decay_steps": 299_000}
  s = schedules.create(
    {**config, "clamp": False}, learning_rate=0.16, total_steps=300_000, steps_per_epoch=1000
  )
  expected = {
    0: 0.008,
    500: 0.084,
    999: 0.159848,
    1000: 0.15999559,
    150_000: 0.0795797,
    299_999: 4.406e-6,
  }
  for step, rate in expected.items():
    np.testing.assert_allclose(s(step), rate, rtol=2e-4 if rate < 1e-4 else 1e-6)
  clamped = schedules.create(config, learning_rate=0.16, total_steps=300_000, steps_per_epoch=1000)
  assert clamped(299_999) == 0 and clamped(150_000) == s(150_000)


def test_noisy_student_recipe():
  total = schedules.steps({"total_epochs": 350}, "total", steps_per_epoch=IMAGENET / 4096)
  assert total == 109474
  schedule = imagenet(4096, total)
  np.testing.assert_allclose(schedule(total), 0.0030913, rtol=1e-5)
  twice = imagenet(2048, 218948, decay_epochs=4.8)
  np.testing.assert_allclose(twice(218948), 0.128 * 0.97**72, rtol=1e-5)


def test_svhn_recipe():
  batch, train, total = 128, 69257, 109474
  config = {"name": "exponential", "warmup_epochs": 5, "final_fraction": 2e-4 / 0.016}
  peak = schedules.scaled(0.016, batch_size=batch, per_examples=256)
  assert peak == 0.008
  spe = train / batch
  schedule = schedules.create(
    config, learning_rate=peak, total_steps=total, steps_per_epoch=spe, batch_size=batch
  )
  rates = schedules.sample(schedule, total)
  np.testing.assert_allclose(rates[2704], 0.008 * 2704 / 2705, rtol=1e-6)
  epochs, times = total / spe - 5, math.log(2e-4 / 0.016) / math.log(0.97)
  assert [round(epochs, 2), round(times, 3), round(epochs / times, 5)] == [197.33, 143.865, 1.37162]
  steps = np.arange(2705, total)
  expected = 0.008 * 0.97 ** np.floor(steps / (epochs / times * spe))
  np.testing.assert_allclose(rates[2705:], expected, rtol=1e-6)


@pytest.mark.parametrize("interval", [7, 10.0, 240.0, 3.5, 12.8])
def test_staircase_boundaries_are_exact(interval):
  config = {"name": "exponential", "decay_steps": interval}
  schedule = schedules.create(config, learning_rate=1.0, total_steps=1000, steps_per_epoch=10)
  expected = [np.float32(0.97 ** math.floor(s / interval)) for s in range(1000)]
  np.testing.assert_array_equal(schedules.sample(schedule, 1000), expected)
  jitted = jax.jit(schedule)
  boundary = math.ceil(3 * interval)
  assert jitted(boundary) == np.float32(0.97**3) and jitted(boundary - 1) == np.float32(0.97**2)


def reference(name, step, peak, total, warmup, after, f=0.0, power=2.0):
  if step < warmup:
    return peak * step / warmup
  start = warmup if after else 0
  progress = min((step - start) / (total - start), 1)
  if name == "constant":
    return peak
  if name == "cosine":
    return peak * (f + (1 - f) * 0.5 * (1 + math.cos(math.pi * progress)))
  if name == "polynomial":
    return peak * (f + (1 - f) * (1 - progress) ** power)
  if name == "exponential":
    return peak * 0.97 ** ((step - start) / 20)
  return peak * 0.1 ** sum(step - start >= b for b in (30, 60, 80))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
  "name, config",
  [
    ("constant", {}),
    ("cosine", {"final_fraction": 0.25}),
    ("polynomial", {"power": 3.0}),
    ("exponential", {"staircase": False, "decay_epochs": 2}),
    ("step", {"boundaries_epochs": (3, 6, 8)}),
  ],
)
def test_all_schedules(name, config, after):
  schedule = schedules.create(
    {"name": name, "warmup_percent": 5, "decay_after_warmup": after, **config},
    learning_rate=0.4,
    total_steps=100,
    steps_per_epoch=10,
  )
  extra = {"f": 0.25} if name == "cosine" else {"power": 3.0}
  expected = [reference(name, s, 0.4, 100, 5, after, **extra) for s in range(100)]
  np.testing.assert_allclose(schedules.sample(schedule, 100), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  "config",
  [
    {"name": "exponential", "warmup_epochs": 5, "decay_epochs": 2.4},
    {"name": "cosine", "warmup_percent": 10, "decay_after_warmup": True},
    {"name": "step", "boundaries_percent": (50, 98)},
  ],
)
def test_the_last_steps_of_a_longer_schedule(config):
  # The sheet's check 12: with the last s steps of `total`, the first rate is that of total - s.
  context = {"learning_rate": 0.128, "steps_per_epoch": IMAGENET / 2048}
  whole = schedules.create(config, total_steps=218949, **context)
  last = schedules.create({**config, "total_epochs": 350}, total_steps=938, **context)
  for step in (0, 1, 500, 937):
    assert last(step) == whole(218949 - 938 + step)
  same = schedules.create({**config, "total_steps": 938}, total_steps=938, **context)
  plain = schedules.create(config, total_steps=938, **context)
  np.testing.assert_array_equal(schedules.sample(same, 938), schedules.sample(plain, 938))


@pytest.mark.parametrize(
  "config, expected",
  [
    ({"warmup_steps": 7}, 7),
    ({"warmup_epochs": 1.5}, 15),
    ({"warmup_examples": 640}, 20),
    ({"warmup_percent": 29}, 29),
    ({"warmup_steps": None, "warmup_epochs": 2}, 20),
    ({}, 3),
  ],
)
def test_durations(config, expected):
  context = dict(steps_per_epoch=10, batch_size=32, total_steps=100, default=3)
  assert schedules.steps(config, "warmup", **context) == expected


@pytest.mark.parametrize(
  "config, message",
  [
    ({"a_steps": 1, "a_epochs": 2}, r"config.a_steps=1 and config.a_epochs=2 are both given"),
    ({}, r"config needs a value for one of config.a_steps, config.a_epochs"),
    ({"a_percent": 3}, r"config.a_percent=3: this unit has no meaning here; use config.a_steps"),
    ({"a_steps": -1}, r"config.a_steps=-1 should be a number of steps, 0 or more"),
    ({"a_steps": "5"}, r"config.a_steps='5' should be a number"),
    ({"a_steps": True}, r"config.a_steps=True should be a number"),
  ],
)
def test_duration_errors(config, message):
  with pytest.raises(errors.UserError, match=message):
    schedules.steps(config, "a", steps_per_epoch=10)


@pytest.mark.parametrize(
  "config, message",
  [
    ({"name": "cosin"}, r"config.schedule.name='cosin' is not a schedule. Nearest: 'cosine'"),
    (
      {"name": "cosine", "warmup_epoch": 1},
      r"config.schedule.warmup_epoch=1: .* Nearest: warmup_epochs",
    ),
    ({"name": "cosine", "factor": 0.5}, r"config.schedule.factor=0.5 has no effect .*'cosine'"),
    ({"name": "exponential"}, r"config.schedule needs a value .*decay_epochs"),
    ({"name": "exponential", "decay_steps": 0}, r"decay_\* should be a duration above 0"),
    (
      {"name": "exponential", "decay_steps": 1, "decay_rate": 1.5},
      r"decay_rate=1.5 should be a number in \(0, 1\]",
    ),
    (
      {"name": "exponential", "decay_steps": 5, "final_fraction": 0.1},
      r"final_fraction=0.1 and config.schedule.decay_steps=5 are both given",
    ),
    ({"name": "step", "boundaries_steps": (5, 3)}, r"boundaries_\* should increase"),
    ({"name": "step", "boundaries_percent": 101}, r"should lie between 0 and 100"),
    (
      {"name": "cosine", "total_steps": 99},
      r"total_\* is 99 steps, fewer than the 100 of this run",
    ),
    ({"name": "cosine", "total_percent": 99}, r"total_percent=99: this unit has no meaning here"),
  ],
)
def test_create_errors(config, message):
  with pytest.raises(errors.UserError) as caught:
    schedules.create(config, learning_rate=1.0, total_steps=100, steps_per_epoch=10)
  assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_bad_learning_rates(rate):
  with pytest.raises(errors.UserError, match=r"config.optimizer.learning_rate=.* at least 0"):
    schedules.create({"name": "constant"}, learning_rate=rate, total_steps=9, steps_per_epoch=1)


def test_berts_rate_jumps_after_the_warm_up():
  # BAM sheet, check 5: the linear decay counts from step 0.
  config = {"name": "polynomial", "power": 1.0, "warmup_percent": 10.0}
  schedule = schedules.create(config, learning_rate=1e-4, total_steps=1000, steps_per_epoch=100)
  rates = {0: 0.0, 50: 5e-5, 99: 9.9e-5, 100: 9e-5, 500: 5e-5, 999: 1e-7}
  for step, rate in rates.items():
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-4, abs=1e-12)
