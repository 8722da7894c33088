"""Children trained by programs that they share: one for each block and shape, not for each child.

A network of a space is a chain of parts: stem, blocks, head. Each part's forward pass, its
pull-back and its evaluation are programs of their own, known by the part's settings and the shape
of its input; the optimizer sees a part's parameters as one vector, so that it needs one program for
each power of two. Networks of one space are made of the same few parts, so a child that brings
no new part compiles nothing, where the loop compiles for tens of seconds.

Data, task, loss, optimizer and initial values are the loop's, so the numbers are too, up to the
order of sums. What spans several parts, or outlives a child, is left to the loop; `Shared` says so.
"""

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from effnets import data, errors, parallel, tasks, training
from effnets.models import initialize, layers, network
from effnets.training import assembly, optimizers

_TASKS = ("classification", "distillation")
_ELEMENTWISE = ("rmsprop", "sgd", "adam")


@dataclasses.dataclass(frozen=True)
class Part:
  """A link of the chain: modules that know nothing of the network they are in.

  names: of the modules among the network's variables. modules: as many.
  """

  names: tuple[str, ...]
  modules: tuple[nn.Module, ...]

  @property
  def key(self) -> tuple[nn.Module, ...]:
    """What makes two parts the same programs: not their place."""
    return self.modules

  def apply(
    self, params: tuple, state: tuple, x: Any, train: bool
  ) -> tuple[Float[Array, " b *s"], tuple]:
    """Returns the output of the modules one after the other, and their state."""
    new = []
    for module, p, s in zip(self.modules, params, state, strict=True):
      variables = {"params": p, "batch_stats": s}
      if train:
        x, moved = module.apply(variables, x, train, mutable=["batch_stats"])
        new.append(moved.get("batch_stats", {}))
      else:
        x = module.apply(variables, x, train)
    return x, tuple(new)


def chain(net: network.Network) -> list[Part]:
  """Returns the parts of a network, the last one of which is the classifier alone.

  Raises: UserError for what no chain of parts computes.
  """
  for name, usual in (
    ("drop_path_rate", 0.0),
    ("frozen_blocks", 0),
    ("remat", "none"),
    ("norm_sets", 1),
    ("tail", ""),
    ("outer_skips", False),
    ("stem_pool", False),
    ("hidden", 0),
    ("split", None),
  ):
    if getattr(net, name) != usual:
      raise errors.UserError(
        f"config.model.{name}={getattr(net, name)!r} cannot be trained by shared programs, only "
        f"{usual!r}; set that, or config.search.proxy.execution='loop'."
      )
  bound = net.bind({})

  def alone(module: nn.Module) -> nn.Module:
    module = module.clone(parent=None, name=None)
    if hasattr(module, "row"):
      # Of a row only what shapes this one block matters.
      module = module.clone(row=dataclasses.replace(module.row, joined=False, repeats=1))
    return module

  stem, *blocks = [bound.stem_layer, *bound.block_layers]
  heads = ["head", *(f"head_{index}" for index in range(1, net.head_depth))]
  parts = [Part(("stem",), (alone(stem),))]
  parts += [Part((f"block_{i}",), (alone(block),)) for i, block in enumerate(blocks)]
  parts += [Part((n,), (alone(m),)) for n, m in zip(heads, bound.head_layers, strict=False)]
  return [*parts, Part(("classifier",), (alone(bound.classifier),))]


