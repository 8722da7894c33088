"""Optimizers by name, as optax transformations, with the rules of the papers' TensorFlow code.

Two kinds of weight decay exist and a config says which: `coupled` adds `weight_decay * 0.5 * |v|^2`
to the loss, so that it passes through the optimizer's scaling; `decoupled` subtracts
`learning_rate * weight_decay * v` from the weight beside it (inside the trust ratio for LARS and
LAMB). The optimizers here apply only the decoupled kind; `coupled_weight_decay` tells the loss what
it has to add. Both decay the same weights: those whose path `decayed` accepts.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from effnets import errors, parallel

Rule = Callable[[str], bool]

_NORM = re.compile(r"(^|[_a-z])(bn|norm|batch_?norm|batch_normalization)(_?\d+)*$", re.IGNORECASE)

# Fields by optimizer with their defaults. Beside these every config may hold the `_COMMON` ones;
# `learning_rate` and `learning_rate_per_examples` are read by whoever builds the schedule.
_COMMON = {
  "learning_rate": None,
  "learning_rate_per_examples": None,
  "weight_decay": 0.0,
  "weight_decay_kind": None,
  "clip_each": None,
  "clip_norm": None,
  "frozen": (),
  "undecayed": (),
  "decay_norms": False,
  "layer_decay": None,
}
_FIELDS = {
  "rmsprop": {"decay": 0.9, "momentum": 0.9, "eps": 1e-3},
  "sgd": {"momentum": 0.9, "nesterov": True},
  "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "bias_correction": True},
  "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "bias_correction": True},
  "lars": {"momentum": 0.9, "nesterov": False, "trust_coefficient": 0.001, "eps": 0.0},
  "lamb": {"b1": 0.9, "b2": 0.999, "eps": 1e-6},
}
_DECOUPLED = ("adamw", "lars", "lamb")

_RANGES = {
  "decay": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
  "momentum": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
  "b1": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
  "b2": (lambda v: 0 <= v < 1, "a number in [0, 1)"),
  "eps": (lambda v: v >= 0, "a number of at least 0"),
  "trust_coefficient": (lambda v: v > 0, "a positive number"),
  "weight_decay": (lambda v: v >= 0, "a number of at least 0"),
  "clip_each": (lambda v: v > 0, "a positive number, or None for no clipping"),
  "clip_norm": (lambda v: v > 0, "a positive number, or None for no clipping"),
  "layer_decay": (lambda v: 0 < v <= 1, "above 0 and at most 1, or None for equal rates"),
}
# Parts of a transformer's paths by which its depth is counted.
_LAYER = re.compile(r"(^|/)layer_(\d+)(/|$)")
_EMBEDDING = re.compile(r"(^|/)embeddings(_|/|$)")
_POOLER = re.compile(r"(^|/)pooler(/|$)")


def decayed(path: str) -> bool:
  """Returns whether the weight at `path` decays: all but scale and bias of normalisation layers.

  A normalisation layer is one whose own name ends in `bn`, `norm` or `BatchNorm`, numbered or not,
  as in `bn`, `bn_1`, `project_bn`, `norm2`, `norm_0_3`, `BatchNorm_0`. Biases of dense and
  squeeze-excite layers do decay.

  Source: EfficientNet sheet 3.3.

  >>> [decayed(p) for p in ("head/bias", "block_0/se/reduce/bias", "stem/bn/scale", "norm_1/bias")]
  [True, True, False, False]
  """
  *modules, leaf = path.split("/")
  if leaf not in ("scale", "bias", "gamma", "beta"):
    return True
  return not (modules and _NORM.search(modules[-1]))


def decay_rule(config: Mapping[str, Any], *, key: str = "config.optimizer") -> Rule:
  """Returns path -> whether the weight there decays: `decayed`, without `config.undecayed`.

  With `config.decay_norms` scale and bias of normalisation layers decay too.

  >>> rule = decay_rule({"name": "sgd", "undecayed": ("depthwise/", "bias$")})
  >>> [rule(p) for p in ("head/kernel", "head/bias", "block_1/depthwise/kernel", "stem/norm/scale")]
  [True, False, False, False]
  """
  values = _read(config, key)
  patterns = [re.compile(pattern) for pattern in values["undecayed"]]
  every = values["decay_norms"]
  return lambda path: (every or decayed(path)) and not any(p.search(path) for p in patterns)


def mask(params: PyTree, rule: Rule = decayed) -> PyTree[bool]:
  """Returns a tree like `params` that holds `rule(path)` for every leaf."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: bool(rule(parallel.path_name(path))), params
  )


