"""Statistics of times by hand; the measuring process itself, started once."""

import json
import os
import signal

import numpy as np
import pytest

from effnets import errors, models
from effnets.models import layers, stage_tables
from effnets.search import cost, latency, latency_process, spaces


def test_the_steadiest_of_several():
  noisy, calm = [1.0] * 9 + [2.0], [1.0] * 9 + [1.1]
  takes = iter([(noisy, 3.0), (calm, 2.0), (noisy, 1.0)])
  made = latency.summary(lambda: next(takes), tries=3, device="x")
  assert made.steady and made.tries == 2 and made.load == 2.0
  assert made.cv == pytest.approx(0.03 / 1.01)
  takes = iter([(noisy, 3.0), ([1.0, 2.0], 2.0), (noisy, 1.0)])
  made = latency.summary(lambda: next(takes), tries=3)
  assert not made.steady and made.tries == 3 and made.cv == pytest.approx(0.3 / 1.1)
  made = latency.summary(lambda: (np.arange(1, 102), 0.0), tries=1)
  assert (made.p10, made.p50, made.p90, made.runs) == (11, 51, 91, 101)


def test_short_runs_are_taken_together():
  now, calls = [0], []

  def run():
    calls.append(now[0])
    now[0] += 250_000  # nanoseconds

  times = latency_process.timed(run, warmup=3, runs=5, clock=lambda: now[0])
  assert times == [0.25] * 5 and len(calls) == 3 + 5 * 40
  calls.clear()

  def long():
    calls.append(0)
    now[0] += 12_000_000

  assert latency_process.timed(long, warmup=1, runs=2, clock=lambda: now[0]) == [12.0] * 2
  assert len(calls) == 3


def test_rows_travel_as_text():
  row = stage_tables.Row("mbconv", (3, 5), 2, 6, 24, squeeze=layers.Squeeze(0.5), expand_parts=2)
  assert latency_process.unpack(json.loads(json.dumps(latency_process.pack(row)))) == row
  plain = stage_tables.Row("conv", 3, 1, 1, 8)
  assert latency_process.unpack(json.loads(json.dumps(latency_process.pack(plain)))) == plain


@pytest.mark.parametrize(
  "runtime, package", [("onnx", "onnxruntime"), ("tflite", "ai-edge-litert")]
)
def test_exported_networks_are_measured(runtime, package):
  made = spaces.create("mnas_micro")
  tokens = made.sample(np.random.default_rng(0))
  with latency.Meter(runtime=runtime, warmup=1, runs=3, tries=1) as meter:
    assert meter.about["runtime"].startswith(package)
    nothing, whole = meter.nothing(), meter.network(made, tokens, image_size=16, num_classes=10)
    pieces = cost.pieces(made.decode(tokens), 16, 10)
    # Programs of nothing and of one of its layers are many times shorter; which of the two is the
    # shorter a machine at work does not tell.
    assert 0 < min(nothing.p50, meter.piece(pieces[1]).p50)
    assert max(nothing.p50, meter.piece(pieces[1]).p50) < whole.p50


def test_what_is_measured_is_the_network():
  made = spaces.create("mnas_micro")
  module = spaces.network(made, made.sample(np.random.default_rng(0)), 10)
  module = module.clone(folded=True, plain=True)
  x = np.random.default_rng(1).standard_normal((1, 16, 16, 3)).astype(np.float32)
  variables = models.init(module, 0, inputs=(x,))
  expected = module.apply(variables, x)
  (found,) = latency_process._ready(module.apply, variables, x, "onnx")()
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_runtimes_that_cannot_be():
  with pytest.raises(errors.UserError, match="runtime='onxn' is no.*onnx"):
    latency.Meter(runtime="onxn")
  with pytest.raises(errors.UserError, match="measures on cpu, not on platform='cuda'"):
    latency.Meter(runtime="tflite", platform="cuda")


def test_the_process(tmp_path):
  made = spaces.create("mnas_tiny")
  tokens = made.sample(np.random.default_rng(0))
  settings = {"warmup": 1, "runs": 3, "tries": 1, "cache": tmp_path / "cache.jsonl"}
  with latency.Meter(**settings) as meter:
    assert meter.about["platform"] == "cpu" and meter.about["threads"] == 1
    status = open(f"/proc/{meter._process.pid}/status", encoding="utf-8").read()
    cores = [line.split()[1] for line in status.splitlines() if "Cpus_allowed_list" in line]
    assert cores and cores[0].isdigit()
    nothing = meter.nothing()
    whole = meter.network(made, tokens, num_classes=10)
    assert 0 < nothing.p50 < whole.p50 and whole.runs == 3 and whole.p10 <= whole.p90
    pieces = cost.pieces(made.decode(tokens), 32, 10)
    stem, last = meter.piece(pieces[0]), meter.piece(pieces[-1])
    assert stem.p50 > 0 and last.p50 > 0
    with pytest.raises(errors.UserError, match="no networks to build"):
      meter.network(spaces.create("nb201"), (0,) * 6)
    # A mistake does not end the process.
    assert meter.network(made, tokens, num_classes=10) is whole
    os.kill(meter._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended with status -9"):
      meter.piece(pieces[1])
  with pytest.raises(RuntimeError, match="inside its `with`"):
    meter.piece(pieces[1])
  # Another process on the same device measures nothing twice.
  with open(tmp_path / "cache.jsonl", "a", encoding="utf-8") as file:
    file.write('{"key": "cut o')
  again = latency.Meter(**settings)
  again.about = meter.about
  assert again.network(made, tokens, num_classes=10) == whole
  # A network of another key is not there.
  with pytest.raises(RuntimeError, match="inside its `with`"):
    again.network(made, made.mutate(tokens, np.random.default_rng(1)), num_classes=11)
