"""Checkpoints that are checked: what is restored is bit for bit what was saved, or it is not used.

Orbax writes the arrays, asynchronously and from any mesh. Beside them lies `meta`: the fingerprint,
shape and type of every leaf, the metrics and whatever the caller adds, under a checksum of its own.
On restoring, a checkpoint that is torn, cut or altered is reported and the one before it is used.

The arrays are stored as nested dicts of names (`params`, `stem`, `conv`, `kernel`), so that
`orbax.checkpoint.StandardCheckpointer().restore(directory / "12" / "state")` needs none of this.
"""

import json
import math
import pathlib
import shutil
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.experimental.multihost_utils
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jaxtyping import PyTree

from effnets import errors
from effnets.training import fingerprints

_NAMED = 5  # leaves that a message names before it counts


def present(folder: str | pathlib.Path) -> bool:
  """Returns whether there is a checkpoint in `folder`, whole or not; nothing is opened."""
  path = pathlib.Path(folder)
  return path.is_dir() and any(p.name.isdigit() for p in path.iterdir())


class Checkpoints:
  """The checkpoints of one run: the newest `keep`, and the best if a metric says which.

  >>> import tempfile, jax.numpy as jnp
  >>> with Checkpoints(tempfile.mkdtemp(), best_metric="top1") as checkpoints:
  ...   saved = checkpoints.save(5, {"w": jnp.ones(3)}, metrics={"top1": 0.9}, meta={"seed": 1})
  ...   state, step, meta = checkpoints.restore({"w": jax.ShapeDtypeStruct((3,), jnp.float32)})
  >>> step, meta
  (5, {'seed': 1})
  """

  def __init__(
    self,
    directory: str | pathlib.Path,
    *,
    keep: int = 3,
    best_metric: str | None = None,
    best_mode: str = "max",
    read_only: bool = False,
  ):
    """Opens `directory`, made if need be; what a killed run left half-written in it is removed.

    Args:
      keep: how many of the newest to keep, at least 1.
      best_metric: the metric (of those given to `save`) whose best checkpoint is kept as well.
      best_mode: `max` (larger is better) or `min`.
      read_only: changes nothing on disk, for use beside a run that is going on.
    Raises: ValueError for a bad `keep` or `best_mode`; UserError if `directory` cannot be made.
    """
    if keep < 1:
      raise ValueError(f"keep={keep} should be at least 1.")
    if best_mode not in ("max", "min"):
      raise ValueError(f"best_mode={best_mode!r} should be 'max' or 'min'.")
    self.directory = pathlib.Path(directory).absolute()
    self._keep, self._best_metric, self._best_mode = keep, best_metric, best_mode
    self._read_only = read_only
    self._metrics: dict[int, dict] = {}
    options = ocp.CheckpointManagerOptions(
      create=not read_only,
      cleanup_tmp_directories=not read_only,
      preservation_policy=_Policy(self._kept),
    )
    try:
      self._manager = ocp.CheckpointManager(self.directory, options=options)
    except OSError as err:
      raise errors.UserError(f"Cannot keep checkpoints in {self.directory}: {err}.") from err
    for step in self.steps():
      try:
        self._metrics[step] = self._read_meta(step)["metrics"] or {}
      except Exception as err:  # whatever the damage is, `restore` reports it when it matters
        logging.debug("metrics of checkpoint %d: %s", step, err)

  def save(
    self,
    step: int,
    state: PyTree,
    *,
    metrics: Mapping[str, float] | None = None,
    meta: Mapping[str, Any] | None = None,
  ) -> bool:
    """Starts to save `state`, and returns whether it did; False if `step` is saved already.

    Returns once the arrays are copied, so `state` may then be donated; waits for an earlier save
    to end and raises what that raised. Every process calls this.

    Args:
      state: pytree of arrays (no typed keys), None allowed. metrics: figures of this state.
      meta: anything JSON can hold; `restore` gives it back.
    Raises: TypeError if `meta` or `metrics` hold what JSON cannot.
    """
    if self._read_only:
      raise ValueError(f"{self.directory} was opened read-only.")
    if step in self.steps():
      return False
    leaves = fingerprints.named_leaves(state)
    metrics = {name: float(value) for name, value in (metrics or {}).items()}
    content = {
      "step": int(step),
      "leaves": {path: [list(x.shape), str(x.dtype)] for path, x in leaves.items()},
      "fingerprints": fingerprints.of(state),
      "metrics": {name: v if math.isfinite(v) else None for name, v in metrics.items()},
      "user": dict(meta or {}),
    }
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(_nested(state)),
      meta=ocp.args.JsonSave({"content": content, "crc32": _checksum(content)}),
    )
    self._metrics[step] = metrics
    # Forced: whether a step is due is the caller's decision, and after falling back to an older
    # checkpoint steps are saved that are not the newest ever seen.
    self._manager.save(step, args=args, force=True)
    return True

  def steps(self) -> list[int]:
    """Returns the saved steps in increasing order, one that is being written included."""
    return sorted(self._manager.all_steps())

  def latest(self) -> int | None:
    """Returns the newest saved step, or None."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """Returns the step with the best metric, the newest of equals; the newest if none has it."""
    best = self._best(self.steps())
    return self.latest() if best is None else best

  def metrics(self, step: int) -> dict[str, float]:
    """Returns the metrics that were saved with `step`; {} if there are none."""
    return dict(self._metrics.get(step, {}))

  def restore(
    self, abstract_state: PyTree, step: int | None = None
  ) -> tuple[PyTree, int, dict[str, Any]]:
    """Returns (state, step, meta) of the newest sound checkpoint, or of `step` alone.

    Damaged ones that are newer are reported as warnings and, once an older one is restored, set
    aside as `STEP.damaged`, so that their steps can be saved anew. If none is sound, nothing is
    moved.

    Args:
      abstract_state: pytree like the saved one, of `jax.ShapeDtypeStruct` (or arrays); each leaf
        is restored with its sharding, on any mesh (default: on one device).
    Raises: UserError if there is no checkpoint (or not `step`), if none is sound, or if a sound one
      holds leaves of other names, shapes or types: then it is of another model.
    """
    self.wait()
    available = self.steps()
    if not available:
      raise errors.UserError(f"There is no checkpoint in {self.directory}.")
    if step is not None and step not in available:
      raise errors.UserError(f"There is no checkpoint {step} in {self.directory}; of {available}.")
    damaged = {}
    for candidate in [step] if step is not None else reversed(available):
      content, reason = self._attempt(lambda c=candidate: self._read_meta(c))
      if reason is None:
        self._check_same_leaves(candidate, content["leaves"], abstract_state)
        state, reason = self._attempt(lambda c=candidate: self._read_state(c, abstract_state))
      if reason is None:
        # Outside the attempt, as it communicates: every process is here or none is.
        wrong = fingerprints.differing(content["fingerprints"], fingerprints.of(state))
        reason = f"the data of {_listed(wrong)} differ from what was saved" if wrong else None
      if reason is None:
        if damaged and not self._read_only:
          self._set_aside(damaged)
        return state, candidate, content["user"]
      damaged[candidate] = reason
      logging.warning(
        "Checkpoint %d in %s is damaged and not used: %s", candidate, self.directory, reason
      )
    listed = "; ".join(f"{s}: {reason}" for s, reason in damaged.items())
    others = [s for s in available if s not in damaged]
    hint = f" Other checkpoints there: {others}." if others else ""
    raise errors.UserError(f"No sound checkpoint in {self.directory} ({listed}).{hint}")

  def wait(self) -> None:
    """Returns when nothing is being written; raises what went wrong in the background."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the last save and ends the background threads."""
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self.close()

  def _best(self, steps):
    scores = {}
    for step in steps:
      score = self._metrics.get(step, {}).get(self._best_metric)
      if score is not None and math.isfinite(score):
        scores[step] = score if self._best_mode == "max" else -score
    return max(scores, key=lambda step: (scores[step], step), default=None)

  def _kept(self, steps):
    """Returns which of `steps` stay."""
    return {*sorted(steps)[-self._keep :], self._best(steps)}

  def _attempt(self, read):
    """Returns (result, None), or (None, reason) if `read` failed on any process.

    `read` must not communicate: it may have failed on the others.
    """
    result, reason = None, None
    try:
      result = read()
    except Exception as err:  # damage raises anything: OSError, ValueError, KeyError, ...
      reason = _reason(err)
    if jax.process_count() > 1:
      failed = jax.experimental.multihost_utils.process_allgather(np.int32(reason is not None))
      if failed.any() and reason is None:
        reason = f"process {int(np.argmax(failed))} could not read it"
    return (result, None) if reason is None else (None, reason)

  def _read_meta(self, step):
    # Read without Orbax: it needs the step's own metadata files, which may be what is damaged.
    path = self.directory / str(step) / "meta" / "metadata"
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["crc32"] != _checksum(stored["content"]):
      raise ValueError(f"{path} does not match its checksum")
    return stored["content"]

  def _read_state(self, step, abstract_state):
    target = jax.tree.map(_with_sharding, abstract_state)
    # Each process by itself: damage to what one of them reads would leave the others waiting for it
    # inside the manager's own `restore`.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=jax.process_index(),
      active_processes={jax.process_index()},
      barrier_sync_key_prefix=f"restore_{jax.process_index()}",
    )
    with ocp.Checkpointer(
      ocp.StandardCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
    ) as reader:
      restored = reader.restore(
        self.directory / str(step) / "state", args=ocp.args.StandardRestore(_nested(target))
      )
    return _unnested(restored, target)

  def _check_same_leaves(self, step, saved, abstract_state):
    here = {
      path: [list(x.shape), str(x.dtype)]
      for path, x in fingerprints.named_leaves(abstract_state).items()
    }
    differences = []
    for path in [*here, *(p for p in saved if p not in here)]:
      if path not in saved:
        differences.append(f"{path} {_described(here[path])} is not in it")
      elif path not in here:
        differences.append(f"{path} {_described(saved[path])} is in it only")
      elif saved[path] != here[path]:
        there = _described(saved[path])
        differences.append(f"{path} is {there} in it and {_described(here[path])} here")
    if differences:
      raise errors.UserError(
        f"Checkpoint {step} in {self.directory} is of another model or optimizer: "
        f"{_listed(differences, '; ')}. Use the config it was made with, or another workdir."
      )

  def _set_aside(self, steps):
    if jax.process_index() == 0:
      for step in steps:
        aside = self.directory / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (self.directory / str(step)).rename(aside)
    if jax.process_count() > 1:
      jax.experimental.multihost_utils.sync_global_devices("effnets checkpoints set aside")
    self._manager.reload()
    for step in steps:
      self._metrics.pop(step, None)