class Shared:
  """Trains children of one proxy task; safe to call from several threads.

  config: of the proxy, its model set to any network of the space. device: that of all children.

  Raises: UserError for a proxy that needs the loop.
  """

  def __init__(self, config: Any, device: jax.Device | None = None):
    self._device = device or jax.local_devices()[0]
    clip = config.optimizer.get("clip_norm")
    undecayed = config.optimizer.get("undecayed", ())
    # The update of a vector of all parameters is theirs if it is one by one.
    name = config.optimizer.get("name")
    if name not in _ELEMENTWISE:
      raise errors.UserError(
        f"config.optimizer.name={name!r} cannot be trained by shared programs, only "
        f"{', '.join(_ELEMENTWISE)}; set one, or config.search.proxy.execution='loop'."
      )
    for key, value, usual in (
      ("ema.decay", config.ema.decay, 0.0),
      ("accumulate", config.accumulate, 1),
      ("optimizer.clip_norm", clip, None),
      ("optimizer.clip_each", config.optimizer.get("clip_each"), None),
      ("optimizer.undecayed", tuple(undecayed or ()), ()),
      ("optimizer.frozen", tuple(config.optimizer.get("frozen", ()) or ()), ()),
      ("execution", config.execution, "jit"),
      ("weights", config.weights, ""),
    ):
      if value != usual:
        raise errors.UserError(
          f"config.{key}={value!r} cannot be trained by shared programs, only {usual!r}; set that, "
          "or config.search.proxy.execution='loop'."
        )
    if config.task.name not in _TASKS:
      raise errors.UserError(
        f"config.task.name={config.task.name!r} cannot be trained by shared programs, only "
        f"{', '.join(_TASKS)}; set one, or config.search.proxy.execution='loop'."
      )
    if config.task.name == "distillation" and config.distillation.temperature != 1:
      raise errors.UserError(
        f"config.distillation.temperature={config.distillation.temperature} cannot be trained by "
        "shared programs, only 1; set that, or config.search.proxy.execution='loop'."
      )
    self._taught: dict[int, list] = {}
    self._teachers: tuple = ()
    self._lock = threading.Lock()
    self._programs: dict[Any, Any] = {}
    self._known: dict[Any, tuple[initialize.Declared, tuple[int, ...]]] = {}
    self._batches: dict[int, list] = {}
    self._validation: list | None = None
    self.compiling = 0.0
    """Seconds that went into new programs, over all threads."""

  def _leaves(self, net: network.Network, image_size: int) -> list[initialize.Declared]:
    """Returns the leaves of every part, traced once for each part and shape."""
    shape, found = (1, image_size, image_size, 3), []
    for part in chain(net):
      if part.names == ("classifier",):
        shape = (shape[0], shape[-1])
      key = (part.key, shape)
      if key not in self._known:
        module = part.modules[0]
        inputs = [jax.ShapeDtypeStruct(shape, jnp.float32)]
        _, arguments = initialize.trace(module, inputs=inputs)
        output = jax.eval_shape(lambda *args, m=module: m.init_with_output(*args)[0], *arguments)
        self._known[key] = initialize.declared(module, inputs=inputs), output.shape
      leaves, shape = self._known[key]
      found.append(leaves)
    return found

  def train(self, config: Any) -> dict[str, float]:
    """Returns the figures of the validation split after training the network of `config`.

    Raises: FloatingPointError for a loss that is not finite; UserError as of `training.prepare`.
    """
    return self.trained(config)[0]

  def trained(self, config: Any, initial: PyTree = None) -> tuple[dict[str, float], PyTree]:
    """Returns the figures, and the variables on the host, after training the network of `config`.

    initial: variables to start from instead of fresh ones. Raises: as `train`.
    """
    ready = training.prepare(config, devices=[self._device])
    net = ready.task.module
    with jax.default_device(self._device):
      parts = chain(net)
      params, state, shapes = self._begin(net, config, initial)
      # A part's programs hold for its modules, the shapes of their weights and that of its input.
      keys = [(p.key, tuple(_leaves(s))) for p, s in zip(parts, shapes, strict=True)]
      optimizer = self._program("optimizer", lambda: ready.optimizer)
      decays = [_decays(own, config) for own in shapes]
      opt = [_start(optimizer, len(flat)) for flat in params]
      params, state, opt = jax.device_put((params, state, opt), self._device)
      losses = []
      for x, targets, weight, noise in self._examples(config, ready):
        pulls = []
        for i, part in enumerate(parts[:-1]):
          forward = functools.partial(_forward, part, shapes[i])
          x, pull, state[i] = self._call(("forward", keys[i]), forward, params[i], state[i], x)
          pulls.append(pull)
        loss, pull = self._call(
          ("last", keys[-1], net.dropout_rate),
          functools.partial(_last, parts[-1], shapes[-1], net.dropout_rate),
          *(params[-1], targets, weight, noise, x),
        )
        losses.append(loss)
        pulls.append(pull)
        gradient = jnp.ones_like(loss)
        for i in reversed(range(len(parts))):
          of_params, gradient = self._call(("back", keys[i]), _back, pulls[i], gradient)
          params[i], opt[i] = self._call(
            "update", functools.partial(_update, optimizer), of_params, opt[i], decays[i], params[i]
          )
      worst = np.asarray(jnp.stack(losses))
      if not np.isfinite(worst).all():
        raise FloatingPointError(f"the loss of step {int(np.argmin(np.isfinite(worst)))} is NaN")
      programs = list(zip(parts, shapes, keys, strict=True))
      figures = self._evaluate(config, ready, programs, params, state)
      return figures, _whole(parts, shapes, *jax.device_get((params, state)))

  def _begin(self, net: network.Network, config: Any, initial: PyTree) -> tuple[list, list, list]:
    """Returns every part's parameters, one after the other in a vector, its state, and shapes.

    Values that are not given are drawn as the whole network's would be.
    """
    params, state, shapes = [], [], []
    leaves = self._leaves(net, config.data.image_size)
    for part, own in zip(chain(net), leaves, strict=True):
      name = part.names[0]
      named = {(kind, name, *rest): leaf for (kind, *rest), leaf in own.items()}
      drawn = initialize.draw(named, config.seed) if initial is None else initial
      tree = drawn["params"][name]
      shapes.append(jax.tree.map(np.shape, tree))
      params.append(_flat(tree))
      state.append((drawn.get("batch_stats", {}).get(name, {}),))
    return params, state, shapes

  def _examples(self, config: Any, ready: assembly.Ready) -> Iterator[tuple]:
    """Yields what every step trains on; teachers answer once for all children of a seed."""
    seed, task = jnp.uint32(config.seed), ready.task
    if not isinstance(task, tasks.Distillation):
      examples = self._program("examples", lambda: jax.jit(_examples(task)))
      for batch in self._training(config, ready):
        yield examples(batch, seed)
      return
    batches = self._training(config, ready)
    with self._lock:
      if config.seed not in self._taught:
        self._teachers = self._teachers or jax.device_put(
          training.teachers.variables(config, task), self._device
        )
        examples = jax.jit(_taught(task))
        made = [examples(batch, seed, self._teachers) for batch in batches]
        while len(self._taught) > 1:  # a seed and the one before it
          self._taught.pop(next(iter(self._taught)))
        self._taught[config.seed] = made
      made = self._taught[config.seed]
    yield from made

  def _training(self, config: Any, ready: assembly.Ready) -> list:
    """Returns the batches of a whole training on the host: the same for all children of a seed."""
    with self._lock:
      if config.seed not in self._batches:
        host = data.train_batches(
          ready.examples.stream,
          ready.examples.batch_size,
          workers=config.data.workers,
          threads=config.data.threads,
        )
        try:
          made = [next(host) for _ in range(ready.total_steps)]
        finally:
          host.close()
        while len(self._batches) > 1:  # a seed and the one before it
          self._batches.pop(next(iter(self._batches)))
        self._batches[config.seed] = made
      return self._batches[config.seed]

  def _evaluate(
    self, config: Any, ready: assembly.Ready, programs: Sequence, params: list, state: list
  ) -> dict[str, float]:
    source = ready.splits[config.data.split.validation]
    with self._lock:
      if self._validation is None:
        transform = training.inputs.evaluation_transform(config, source)
        host = data.eval_batches(
          source,
          config.eval_batch_size,
          transform=transform,
          workers=config.data.workers,
          threads=config.data.threads,
        )
        try:
          self._validation = list(host)
        finally:
          host.close()
    task = ready.task
    inputs = self._program("inputs", lambda: jax.jit(lambda batch: task._inputs(batch["image"])))
    logits, kept = [], []
    for batch in self._validation:
      x = inputs(batch)
      for i, (part, shapes, key) in enumerate(programs):
        predict = functools.partial(_predict, part, shapes)
        x = self._call(("predict", key), predict, params[i], state[i], x)
      logits.append(np.asarray(x)[batch["mask"]])
      kept.append({n: v[batch["mask"]] for n, v in batch.items() if n not in ("image", "mask")})
    examples = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]}
    return task.evaluate({"logits": np.concatenate(logits)}, examples, source)

  def _program(self, key: Any, make: Callable[[], Any]) -> Any:
    with self._lock:
      if key not in self._programs:
        self._programs[key] = make()
      return self._programs[key]

  def _call(self, key: Any, make: Callable[[], Callable], *args: Any) -> Any:
    """Returns what the program `key`, made once, gives; its first call of a shape compiles."""
    shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(args[-1]))
    program = self._program(key, make)
    known = (key, shapes, "called")
    if known in self._programs:
      return program(*args)
    started = time.perf_counter()
    result = program(*args)
    with self._lock:
      self._programs[known] = True
      self.compiling += time.perf_counter() - started
    return result


