"""Checkpoints under damage, kills, other meshes and other models."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from effnets import errors
from effnets.training import checkpoints

P = jax.sharding.PartitionSpec


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  stats: Any
  ema: Any
  opt: Any
  position: Any


def make(seed, width=48):
  """Returns a state with every kind of leaf; random floats, which no file format compresses."""
  rng = np.random.default_rng(seed)
  params = {
    "block_0": {"kernel": rng.normal(size=(3, 3, 8, width)), "bias": rng.normal(size=width)},
    "head": {"kernel": rng.normal(size=(width, 8))},
  }
  params = jax.tree.map(jnp.float32, params)
  opt = optax.rmsprop(lambda step: 0.1, momentum=0.9, initial_scale=1.0).init(params)
  return State(
    step=jnp.int32(seed),
    params=params,
    stats={"bn": {"mean": jnp.asarray(rng.normal(size=16), jnp.bfloat16)}},
    ema=None,
    opt=opt,
    position=jnp.array([1, 2**32 - seed - 1], jnp.uint32),
  )


def abstract(state, mesh=None):
  def leaf(x):
    spec = P("fsdp") if x.ndim and x.shape[0] % 2 == 0 else P()
    sharding = jax.sharding.NamedSharding(mesh, spec) if mesh is not None else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(leaf, state)


def mesh_of(*shape):
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh(shape, ("data", "fsdp"), auto, devices=jax.devices()[: shape[0] * shape[1]])


def check_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert a.dtype == e.dtype and a.shape == e.shape
    assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


@pytest.fixture
def warnings(monkeypatch):
  seen = []
  monkeypatch.setattr(logging, "warning", lambda text, *args: seen.append(text % args))
  return seen


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A directory with the checkpoints 1, 2, 3; tests copy it."""
  directory = tmp_path_factory.mktemp("saved")
  with checkpoints.Checkpoints(directory) as run:
    for step in (1, 2, 3):
      run.save(step, make(step), meta={"seed": step})
  return directory


@pytest.fixture
def directory(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "checkpoints")
  return tmp_path / "checkpoints"


def data_file(directory, step):
  """Returns the largest file of a checkpoint: the one with the array data."""
  files = [f for f in (directory / str(step) / "state").rglob("*") if f.is_file()]
  return max(files, key=lambda f: f.stat().st_size)


def flip(path, at=0.5):
  data = bytearray(path.read_bytes())
  data[int(len(data) * at)] ^= 0x10
  path.write_bytes(data)


def test_round_trip_bit_for_bit(directory, warnings):
  with checkpoints.Checkpoints(directory) as run:
    assert run.steps() == [1, 2, 3] and run.latest() == 3 and run.best() == 3
    state, step, meta = run.restore(abstract(make(0)))
    check_equal(state, make(3))
    assert isinstance(state, State) and state.ema is None
    assert (step, meta) == (3, {"seed": 3})
    state, step, meta = run.restore(abstract(make(0)), step=1)
    check_equal(state, make(1))
    assert (step, meta) == (1, {"seed": 1})
  assert not warnings