class _Policy:
  """An Orbax preservation policy from a function of the steps."""

  def __init__(self, kept):
    self._kept = kept

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
    del context
    kept = self._kept([checkpoint.step for checkpoint in checkpoints])
    return [checkpoint.step in kept for checkpoint in checkpoints]


def _checksum(content):
  return zlib.crc32(json.dumps(content, sort_keys=True, allow_nan=False).encode())


def _names(path):
  return [jax.tree_util.keystr((key,), simple=True) for key in path]


def _nested(tree):
  """Returns `tree` as nested dicts of names, without None and without empty parts."""
  nested = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    *parents, last = _names(path)
    inner = nested
    for name in parents:
      inner = inner.setdefault(name, {})
    inner[last] = leaf
  return nested


def _unnested(nested, like):
  """Returns a tree like `like` with the leaves of `nested`; undoes `_nested`."""

  def find(path, _):
    inner = nested
    for name in _names(path):
      inner = inner[name]
    return inner

  return jax.tree_util.tree_map_with_path(find, like)


def _with_sharding(leaf):
  sharding = getattr(leaf, "sharding", None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _described(leaf):
  shape, dtype = leaf
  return f"{dtype}[{','.join(map(str, shape))}]"


def _reason(err, length=300):
  """Returns what `err` comes down to in one line, without the dumps that storage layers append."""
  while err.__cause__ is not None:
    err = err.__cause__
  line = (str(err).strip().splitlines() or [""])[0].split(" [tensorstore_spec")[0]
  return f"{type(err).__name__}: {line if len(line) <= length else line[:length] + ' ...'}"


def _listed(items, separator=", "):
  more = len(items) - _NAMED
  return separator.join(items[:_NAMED]) + (f"{separator}and {more} more" if more > 0 else "")
