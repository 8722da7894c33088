"""metrics.jsonl as strict JSON, cut on resuming, and TensorBoard files read by TensorBoard."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from effnets.training import writers


def strict(path):
  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_lines_are_flushed_strict_json(tmp_path):
  writer = writers.Writer(tmp_path, tensorboard=False)
  values = {
    "train/loss": jnp.float32(0.5),
    "lr": np.float64(0.1),
    "images": 64,
    "nan": float("nan"),
  }
  writer.scalars(3, values | {"inf": jnp.inf, "half": jnp.bfloat16(1.5), "flag": True})
  (line,) = strict(tmp_path / "metrics.jsonl")  # before close
  assert line.pop("time") > 1e9
  assert line == {
    "step": 3,
    "train/loss": 0.5,
    "lr": 0.1,
    "images": 64,
    "nan": None,
    "inf": None,
    "half": 1.5,
    "flag": 1,
  }
  writer.close()
  writer.close()


@pytest.mark.parametrize("bad", [{"a": np.ones(2)}, {"a": "x"}, {"step": 1}])
def test_refuses_what_is_no_scalar(tmp_path, bad):
  with writers.Writer(tmp_path, tensorboard=False) as writer:
    with pytest.raises(ValueError, match="'(a|step)'"):
      writer.scalars(1, bad)


def test_resuming_keeps_each_step_once(tmp_path):
  with writers.Writer(tmp_path) as writer:
    for step in range(1, 8):
      writer.scalars(step, {"loss": step})
  path = tmp_path / "metrics.jsonl"
  with open(path, "ab") as file:
    file.write(b'{"step": 8, "loss": 8, "note": "\xc3')  # killed within a character
  assert [line["step"] for line in writers.read(path)] == list(range(1, 8))
  with writers.Writer(tmp_path) as writer:
    writer.truncate_after(5)
    for step in (6, 7, 8):
      writer.scalars(step, {"loss": 10 * step})
  assert [(x["step"], x["loss"]) for x in strict(path)] == [
    *((s, s) for s in range(1, 6)),
    *((s, 10 * s) for s in (6, 7, 8)),
  ]
  assert sorted(f.name for f in tmp_path.iterdir()) == ["metrics.jsonl", "tb"]


def test_appending_after_a_torn_line_starts_a_new_one(tmp_path):
  (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
  with writers.Writer(tmp_path, tensorboard=False) as writer:
    writer.scalars(2, {"loss": 1})
  assert [line["step"] for line in strict(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
  (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
  with pytest.raises(ValueError, match=r"m\.jsonl, line 2"):
    writers.read(tmp_path / "m.jsonl")
  assert writers.read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("opened_before", [0, 8, 98])  # 9 and 10, 99 and 100: names of two widths
def test_tensorboard_reads_it_and_forgets_what_was_cut(tmp_path, monkeypatch, opened_before):
  from tensorboard.backend.event_processing import event_accumulator

  monkeypatch.setattr(writers._Board, "_count", opened_before)
  with writers.Writer(tmp_path) as writer:
    for step in range(1, 6):
      writer.scalars(step, {"loss": 1.0 / step})
  with writers.Writer(tmp_path) as writer:
    writer.truncate_after(3)
    writer.scalars(4, {"loss": 40.0})
    # Readable while it is open.
    board = event_accumulator.EventAccumulator(str(tmp_path / "tb"))
    board.Reload()
    seen = [(e.step, round(e.value, 4)) for e in board.Scalars("loss")]
  assert seen == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 40.0)]


def test_inactive_writes_nothing(tmp_path):
  with writers.Writer(tmp_path / "new", active=False) as writer:
    writer.scalars(1, {"loss": 1})
    writer.truncate_after(0)
    writer.flush()
  assert not (tmp_path / "new").exists()


def test_imports_neither_tensorboard_nor_tensorflow_before_it_must(tmp_path):
  code = """
import sys
from effnets.training import writers
writers.Writer(sys.argv[1], tensorboard=False).close()
assert "tensorboard" not in sys.modules
sys.modules["tensorflow"] = None  # any import of it raises
with writers.Writer(sys.argv[1]) as writer:
  writer.scalars(1, {"loss": 1.0})
"""
  subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
