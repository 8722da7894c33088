"""Learning-rate schedules: from a config to a function `step -> learning rate`.

Durations carry their unit in the name of their key (`warmup_epochs`, `decay_steps`, ...) and all go
through one converter, so nothing guesses what a number means.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from effnets import errors

Schedule = Callable[[Int[Array, ""] | int], Float[Array, ""]]

UNITS = ("steps", "epochs", "examples", "percent")

# A product such as 0.29 * 100 lies just below the integer that is meant; a true fraction of a step
# this close to the next integer does not occur with any epoch length a data set can have.
_SLACK = 1e-6

# Every field of a schedule's config beside `name`, with its default. `None` is "not given".
_COMMON = {"warmup": None, "total": None, "decay_after_warmup": False, "warmup_start": 0.0}
_FIELDS = {
  "constant": {},
  "exponential": {"decay": None, "decay_rate": 0.97, "staircase": True, "final_fraction": None},
  "cosine": {"decay": None, "final_fraction": 0.0, "clamp": True},
  "polynomial": {"decay": None, "final_fraction": 0.0, "power": 2.0},
  "step": {"boundaries": None, "factor": 0.1},
}
_DURATIONS = ("warmup", "total", "decay", "boundaries")


def duration(
  config: Mapping[str, Any],
  name: str,
  *,
  steps_per_epoch: float | None = None,
  batch_size: int | None = None,
  total_steps: int | None = None,
  default: Any = None,
  key: str = "config",
) -> Any:
  """Returns the duration `name` of `config` in steps, as a float (or a list of them for a list).

  Exactly one of `NAME_steps`, `NAME_epochs`, `NAME_examples`, `NAME_percent` may hold a value.

  Args:
    config: any mapping. name: the key without its unit, such as `warmup`.
    steps_per_epoch: examples per epoch over the batch size, not rounded; for `_epochs`.
    batch_size: global batch size; for `_examples`. total_steps: for `_percent` (0 to 100 of it).
    default: what to return when none is given; None makes the duration required.
    key: how messages call `config`.
  Raises: UserError if none or several are given, the unit cannot be used here, or a value is not a
    number of at least 0.

  >>> duration({"warmup_epochs": 5}, "warmup", steps_per_epoch=625.5698)
  3127.849
  """
  given = {u: config[f"{name}_{u}"] for u in UNITS if config.get(f"{name}_{u}") is not None}
  if not given:
    if default is None:
      options = ", ".join(f"{key}.{name}_{u}" for u in UNITS)
      raise errors.UserError(f"{key} needs a value for one of {options}.")
    return default
  if len(given) > 1:
    values = " and ".join(f"{key}.{name}_{u}={v!r}" for u, v in given.items())
    raise errors.UserError(f"{values} are both given; keep one and set the others to None.")
  ((unit, value),) = given.items()
  full = f"{key}.{name}_{unit}"
  per_unit = {
    "steps": 1.0,
    "epochs": steps_per_epoch,
    "examples": None if batch_size is None else 1.0 / batch_size,
    "percent": None if total_steps is None else total_steps / 100.0,
  }
  if per_unit[unit] is None:
    usable = ", ".join(f"{key}.{name}_{u}" for u in UNITS if per_unit[u] is not None)
    raise errors.UserError(f"{full}={value!r}: this unit has no meaning here; use {usable}.")

  def convert(number):
    is_number = isinstance(number, (int, float, np.number)) and not isinstance(number, bool)
    if not is_number or not math.isfinite(number) or number < 0:
      raise errors.UserError(f"{full}={value!r} should be a number of {unit}, 0 or more.")
    if unit == "percent" and number > 100:
      raise errors.UserError(f"{full}={value!r} should lie between 0 and 100.")
    if unit == "examples":
      return number / batch_size
    if unit == "percent":
      return number * total_steps / 100.0
    return float(number * per_unit[unit])

  if isinstance(value, (list, tuple)):
    return [convert(number) for number in value]
  return convert(value)


def steps(config: Mapping[str, Any], name: str, **arguments: Any) -> Any:
  """Returns the duration `name` of `config` in whole steps, rounded down as TensorFlow's `int`.

  Arguments and errors are those of `duration`.

  >>> steps({"total_epochs": 350}, "total", steps_per_epoch=1281167 / 2048)
  218949
  >>> steps({"warmup_percent": 29}, "warmup", total_steps=100)
  29
  """
  value = duration(config, name, **arguments)
  if isinstance(value, list):
    return [math.floor(v + _SLACK) for v in value]
  return math.floor(value + _SLACK)


def scaled(learning_rate: float, *, batch_size: int, per_examples: int | None) -> float:
  """Returns the peak learning rate: `learning_rate` per `per_examples` images of the batch.

  `per_examples=None` leaves the rate as it is.

  >>> scaled(0.016, batch_size=2048, per_examples=256)
  0.128
  """
  return learning_rate if per_examples is None else learning_rate * batch_size / per_examples


def create(
  config: Mapping[str, Any],
  *,
  learning_rate: float,
  total_steps: int,
  steps_per_epoch: float,
  batch_size: int | None = None,
  key: str = "config.schedule",
) -> Schedule:
  """Returns the schedule named `config.name`: step (int32 scalar or int) -> rate (float32 scalar).

  All warm up linearly from `warmup_start`, a fraction s of the peak (default 0): rate = peak * (s
  + (1 - s) * step / warmup_steps) while step < warmup_steps. The decay counts from step 0,
  warm-up included (the sheet's trap 7), unless `decay_after_warmup`. With `t` steps counted so,
  `T` the duration `decay` (default: to the end) and `f` = `final_fraction` of the peak:

  - `constant`: peak.
  - `exponential`: peak * decay_rate ** floor(t / T); `staircase=False` leaves out the floor.
    Instead of `decay`, `final_fraction` may say what the rate is one warm-up's length before the
    end; T follows from it, as in the SVHN recipe.
  - `cosine`: peak * (f + (1 - f) * (1 + cos(pi * min(t / T, 1))) / 2); `clamp=False` leaves out
    the minimum, so that the rate rises again after T, as EfficientDet's does.
  - `polynomial`: peak * (f + (1 - f) * (1 - min(t / T, 1)) ** power).
  - `step`: peak * factor ** (number of `boundaries` that t has reached).

  With the duration `total`, longer than the run, the schedule is that of a run of that length, of
  which this one does the last steps: it starts at step `total - total_steps`. `_percent` is then of
  `total`.

  Args:
    config: `name` and the fields above, durations with their unit (`warmup_epochs=5`).
    learning_rate: the peak, see `scaled`, of `config.optimizer`. total_steps: length of the run.
    steps_per_epoch: examples per epoch over batch size, not rounded. batch_size: global.
    key: how messages call `config`.
  Raises: UserError for an unknown name or field, a missing or doubled duration, a bad value.
  Source: EfficientNet sheet 3.5; Noisy Student sheet 4 (SVHN), 3.5 (`train_last_step_num`).

  >>> config = {"name": "exponential", "warmup_epochs": 5, "decay_epochs": 2.4}
  >>> s = create(config, learning_rate=0.128, total_steps=218949, steps_per_epoch=1281167 / 2048)
  >>> round(float(s(10000)), 7)
  0.1066204
  """
  config = dict(config)
  name = config.pop("name", None)
  if name not in _FIELDS:
    raise errors.unknown(f"{key}.name", name, "a schedule", _FIELDS)
  values = _read(config, name, key)
  context = dict(steps_per_epoch=steps_per_epoch, batch_size=batch_size, key=key)
  whole = steps(config, "total", default=total_steps, **context)
  if whole < total_steps:
    raise errors.UserError(
      f"{key}.total_* is {whole} steps, fewer than the {total_steps} of this run, its last ones."
    )
  skipped, total_steps = whole - total_steps, whole
  context["total_steps"] = total_steps
  if not isinstance(learning_rate, (int, float)) or not 0 <= learning_rate < math.inf:
    raise errors.UserError(
      f"config.optimizer.learning_rate={learning_rate!r} should be a number of at least 0."
    )
  peak = float(learning_rate)
  warmup = steps(config, "warmup", default=0, **context)
  start = warmup if values["decay_after_warmup"] else 0

  if name == "constant":
    decay = _constant(peak)
  elif name == "exponential":
    interval = _exponential_interval(config, values, warmup, context)
    if values["staircase"]:
      count = math.ceil(max(total_steps - start, 0) / interval) + 1
      boundaries = [math.ceil(k * interval - _SLACK) for k in range(1, count)]
      decay = _staircase(peak, boundaries, values["decay_rate"])
    else:
      decay = _smooth_exponential(peak, interval, values["decay_rate"])
  elif name == "step":
    boundaries = steps(config, "boundaries", **context)
    if not isinstance(boundaries, list):
      boundaries = [boundaries]
    if boundaries != sorted(boundaries):
      raise errors.UserError(f"{key}.boundaries_* should increase; they are steps {boundaries}.")
    decay = _staircase(peak, boundaries, values["factor"])
  else:
    length = steps(config, "decay", default=max(total_steps - start, 1), **context)
    power, clamp = (None, values["clamp"]) if name == "cosine" else (values["power"], True)
    decay = _to_fraction(peak, max(length, 1), values["final_fraction"], power, clamp)

  def schedule(step):
    step = jnp.asarray(step, jnp.int32) + skipped
    rate = decay(jnp.maximum(step - start, 0))
    if warmup:
      first = values["warmup_start"]
      ramp = peak * first + step.astype(jnp.float32) * jnp.float32(peak * (1 - first) / warmup)
      rate = jnp.where(step < warmup, ramp, rate)
    return rate.astype(jnp.float32)

  return schedule


def _read(config, name, key):
  """Returns the plain fields of `config` with defaults filled in, all names and ranges checked."""
  fields = {**_COMMON, **_FIELDS[name]}
  plain = [f for f in fields if f not in _DURATIONS]
  timed = [f"{f}_{u}" for f in fields if f in _DURATIONS for u in UNITS]
  # A config may list the fields of every schedule, so that --config.schedule.name can change alone.
  known = {f for other in (_COMMON, *_FIELDS.values()) for f in other if f not in _DURATIONS}
  known |= {f"{f}_{u}" for f in _DURATIONS for u in UNITS}
  for field, value in config.items():
    if field not in known:
      near = ", ".join(errors.nearest(field, known)) or ", ".join(sorted(plain + timed))
      raise errors.UserError(
        f"{key}.{field}={value!r}: schedules have no such field. Nearest: {near}."
      )
    if value is not None and field not in plain and field not in timed:
      raise errors.UserError(
        f"{key}.{field}={value!r} has no effect on the schedule {name!r}; set it to None. "
        f"Fields of {name!r}: {', '.join(sorted(plain + timed))}."
      )
  values = {f: fields[f] if config.get(f) is None else config[f] for f in plain}
  ranges = {
    "decay_rate": (lambda v: 0 < v <= 1, "in (0, 1]"),
    "factor": (lambda v: 0 < v, "positive"),
    "power": (lambda v: v > 0, "positive"),
    "final_fraction": (lambda v: 0 <= v <= 1, "in [0, 1]"),
    "warmup_start": (lambda v: 0 <= v <= 1, "in [0, 1]"),
  }
  for field, (valid, words) in ranges.items():
    value = values.get(field)
    if value is None:
      continue
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not valid(value):
      raise errors.UserError(f"{key}.{field}={value!r} should be a number {words}.")
  return values


def _exponential_interval(config, values, warmup, context):
  """Returns the steps between two decays."""
  key, fraction, rate = context["key"], values["final_fraction"], values["decay_rate"]
  if fraction is None:
    interval = duration(config, "decay", **context)
    if interval <= 0:
      raise errors.UserError(f"{key}.decay_* should be a duration above 0.")
    return interval
  given = [u for u in UNITS if config.get(f"decay_{u}") is not None]
  if given:
    raise errors.UserError(
      f"{key}.final_fraction={fraction!r} and {key}.decay_{given[0]}="
      f"{config[f'decay_{given[0]}']!r} are both given; keep one and set the other to None."
    )
  if not 0 < fraction < 1 or rate == 1:
    raise errors.UserError(
      f"{key}.final_fraction={fraction!r} with {key}.decay_rate={rate!r}: an exponential decay "
      "needs both between 0 and 1, exclusive."
    )
  # The recipe subtracts the warm-up's length in epochs, not in whole steps.
  length = context["total_steps"] - duration(config, "warmup", default=float(warmup), **context)
  if length <= 0:
    raise errors.UserError(f"{key}.warmup_* leaves no steps to decay in.")
  return length / (math.log(fraction) / math.log(rate))


def _constant(peak):
  return lambda step: jnp.full(jnp.shape(step), peak, jnp.float32)


def _staircase(peak, boundaries, factor):
  # Looked up, not computed: compilers may turn `step / interval` into a product with the
  # reciprocal, which puts steps on a boundary on the wrong side of the floor.
  edges = np.asarray(boundaries, np.int32)
  rates = (peak * np.power(float(factor), np.arange(len(edges) + 1))).astype(np.float32)
  return lambda step: jnp.asarray(rates)[
    jnp.searchsorted(jnp.asarray(edges), step, side="right", method="scan_unrolled")
  ]


def _smooth_exponential(peak, interval, rate):
  slope = np.float32(math.log(rate) / interval)
  return lambda step: jnp.float32(peak) * jnp.exp(slope * step.astype(jnp.float32))


def _to_fraction(peak, length, fraction, power, clamp):
  def decay(step):
    counted = jnp.minimum(step, length) if clamp else step
    progress = counted.astype(jnp.float32) / jnp.float32(length)
    if power is None:
      shape = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    else:
      shape = (1.0 - progress) ** power
    return jnp.float32(peak) * (fraction + (1.0 - fraction) * shape)

  return decay


def sample(schedule: Schedule, total_steps: int) -> Float[np.ndarray, " total_steps"]:
  """Returns the learning rate of every step of a run, for plots and golden dumps."""
  return np.asarray(jax.vmap(schedule)(jnp.arange(total_steps, dtype=jnp.int32)))