def is_frozen(path: str, prefixes: Iterable[str]) -> bool:
  """Returns whether one of `prefixes` is `path` or a parent of it (`stem` covers no `stem_2`).

  >>> [is_frozen(p, ["stem", "block_1"]) for p in ("stem/conv/kernel", "block_10/bn/scale")]
  [True, False]
  """
  return any(path == p or path.startswith(p.rstrip("/") + "/") for p in prefixes)


def coupled_weight_decay(config: Mapping[str, Any], *, key: str = "config.optimizer") -> float:
  """Returns the factor of `0.5 * sum |v|^2` over decayed weights that the loss must add."""
  values = _read(config, key)
  return float(values["weight_decay"]) if values["weight_decay_kind"] == "coupled" else 0.0


def add_coupled_decay(
  grads: PyTree, params: PyTree, factor: float, *, rule: Rule = decayed
) -> PyTree:
  """Returns the gradients of the loss plus `factor * 0.5 * |v|^2` over the weights of `rule`."""
  return jax.tree.map(
    lambda g, v, decays: g + factor * v if decays else g, grads, params, mask(params, rule)
  )


def create(
  config: Mapping[str, Any],
  schedule: optax.Schedule,
  *,
  key: str = "config.optimizer",
) -> optax.GradientTransformation:
  """Returns the optimizer `config.name`, clipping and frozen weights included.

  - `rmsprop` (decay, momentum, eps), as TensorFlow 1: ms starts at *one*, epsilon stands *inside*
    the root, the learning rate *inside* the momentum buffer:
    `ms = d ms + (1-d) g^2; mom = m mom + lr g / sqrt(ms + eps); v -= mom`.
    PyTorch's differs in all three: `v -= lr * (mom = m mom + g / (sqrt(ms) + eps))`, ms from zero.
  - `sgd` (momentum, nesterov): `mom = m mom + g; v -= lr (g + m mom)` if nesterov, else `lr mom`.
  - `adam`, `adamw` (b1, b2, eps, bias_correction): epsilon outside the root. Without
    bias_correction, as in BERT's code, moments are taken as they are, from zero: the first steps
    are up to (1 - b1) / sqrt(1 - b2) = 3.2 times as long.
  - `lars` (momentum, nesterov, trust_coefficient, eps): biases and norm scales take no trust ratio.
  - `lamb` (b1, b2, eps).

  Every optimizer has: `weight_decay`; `weight_decay_kind` (`coupled`, by the loss: rmsprop, sgd,
  adam; `decoupled`, here: adamw, lars, lamb; None takes the one that the optimizer has);
  `clip_each` (largest norm of each weight's gradient) and then `clip_norm` (largest global norm
  of the gradients, those of frozen weights not counted), None for no clipping; `frozen` (path
  prefixes whose weights get zero updates and no optimizer state); `undecayed` (regular
  expressions: weights whose path one of them finds do not decay) and `decay_norms` (whether
  scales and biases of norms do), see `decay_rule`; `layer_decay` (every layer of a transformer
  below the heads learns slower than the one above it by this factor, its decoupled weight decay
  too), see `layer_rates`.

  Args:
    config: any mapping. schedule: step -> learning rate, step counted from 0.
    key: how messages call `config`.
  Raises: UserError for unknown names or fields and values out of range; from `init`, if a frozen
    prefix covers no weight.
  Source: EfficientNet sheet 3.4, check 8; You et al. 2017 (LARS), 2020 (LAMB).
  """
  values = _read(config, key)
  name, clip = values["name"], values["clip_norm"]
  decays = decay_rule(config, key=key)

  def decay_mask(params):
    return mask(params, decays)

  if name == "rmsprop":
    core = optax.rmsprop(
      schedule,
      decay=values["decay"],
      eps=values["eps"],
      initial_scale=1.0,
      eps_in_sqrt=True,
      momentum=values["momentum"] or None,
    )
  elif name == "sgd":
    core = optax.sgd(schedule, momentum=values["momentum"] or None, nesterov=values["nesterov"])
  elif name in ("adam", "adamw") and not values["bias_correction"]:
    decoupled = values["weight_decay"] if name == "adamw" else 0.0
    core = optax.chain(
      _uncorrected_adam(values["b1"], values["b2"], values["eps"]),
      optax.add_decayed_weights(decoupled, mask=decay_mask),
      optax.scale_by_learning_rate(schedule),
    )
  elif name == "adam":
    core = optax.adam(schedule, b1=values["b1"], b2=values["b2"], eps=values["eps"])
  elif name == "adamw":
    core = optax.adamw(
      schedule,
      b1=values["b1"],
      b2=values["b2"],
      eps=values["eps"],
      weight_decay=values["weight_decay"],
      mask=decay_mask,
    )
  elif name == "lars":
    core = optax.lars(
      schedule,
      weight_decay=values["weight_decay"],
      weight_decay_mask=decay_mask,
      trust_coefficient=values["trust_coefficient"],
      eps=values["eps"],
      trust_ratio_mask=lambda params: mask(
        params, lambda path: decays(path) and path.split("/")[-1] != "bias"
      ),
      momentum=values["momentum"],
      nesterov=values["nesterov"],
    )
  else:
    core = optax.lamb(
      schedule,
      b1=values["b1"],
      b2=values["b2"],
      eps=values["eps"],
      weight_decay=values["weight_decay"],
      mask=decay_mask,
    )
  if clip is not None:
    core = optax.chain(optax.clip_by_global_norm(clip), core)
  if values["clip_each"] is not None:
    core = optax.chain(_clip_each(values["clip_each"]), core)
  if values["frozen"]:
    core = optax.partition(
      {"trained": core, "frozen": optax.set_to_zero()},
      lambda params: _labels(params, values["frozen"], key),
    )
  if values["layer_decay"] is not None:
    core = optax.chain(core, _by_layer(values["layer_decay"]))
  return core