def _is_shape(value: Any) -> bool:
  return isinstance(value, tuple)


def _leaves(shapes: PyTree) -> list[tuple[int, ...]]:
  return jax.tree.leaves(shapes, is_leaf=_is_shape)


def _decays(shapes: PyTree, config: Any) -> Float[np.ndarray, " n"]:
  """Returns the factor of every parameter of a part in the gradient of its decay."""
  factor = optimizers.coupled_weight_decay(config.optimizer)
  rule = optimizers.decay_rule(config.optimizer)

  def fill(path, shape):
    return np.full(shape, factor * rule(f"part/{parallel.path_name(path)}"), np.float32)

  return _flat(jax.tree_util.tree_map_with_path(fill, shapes, is_leaf=_is_shape))


def _flat(tree: PyTree) -> Float[np.ndarray, " n"]:
  """Returns the leaves one after the other, padded to a size that few programs go with."""
  whole = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
  size = 1 << max(6, (len(whole) - 1).bit_length())
  return np.pad(whole, (0, size - len(whole)))


def _tree(flat: Float[Array, " n"], shapes: PyTree) -> PyTree:
  """Returns the tree that `_flat` had."""
  leaves, structure = jax.tree.flatten(shapes, is_leaf=_is_shape)
  ends = np.cumsum([math.prod(shape) for shape in leaves])
  cut = [
    flat[end - math.prod(shape) : end].reshape(shape)
    for shape, end in zip(leaves, ends, strict=True)
  ]
  return jax.tree.unflatten(structure, cut)