def test_state_may_be_donated_right_after_save(tmp_path):
  state = {"w": jax.random.normal(jax.random.key(0), (512, 512))}
  expected = np.asarray(state["w"]).copy()
  overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
  with checkpoints.Checkpoints(tmp_path) as run:
    run.save(1, state)
    assert overwrite(state)["w"][0, 0] == -1
    restored, _, _ = run.restore({"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)})
  np.testing.assert_array_equal(restored["w"], expected)


@pytest.mark.parametrize("source, target", [((1, 1), (4, 2)), ((4, 2), (1, 1)), ((8, 1), (2, 2))])
def test_other_meshes(tmp_path, source, target):
  state = make(5)
  shardings = jax.tree.map(lambda x: x.sharding, abstract(state, mesh_of(*source)))
  with checkpoints.Checkpoints(tmp_path) as run:
    run.save(5, jax.device_put(state, shardings))
  goal = abstract(state, mesh_of(*target))
  with checkpoints.Checkpoints(tmp_path) as run:
    restored, _, _ = run.restore(goal)
  check_equal(restored, state)
  jax.tree.map(
    lambda x, g: x.sharding == g.sharding or pytest.fail(f"{x.sharding}"), restored, goal
  )


def test_one_flipped_byte_is_noticed_and_the_one_before_is_used(directory, warnings):
  flip(data_file(directory, 3))
  with checkpoints.Checkpoints(directory) as run:
    state, step, _ = run.restore(abstract(make(0)))
    check_equal(state, make(2))
    assert step == 2
    (warning,) = warnings
    assert re.search(r"Checkpoint 3 in .* is damaged and not used: .*", warning)
    # Set aside, so that the resumed run can save the step again.
    assert run.steps() == [1, 2] and (directory / "3.damaged").is_dir()
    assert run.save(3, make(33))
  with checkpoints.Checkpoints(directory) as run:
    state, step, _ = run.restore(abstract(make(0)))
    check_equal(state, make(33))


def test_names_the_leaf_whose_data_changed(tmp_path, warnings):
  state = {"a": jnp.ones(4), "b": jax.random.normal(jax.random.key(1), (100, 100))}
  with checkpoints.Checkpoints(tmp_path) as run:
    for step in (1, 2):
      run.save(step, state)
  path = data_file(tmp_path, 2)
  flip(path, 0.5)
  with checkpoints.Checkpoints(tmp_path) as run:
    assert run.restore(abstract(state))[1] == 1
  assert "the data of b differ from what was saved" in warnings[0], warnings


def damages(path):
  size = path.stat().st_size
  yield "flip", lambda: flip(path, 0.3)
  yield "cut", lambda: os.truncate(path, size // 2)
  yield "empty", lambda: os.truncate(path, 0)
  yield "gone", path.unlink


def test_whatever_file_is_damaged_nothing_wrong_is_restored(directory, tmp_path, warnings):
  """Each file of the newest checkpoint, damaged in some way: it comes back right or not at all."""
  outcomes = set()
  relative = [f.relative_to(directory) for f in (directory / "3").rglob("*") if f.is_file()]
  for index, name in enumerate(relative):
    every = ("flip", "cut", "empty", "gone")
    # All four ways for the two files that matter most, two in turn for the others.
    important = name in (
      pathlib.Path("3/meta/metadata"),
      data_file(directory, 3).relative_to(directory),
    )
    for kind in every if important else ("flip", every[1 + index % 3]):
      copy = tmp_path / f"{index}_{kind}"
      shutil.copytree(directory, copy)
      dict(damages(copy / name))[kind]()
      # The damage was done while nothing was open; a start after it must not fail either.
      with checkpoints.Checkpoints(copy) as run:
        state, step, _ = run.restore(abstract(make(0)))
      check_equal(state, make(step))
      assert step in (2, 3), (name, kind)
      outcomes.add((name.parts[1], step))
      if name.parts[1] == "meta" and name.name == "metadata":
        assert step == 2, kind
      shutil.rmtree(copy)
  assert {("state", 2), ("meta", 2)} <= outcomes


def test_all_damaged(directory, warnings):
  for step in (1, 2, 3):
    flip(data_file(directory, step))
  with checkpoints.Checkpoints(directory) as run:
    with pytest.raises(errors.UserError, match=r"No sound checkpoint in .*\(3: .*; 2: .*; 1: .*\)"):
      run.restore(abstract(make(0)))
    assert run.steps() == [1, 2, 3]  # none is moved: the cause may lie elsewhere
  assert len(warnings) == 3


def test_a_step_asked_for_is_not_replaced(directory, warnings):
  os.truncate(data_file(directory, 2), 10)
  with checkpoints.Checkpoints(directory) as run:
    with pytest.raises(errors.UserError, match=r"\(2: .*\)\. Other checkpoints there: \[1, 3\]"):
      run.restore(abstract(make(0)), step=2)
    with pytest.raises(errors.UserError, match=r"no checkpoint 7 in .*; of \[1, 2, 3\]"):
      run.restore(abstract(make(0)), step=7)


def test_nothing_there(tmp_path):
  with checkpoints.Checkpoints(tmp_path / "new") as run:
    assert run.latest() is None and run.best() is None
    with pytest.raises(errors.UserError, match="There is no checkpoint in .*new"):
      run.restore(abstract(make(0)))


def test_another_model(directory, warnings):
  with checkpoints.Checkpoints(directory) as run:
    with pytest.raises(errors.UserError) as caught:
      run.restore(abstract(make(0, width=32)))
    text = str(caught.value)
    assert "params/block_0/bias is float32[48] in it and float32[32] here" in text
    assert "and 4 more" in text and "another model" in text
    other = make(0).replace(ema={"w": jnp.ones(3)}, position=None)
    with pytest.raises(errors.UserError) as caught:
      run.restore(abstract(other))
    assert "ema/w float32[3] is not in it" in str(caught.value)
    assert "position uint32[2] is in it only" in str(caught.value)
    assert run.steps() == [1, 2, 3]
  assert not warnings


def test_keeps_the_newest_and_the_best(tmp_path):
  scores = {1: 0.2, 2: 0.9, 3: 0.4, 4: float("nan"), 5: None, 6: 0.5, 7: 0.3}
  with checkpoints.Checkpoints(tmp_path, keep=2, best_metric="top1") as run:
    for step, score in scores.items():
      run.save(step, {"w": jnp.full(3, step)}, metrics=None if score is None else {"top1": score})
    run.wait()
    assert run.steps() == [2, 6, 7] and run.best() == 2 and run.metrics(6) == {"top1": 0.5}
  # The scores are read back at the next start.
  with checkpoints.Checkpoints(tmp_path, keep=2, best_metric="top1") as run:
    assert run.best() == 2
    run.save(8, {"w": jnp.full(3, 8)}, metrics={"top1": 0.9})
    run.save(9, {"w": jnp.full(3, 9)})
    run.wait()
    assert run.steps() == [8, 9] and run.best() == 8  # of equals the newer
  with checkpoints.Checkpoints(tmp_path, best_metric="loss", best_mode="min") as run:
    assert run.best() == 9  # no checkpoint has this metric
    run.save(10, {"w": jnp.zeros(3)}, metrics={"loss": 0.1})
    run.save(11, {"w": jnp.zeros(3)}, metrics={"loss": 0.4})
    assert run.best() == 10


def test_saving_a_step_twice_keeps_the_first(tmp_path):
  with checkpoints.Checkpoints(tmp_path) as run:
    assert run.save(1, {"w": jnp.zeros(3)})
    assert not run.save(1, {"w": jnp.ones(3)})
    assert run.restore({"w": jnp.zeros(3)})[0]["w"][0] == 0


def test_read_only_changes_nothing(directory, warnings):
  flip(data_file(directory, 3))
  torn = directory / "4.orbax-checkpoint-tmp"
  torn.mkdir()
  before = sorted(directory.rglob("*"))
  with checkpoints.Checkpoints(directory, read_only=True) as run:
    assert run.restore(abstract(make(0)))[1] == 2
    with pytest.raises(ValueError, match="read-only"):
      run.save(4, make(4))
  assert sorted(directory.rglob("*")) == before
  with checkpoints.Checkpoints(directory) as run:
    run.wait()
    run.save(4, make(4))
  assert not torn.exists()


def test_a_directory_that_cannot_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="Cannot keep checkpoints in .*file/checkpoints"):
    checkpoints.Checkpoints(tmp_path / "file" / "checkpoints")


_CHILD = """
import os, sys
os.environ["JAX_PLATFORMS"] = "cpu"
import jax.numpy as jnp, numpy as np
from effnets.training import checkpoints
run = checkpoints.Checkpoints(sys.argv[1])
for step in range(1, 1000):
  data = np.random.default_rng(step).normal(size=(1000, 2000))
  run.save(step, {"w": jnp.asarray(data, jnp.float32)}, meta={"step": step})
  print(step, flush=True)
"""


@pytest.mark.parametrize("after", [3])
def test_killed_while_saving(tmp_path, after, warnings):
  root = pathlib.Path(checkpoints.__file__).parents[2]
  child = subprocess.Popen(
    [sys.executable, "-c", _CHILD, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    env={**os.environ, "PYTHONPATH": str(root)},
  )
  try:
    for line in child.stdout:
      if int(line) == after:  # `save` has returned; the files are being written now
        break
  finally:
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
  assert child.returncode == -signal.SIGKILL
  with checkpoints.Checkpoints(tmp_path) as run:
    state, step, meta = run.restore({"w": jax.ShapeDtypeStruct((1000, 2000), jnp.float32)})
    assert step >= after - 1 and meta == {"step": step}
    expected = np.random.default_rng(step).normal(size=(1000, 2000)).astype(np.float32)
    np.testing.assert_array_equal(state["w"], expected)
    assert run.save(step + 1, state)
  assert not [f for f in os.listdir(tmp_path) if "tmp" in f]


_PROCESS = """
import os, pathlib, sys
index, directory, port = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("localhost:" + port, 2, index)
import numpy as np
from jax.experimental import multihost_utils
from effnets.training import checkpoints, fingerprints
P, N = jax.sharding.PartitionSpec, jax.sharding.NamedSharding
auto = (jax.sharding.AxisType.Auto,) * 2
wide, tall = (jax.make_mesh(shape, ("data", "fsdp"), auto) for shape in ((2, 2), (1, 4)))

def values(step):
  rng = np.random.default_rng(step)
  return {"a": rng.normal(size=(8, 400)).astype(np.float32), "b": np.int32(step)}

def place(tree, mesh, specs):
  put = lambda x, s: jax.make_array_from_callback(x.shape, N(mesh, s), lambda i: np.asarray(x)[i])
  return {name: put(leaf, specs[name]) for name, leaf in tree.items()}

with checkpoints.Checkpoints(directory) as run:
  for step in (1, 2, 3):
    run.save(step, place(values(step), wide, {"a": P("data", "fsdp"), "b": P()}))
multihost_utils.sync_global_devices("saved")
if index == 0:
  files = [f for f in (directory / "3" / "state").rglob("*") if f.is_file()]
  os.truncate(max(files, key=lambda f: f.stat().st_size), 100)
multihost_utils.sync_global_devices("damaged")
with checkpoints.Checkpoints(directory) as run:
  like = place(values(0), tall, {"a": P("fsdp"), "b": P()})
  state, step, _ = run.restore(like)
  assert step == 2 and run.steps() == [1, 2], (step, run.steps())
  alone = {name: fingerprints.fingerprint(x) for name, x in values(2).items()}
  assert fingerprints.of(state) == alone
  assert run.save(3, state)
print("process", index, "done")
"""


@pytest.mark.slow
def test_two_processes_agree_on_the_checkpoint_to_use(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  root = pathlib.Path(checkpoints.__file__).parents[2]
  children = [
    subprocess.Popen(
      [sys.executable, "-c", _PROCESS, str(index), str(tmp_path), port],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env={**os.environ, "PYTHONPATH": str(root)},
    )
    for index in (0, 1)
  ]
  try:
    outputs = [child.communicate(timeout=120)[0] for child in children]
  finally:
    for child in children:
      child.kill()
  assert [child.returncode for child in children] == [0, 0], "\n".join(outputs)
  assert sorted(f.name for f in tmp_path.iterdir()) == ["1", "2", "3", "3.damaged"]