def partitioned(
  core: optax.GradientTransformation, apart: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformation:
  """Returns `core` with other optimizers for some of the collections at the top of the parameters.

  core: of all the rest; its clipping by a global norm counts the rest alone.
  """
  labels = lambda params: {name: name if name in apart else "" for name in params}  # noqa: E731
  return optax.partition({"": core, **apart}, labels)


def layer_rates(params: PyTree, decay: float) -> PyTree[float]:
  """Returns the factor of the learning rate of every leaf: decay^(layers above it, heads included).

  Depths of a transformer of L layers: `embeddings…` 0, `layer_I` I + 1, `pooler` L + 1, everything
  else, its heads, L + 2.

  >>> tree = {"embeddings_word": 0, "layer_0": 0, "layer_1": 0, "pooler": 0, "head": 0}
  >>> layer_rates(tree, 0.5)
  {'embeddings_word': 0.0625, 'head': 1.0, 'layer_0': 0.125, 'layer_1': 0.25, 'pooler': 0.5}
  """
  names = jax.tree_util.tree_map_with_path(lambda path, _: parallel.path_name(path), params)
  found = [_LAYER.search(name) for name in jax.tree.leaves(names)]
  layers = 1 + max((int(match[2]) for match in found if match), default=-1)

  def rate(name):
    match = _LAYER.search(name)
    if match:
      depth = int(match[2]) + 1
    elif _EMBEDDING.search(name):
      depth = 0
    else:
      depth = layers + (1 if _POOLER.search(name) else 2)
    return decay ** (layers + 2 - depth)

  return jax.tree.map(rate, names)


def _by_layer(decay: float) -> optax.GradientTransformation:
  def scale(updates, params):
    del params
    return jax.tree.map(lambda update, rate: update * rate, updates, layer_rates(updates, decay))

  return optax.stateless(scale)


def _uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """Returns m / (sqrt(v) + eps) of moments that start at zero and are not corrected for it."""

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return {"m": zeros, "v": zeros}

  def update(updates, state, params=None):
    del params
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["m"], updates)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state["v"], updates)
    return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), m, v), {"m": m, "v": v}

  return optax.GradientTransformation(init, update)


