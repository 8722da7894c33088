"""The same step on every mesh: same losses, same gradients leaf by leaf, same states."""

import functools

import jax
import numpy as np
import pytest

from tests.training import tiny

STEPS = 3


def config(**settings):
  """Returns a student's config: labelled and soft-labelled examples, all noise, averaging."""
  made = tiny.get_config()
  made.batch_size = 4
  made.data.unlabelled.update({"source": "soft", "ratio": 3.0})
  made.task.mixup = 0.2
  made.schedule.warmup_percent = 0.0  # weights move from the first step on
  for key, value in settings.items():
    section, _, name = key.partition("__")
    if name:
      made[section][name] = value
    else:
      made[section] = value
  return made


@functools.cache
def run(mesh=(1, 1, 1), **settings):
  """Returns (trainer, state, metrics by step)."""
  sizes = dict(zip(("data", "fsdp", "space"), mesh, strict=True))
  trainer = tiny.Trainer(config(**settings), sizes, sources={"soft": tiny.Soft()}, record=True)
  return trainer, *trainer.run(STEPS)


# (mesh, settings): what is different from one device under `jit`, with the same batch-norm group.
# Moments of 4 images span two devices of a mesh of 8; 2 is what `local` means there.
QUICK = [
  ((4, 2, 1), {"batch_norm__group": "4"}),
]
SLOW = [
  ((8, 1, 1), {"batch_norm__group": "4", "execution": "shard_map"}),
  ((2, 2, 2), {"batch_norm__group": "4"}),
  ((2, 1, 1), {"batch_norm__group": "4"}),
  ((2, 2, 1), {"batch_norm__group": "4"}),
  ((4, 1, 2), {"batch_norm__group": "4"}),
  ((4, 2, 1), {"batch_norm__group": "global"}),
  ((8, 1, 1), {"batch_norm__group": "local"}),
  ((2, 1, 1), {"batch_norm__group": "4", "execution": "shard_map"}),
  ((2, 2, 1), {"batch_norm__group": "4", "execution": "shard_map"}),
  ((4, 2, 1), {"batch_norm__group": "global", "execution": "shard_map"}),
  ((4, 2, 1), {"batch_norm__group": "local", "execution": "shard_map"}),
  # A group of 2 lies within the half of a device's examples that a micro-batch takes.
  ((4, 1, 1), {"batch_norm__group": "2", "accumulate": 2}),
  ((2, 2, 1), {"batch_norm__group": "2", "accumulate": 2, "execution": "shard_map"}),
  ((1, 1, 1), {"batch_norm__group": "4", "model__remat": "block"}),
  ((2, 2, 1), {"batch_norm__group": "4", "model__remat": "block"}),
]


def name(row):
  mesh, settings = row
  return "x".join(map(str, mesh)) + "-" + "-".join(map(str, settings.values()))


@pytest.mark.parametrize(
  "row", [*QUICK, *(pytest.param(row, marks=pytest.mark.slow) for row in SLOW)], ids=name
)
def test_every_mesh_computes_the_same(row):
  mesh, settings = row
  trainer, current, metrics = run(mesh, **settings)
  # What a group of images is on one device.
  shards = trainer.placement.batch_shards
  group = settings["batch_norm__group"]
  group = {"local": str(16 // shards), "global": "16"}.get(group, group)
  _, expected, expected_metrics = run(batch_norm__group=group)

  # float32 sums of some thousand terms in another order: 1e-6 of the loss, and 2e-5 of a gradient,
  # which also crosses the normalisation of 4 images several times.
  for ours, theirs in zip(metrics, expected_metrics, strict=True):
    assert ours.keys() == theirs.keys()
    for key in ours:
      np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, err_msg=key)
  tiny.assert_close(current.opt["gradients"], expected.opt["gradients"], tolerance=5e-5)
  # Weights, moments, averages and optimizer: as far as they moved.
  for part in ("params", "model_state", "ema", "opt"):
    tiny.assert_close(
      getattr(current, part),
      getattr(expected, part),
      tolerance=1e-4,
      start=getattr(trainer.initial, part),
    )
  assert int(current.step) == STEPS and bool(current.healthy)
  assert np.asarray(current.position).tolist() == [0, 16 * STEPS]


def test_large_leaves_are_really_sharded():
  trainer, current, _ = run((4, 2, 1), batch_norm__group="4")
  kernel = current.params["block_1"]["expand"]["conv"]["kernel"]
  for tree in (current.params, current.ema["params"], current.opt["gradients"]):
    leaf = tree["block_1"]["expand"]["conv"]["kernel"]
    assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, 1, 8, 8)}, leaf.sharding
  assert kernel.shape == (1, 1, 8, 16)
  sharded = [x for x in jax.tree.leaves(current) if not x.sharding.is_fully_replicated]
  assert len(sharded) > 20
  assert current.params["block_1"]["depthwise"]["conv"]["kernel"].sharding.is_fully_replicated


@pytest.mark.slow
def test_half_precision_stays_close():
  # 8 bits of mantissa: the loss to a percent, the direction of the whole gradient to a few degrees.
  _, current, metrics = run((4, 2, 1), batch_norm__group="4", model__dtype="bfloat16")
  _, expected, expected_metrics = run(batch_norm__group="4")
  np.testing.assert_allclose(metrics[0]["loss"], expected_metrics[0]["loss"], rtol=0.01)
  ours, theirs = (
    np.concatenate([x.ravel() for x in tiny.leaves(s.opt["gradients"]).values()])
    for s in (current, expected)
  )
  assert ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs) > 0.99
  kept = jax.tree.leaves((current.params, current.model_state, current.ema))
  assert all(x.dtype == np.float32 for x in kept)
