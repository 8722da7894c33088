"""Sums over counts, times, and what is fetched from the device when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets.training import meters


def metrics(loss, healthy=True, count=1.0):
  return {
    "loss": (jnp.float32(loss), jnp.float32(count)),
    "healthy": (jnp.float32(healthy), jnp.float32(1)),
  }


@pytest.fixture
def clock(monkeypatch):
  """Returns a list whose only element is the time."""
  now = [100.0]
  monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
  return now


def test_a_window_is_the_sum_over_the_count_and_the_time(clock):
  meter = meters.Meter(32)
  meter.start(waited=1.0)
  for loss, count in ((6.0, 2.0), (1.0, 1.0), (5.0, 3.0)):
    assert meter.add(1, metrics(loss, count=count)) is None
  clock[0] += 4.0
  with meter.paused():
    clock[0] += 50.0  # an evaluation
  assert meter.steps == 3
  figures = meter.flush(waited=2.0)
  assert figures == {
    "train/loss": pytest.approx(12 / 6),
    "images_per_second": pytest.approx(3 * 32 / 4.0),
    "input_wait": pytest.approx(0.25),
    "seconds": pytest.approx(4.0),
  }
  clock[0] += 1.0
  meter.add(2, metrics(7.0))
  assert meter.steps == 1  # a new window
  assert meter.flush(waited=2.0)["train/loss"] == 7.0


def test_a_mean_over_nothing_is_no_number(clock):
  meter = meters.Meter(1)
  meter.add(1, metrics(0.0, count=0.0))
  clock[0] += 1.0
  assert np.isnan(meter.flush(0.0)["train/loss"])


def test_the_first_step_that_was_not_finite_is_named():
  meter = meters.Meter(1)
  found = [meter.add(s, metrics(1.0, healthy=s < 3)) for s in range(1, 6)]
  # Noticed as soon as that step cannot be running any more.
  assert found == [None, None, None, None, 3]
  meter = meters.Meter(1)
  assert meter.add(1, metrics(1.0, healthy=False)) is None
  assert meter.unhealthy() == 1


def test_nothing_but_the_health_of_old_steps_leaves_the_device(monkeypatch):
  fetched = []
  real = jax.device_get
  monkeypatch.setattr(meters.jax, "device_get", lambda x: fetched.append(x) or real(x))
  meter, added = meters.Meter(1), []
  with jax.transfer_guard("disallow"):
    for step in range(6):
      with jax.transfer_guard("allow"):
        added.append(metrics(step))
      meter.add(step, added[-1])
    assert [id(x) for x in fetched] == [id(m["healthy"][0]) for m in added[: 6 - meters.RUN_AHEAD]]
    fetched.clear()
    meter.flush(0.0)
    assert len(fetched) == 1  # all at once