def _clip_each(most: float) -> optax.GradientTransformation:
  def clip(gradient):
    return gradient * jnp.minimum(1.0, most / jnp.maximum(jnp.linalg.norm(gradient), 1e-30))

  return optax.stateless(lambda updates, params: jax.tree.map(clip, updates))


def _labels(params, prefixes, key):
  paths = [parallel.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for prefix in prefixes:
    if not any(is_frozen(path, [prefix]) for path in paths):
      parents = {"/".join(p.split("/")[:n]) for p in paths for n in range(1, p.count("/") + 2)}
      raise errors.unknown(f"{key}.frozen", prefix, "the path of a weight or layer", parents)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "frozen" if is_frozen(parallel.path_name(path), prefixes) else "trained", params
  )


def _read(config, key):
  """Returns the config with defaults filled in, every name, kind and range checked."""
  config = dict(config)
  name = config.pop("name", None)
  if name not in _FIELDS:
    raise errors.unknown(f"{key}.name", name, "an optimizer", _FIELDS)
  defaults = {**_COMMON, **_FIELDS[name]}
  known = set(_COMMON).union(*_FIELDS.values())
  for field, value in config.items():
    if field not in known:
      near = ", ".join(errors.nearest(field, known)) or ", ".join(sorted(defaults))
      raise errors.UserError(
        f"{key}.{field}={value!r}: optimizers have no such field. Nearest: {near}."
      )
  # None means "not given": a config may list the fields of several optimizers.
  idle = [field for field, value in config.items() if value is not None and field not in defaults]
  if idle:
    raise errors.UserError(
      f"{key}.{idle[0]}={config[idle[0]]!r} has no effect on {name!r}; set to None what belongs to "
      f"others: {' '.join(f'--{key}.{field}=None' for field in idle)}. "
      f"Fields of {name!r}: {', '.join(sorted(defaults))}."
    )
  values = {f: d if config.get(f) is None else config[f] for f, d in defaults.items()}
  values["name"] = name

  for field, (valid, words) in _RANGES.items():
    value = values.get(field)
    if value is None:
      continue
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not valid(value):
      raise errors.UserError(f"{key}.{field}={value!r} should be {words}.")

  own = "decoupled" if name in _DECOUPLED else "coupled"
  kind = values["weight_decay_kind"] = values["weight_decay_kind"] or own
  if kind not in ("coupled", "decoupled"):
    raise errors.unknown(
      f"{key}.weight_decay_kind", kind, "a kind of weight decay", ("coupled", "decoupled")
    )
  if kind != own:
    others = [n for n in _FIELDS if (n in _DECOUPLED) == (kind == "decoupled")]
    raise errors.UserError(
      f"{key}.weight_decay_kind={kind!r} does not go with {key}.name={name!r}, whose weight decay "
      f"is {own}. {kind.capitalize()}: {', '.join(others)}."
    )
  for field in ("decay_norms", "bias_correction"):
    if not isinstance(values.get(field, True), bool):
      raise errors.UserError(f"{key}.{field}={values[field]!r} is not True or False.")
  for field in ("frozen", "undecayed"):
    value = values[field]
    values[field] = (value,) if isinstance(value, str) else tuple(value)
  for pattern in values["undecayed"]:
    try:
      re.compile(pattern)
    except (TypeError, re.error) as error:
      raise errors.UserError(
        f"{key}.undecayed: {pattern!r} is not a regular expression, such as 'depthwise/'."
      ) from error
  return values
