"""The profiler's window: when it opens and closes, and what it leaves."""

import ml_collections
import pytest

from effnets.training import profiling
from tests.training import tiny


def _window(folder, active=True, **settings):
  return profiling.Window(folder, ml_collections.ConfigDict(settings), active=active)


@pytest.fixture
def calls(monkeypatch):
  made = []
  monkeypatch.setattr(profiling.jax.profiler, "start_trace", lambda path: made.append(path))
  monkeypatch.setattr(profiling.jax.profiler, "stop_trace", lambda: made.append("stop"))
  return made


def test_it_covers_the_steps_that_were_asked_for(calls, tmp_path):
  seen = []
  with _window(tmp_path, start=2, steps=3) as window:
    for step in range(8):
      window.before(step, ())
      seen.append(len(calls))
  # Open before steps 2, 3 and 4, closed before step 5.
  assert seen == [0, 0, 1, 1, 1, 2, 2, 2] and calls == [str(tmp_path), "stop"]


def test_a_run_that_ends_early_closes_it_once(calls, tmp_path):
  with pytest.raises(KeyError), _window(tmp_path, start=0, steps=9) as window:
    window.before(0, ())
    raise KeyError("accident")
  assert calls == [str(tmp_path), "stop"]


@pytest.mark.parametrize(("active", "steps"), [(True, 0), (False, 3)])
def test_it_may_do_nothing(calls, tmp_path, active, steps):
  with _window(tmp_path, active=active, start=0, steps=steps) as window:
    window.before(0, ())
    window.before(1, ())
  assert calls == []


@pytest.mark.slow
def test_tensorboard_finds_a_profile(tmp_path):
  flags = ["--config.profile.start=1", "--config.profile.steps=1"]
  child = tiny.start(tmp_path, *flags, arg="steps=4")
  said, _ = child.communicate(timeout=300)
  assert child.returncode == 0, said
  assert list(tmp_path.glob("tb/plugins/profile/*/*.xplane.pb"))