def _whole(parts: Sequence[Part], shapes: Sequence, params: Sequence, state: Sequence) -> PyTree:
  """Returns the variables of the whole network."""
  found: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for part, own, flat, moments in zip(parts, shapes, params, state, strict=True):
    found["params"][part.names[0]] = _tree(flat, own)
    if moments[0]:
      found["batch_stats"][part.names[0]] = moments[0]
  return found


def _start(optimizer: optax.GradientTransformation, size: int) -> PyTree:
  """Returns the optimizer's first state, which is constant in every leaf, without a program."""
  shapes = jax.eval_shape(optimizer.init, jax.ShapeDtypeStruct((size,), jnp.float32))
  values = optimizer.init(np.zeros((), np.float32))
  return jax.tree.map(lambda s, v: np.full(s.shape, v, s.dtype), shapes, values)


def _examples(task: tasks.Task) -> Callable:
  def examples(batch, seed):
    images, targets, noise = task.examples(batch, jax.random.key(seed))
    return images, targets, batch["weight"], noise["dropout"]

  return examples


def _taught(task: tasks.Distillation) -> Callable:
  def taught(batch, seed, frozen):
    images, (hard, soft), noise = task.taught(batch, jax.random.key(seed), frozen)
    # At temperature 1 both parts of the loss are cross-entropies with the same logits.
    targets = (1 - task.soft_weight) * hard + task.soft_weight * soft
    return images, targets, batch["weight"], noise["dropout"]

  return taught


def _forward(part: Part, shapes: PyTree) -> Callable:
  def apply(flat, x, state):
    return part.apply((_tree(flat, shapes),), state, x, True)

  def forward(flat, state, x):
    return jax.vjp(lambda flat, x: apply(flat, x, state), flat, x, has_aux=True)

  return jax.jit(forward)


def _pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
  return x.mean((1, 2), dtype=jnp.float32)


def _last(part: Part, shapes: PyTree, rate: float) -> Callable:
  classifier = part.modules[0]

  def loss(flat, targets, weight, keys, x):
    pooled = _pooled(x)
    if rate > 0:
      pooled = layers.dropout(pooled, keys, rate)
    logits = classifier.apply({"params": _tree(flat, shapes)}, pooled)
    return jnp.mean(weight * optax.softmax_cross_entropy(logits, targets))

  return jax.jit(
    lambda flat, targets, weight, keys, x: jax.vjp(
      lambda flat, x: loss(flat, targets, weight, keys, x), flat, x
    )
  )


def _back() -> Callable:
  return jax.jit(lambda pull, gradient: pull(gradient))


def _update(optimizer: optax.GradientTransformation) -> Callable:
  def update(gradient, opt, decays, params):
    updates, opt = optimizer.update(gradient + decays * params, opt, params)
    return optax.apply_updates(params, updates), opt

  # Not the parameters: pull-backs of this step still hold those of other parts.
  return jax.jit(update, donate_argnums=1)


def _predict(part: Part, shapes: PyTree) -> Callable:
  def predict(flat, state, x):
    tree = _tree(flat, shapes)
    if part.names == ("classifier",):
      return part.modules[0].apply({"params": tree}, _pooled(x))
    return part.apply((tree,), state, x, False)[0]

  return jax.jit(predict)
