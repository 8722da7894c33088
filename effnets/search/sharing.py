"""One-shot search: the loop trains a network that holds a whole space, and a controller in it.

Every step samples architectures, trains the shared weights on a batch through their masks, judges
them on a batch that the weights are not trained on, and moves the controller's logits by REINFORCE:
one program, the same for all architectures. The one of the largest logits is then trained alone.

`config.model` names the space; `config.one_shot` has

  target, slope, learning_rate, idle, growth, warmup, architectures, decay, entropy
         of `one_shot.Settings`, the target in multiply-adds
  long   overrides of the config: the training of what is found, from fresh weights

`config.data.unlabelled` gives the examples that judge. Both trainings are kept, with checkpoints,
and the same command goes on.

Source: Bender et al. 2020 (TuNAS); there the weights move before the architectures are judged, here
both are taken at the same weights.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from effnets import configuration, data, errors, parallel, tasks, training, workdirs
from effnets.search import cost, network, one_shot, report, supernet, trainings

TASK, CONTROLLER = "one_shot", "controller"
RESULT, PLOT = "one_shot.json", "plots/one_shot.png"
_SETTINGS = (
  "architectures",
  "decay",
  "entropy",
  "growth",
  "idle",
  "learning_rate",
  "slope",
  "target",
  "warmup",
)


@dataclasses.dataclass(frozen=True)
class OneShot(tasks.Classification):
  """The shared weights' cross-entropy and the controller's REINFORCE, as one loss.

  net: all networks of a space. settings: of `one_shot.Settings`, but for its steps, which are
  `total_steps`. Predictions are those of the architecture of the largest logits.
  """

  net: supernet.Supernet | None = None
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  total_steps: int = 0

  @functools.cached_property
  def searcher(self) -> one_shot.Searcher:
    """The controller's rules."""
    chosen = one_shot.Settings(steps=max(1, self.total_steps), **self.settings)
    return one_shot.Searcher(self.net.space, chosen)

  @property
  def frozen(self) -> tuple[str, ...]:
    """Nothing."""
    return ()

  @property
  def apart(self) -> dict[str, optax.GradientTransformation]:
    """The controller's own optimizer."""
    return {CONTROLLER: self.searcher.optimizer()}

  def init(self, seed: int) -> tasks.base.Variables:
    """Returns fresh shared weights, and a controller that prefers nothing."""
    logits = np.zeros(self.searcher.mask.shape, np.float32)
    baseline = one_shot.Baseline(np.zeros((), np.float32), np.zeros((), np.float32))
    params = {**self.net.init(seed), CONTROLLER: {"logits": logits}}
    return {"params": params, CONTROLLER: baseline._asdict()}

  def abstract(self) -> tasks.base.Variables:
    """Returns the shapes of `init`'s result."""
    shape = lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype)  # noqa: E731
    return jax.tree.map(shape, self.init(0))

  def loss(
    self,
    variables: tasks.base.Variables,
    frozen: PyTree,
    batch: tasks.base.Batch,
    root: Key[Array, ""],
    step: Int[Array, ""],
  ) -> tuple[Float[Array, ""], tasks.Aux]:
    """Returns the mean of weight * cross-entropy, in nats, and REINFORCE; see `tasks.Task`."""
    del frozen
    params = dict(variables["params"])
    logits = params.pop(CONTROLLER)["logits"]
    held, own = self.placement.per_example(tasks.halves)(batch)
    images = self._inputs(
      self._augmented(own["image"], self._keys(own, root, ("augment",))["augment"])
    )
    sampled = self.searcher.sample(jax.lax.stop_gradient(logits), root, step)
    run = jax.vmap(self.net.run, (None, 0, 0))

    outputs = run(params, sampled.training, self._parts(images))
    targets = self._parts(self.targets(own))
    entropy = optax.softmax_cross_entropy(outputs, targets)

    judged = run(
      jax.lax.stop_gradient(params), sampled.scoring, self._parts(self._inputs(held["image"]))
    )
    right = jnp.mean(judged.argmax(-1) == self._parts(held["label"]), 1)
    costs = jax.vmap(lambda weights: self.net.madds(weights, self.image_size))(sampled.scoring)
    rewards = self.searcher.reward(right, costs)
    baseline = one_shot.Baseline(**variables[CONTROLLER])
    advantage, baseline = self.searcher.advantage(baseline, rewards)
    learning = self.searcher.loss(logits, sampled.tokens, advantage)

    flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
    ordered = {"label": flat(self._parts(own["label"]))}
    metrics = self._metrics(flat(outputs), flat(targets), flat(entropy), ordered)
    told = {"reward": rewards.mean(), "held_out_top1": right.mean(), "cost": costs.mean()}
    told["policy_entropy"] = self.searcher.entropy(logits)
    metrics |= {name: (jnp.float32(value), jnp.float32(1)) for name, value in told.items()}
    # Of two sources of equal weight each has a mean weight of 2.
    own_loss = jnp.mean(self._parts(own["weight"]) * entropy) / 2
    return own_loss + learning, tasks.Aux(metrics, {CONTROLLER: baseline._asdict()})

  def _parts(self, x: Shaped[Array, " b *s"]) -> Shaped[Array, " n r *s"]:
    """Returns the rows of each architecture: every n-th, so that devices keep what they have."""
    count = self.searcher.settings.architectures
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

  def logits(
    self, variables: tasks.base.Variables, images: Float[Array, "b h w 3"]
  ) -> Float[Array, "b k"]:
    """Returns the logits of pictures in [0, 255] by the architecture of the largest logits.

    Its norms use the moments of these pictures.
    """
    params = dict(variables["params"])
    logits = jnp.where(self.searcher.mask, params.pop(CONTROLLER)["logits"], -jnp.inf)
    return self.net.run(params, self.net.weights(logits.argmax(-1)), self._inputs(images))

  def tested(self, variables: tasks.base.Variables) -> tuple[Any, tasks.base.Variables]:
    """Raises: UserError, as shared weights are no network."""
    raise errors.UserError(
      "a one-shot search is no network; train what it has found: "
      "--config=configs/retrain.py --config.arch=WORKDIR/best.json."
    )


def _make(config: Any, placement: parallel.Placement, num_classes: int, step_batch: int) -> OneShot:
  name = tasks.image_tasks.check_held_out(config, placement, step_batch)
  for key, value, usual in (
    ("task.mixup", config.task.mixup, 0.0),
    ("task.cutmix", config.task.cutmix, 0.0),
    ("ema.decay", config.ema.decay, 0.0),
    ("model.dropout_rate", config.model.get("dropout_rate", 0.0), 0.0),
    ("model.drop_path_rate", config.model.get("drop_path_rate", 0.0), 0.0),
    ("model.name", config.model.name, network.NAME),
  ):
    if value != usual:
      raise errors.UserError(
        f"config.{key}={value!r} does not go with {name}; set it to {usual!r}."
      )
  settings = checked(config)
  share = step_batch // 2 // placement.batch_shards
  if share % settings["architectures"]:
    raise errors.UserError(
      f"config.one_shot.architectures={settings['architectures']} does not divide the {share} "
      "examples that a device trains on; each architecture has its own."
    )
  space = network.space_of(config.model.space, config.model.space_options)
  # Each half of the batch goes through the network by itself.
  plain = tasks.image_tasks.make_classification(config, placement, num_classes, step_batch // 2)
  fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
  # Refuses a space whose choices rule others out.
  one_shot.Searcher(space, one_shot.Settings(steps=1, **settings))
  return OneShot(**fields, net=supernet.Supernet(space, num_classes), settings=settings)


tasks.register(TASK, _make)


def checked(config: Any) -> dict[str, Any]:
  """Returns what `config.one_shot` says of the controller.

  Raises: UserError for what is missing, unknown or out of range.
  """
  found = config.get("one_shot", {})
  for name in found:
    if name not in (*_SETTINGS, "long"):
      raise errors.unknown("config.one_shot", name, "a setting", (*_SETTINGS, "long"))
  for name in _SETTINGS:
    if name not in found:
      raise errors.UserError(f"config.one_shot.{name} is missing; start from configs/one_shot.py.")
  settings = {name: found[name] for name in _SETTINGS}
  with errors.context("config.one_shot"):
    one_shot.Settings(steps=1, **settings)
  return settings


def run(config: Any, workdir: str | pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
  """Searches the space of `config` in `workdir`, and returns what `one_shot.json` holds.

  That is: `space`, `tokens`, `choices` (the probability of every choice, by decision), `params` and
  `madds` of the network that was found, the figures of the shared weights on the validation split
  under `shared`, and those of the network on the test split, trained alone, under `alone`.
  best.json is for `configs/retrain.py`.

  Raises: UserError for a mistake in the config.
  """
  checked(config)
  path = pathlib.Path(workdir)
  space = network.space_of(config.model.space, config.model.space_options)
  long = _alone(config)  # whose mistakes are said before anything is trained
  workdirs.claim(path, config)
  shared = ml_collections.ConfigDict(config.to_dict())
  # No number of a search has seen a test picture.
  shared.data.split.test = shared.data.split.validation
  figures = trainings.finished(shared, path / "shared", "shared weights")
  trained = training.results.restore(shared.lock(), path / "shared")
  logits = np.asarray(parallel.to_host(trained.variables)["params"][CONTROLLER]["logits"])
  searcher = trained.task.searcher
  tokens = searcher.best(logits)
  size, classes = config.data.image_size, trained.task.num_classes
  costs = cost.of(space, tokens, image_size=size, num_classes=classes)
  probabilities = np.asarray(searcher.probabilities(logits))
  result = {
    "space": report.about(space),
    "tokens": list(tokens),
    "choices": {
      decision.name: {
        str(choice): float(p) for choice, p in zip(decision.choices, row, strict=False)
      }
      for decision, row in zip(space.decisions, probabilities, strict=True)
      if len(decision.choices) > 1
    },
    "params": costs.params,
    "madds": costs.madds,
    "shared": figures,
  }
  first = not jax.process_index()
  if first:
    values = {"params": costs.params, "madds": costs.madds}
    report.write_best(path, space, tokens, figures[config.checkpoint.best_metric], values)
    _draw(training.plots.load(path / "shared"), config.one_shot.target, path / PLOT)
  say(f"found a network of {costs.madds:,.0f} multiply-adds; it is now trained alone")
  network.set_tokens(long, space, tokens)
  result["alone"] = trainings.finished(long, path / "alone", "what was found")
  if first:
    workdirs.write(path, RESULT, json.dumps(result, indent=2) + "\n")
  return result


def _alone(config: Any) -> ml_collections.ConfigDict:
  """Returns the config that trains what is found, its network still to be set."""
  made = ml_collections.ConfigDict(config.to_dict())
  del made["one_shot"]
  made.task.name = "classification"
  made.data.unlabelled = configuration.base().data.unlabelled
  overrides = config.one_shot.to_dict().get("long", {})
  configuration.merge(made, overrides, key="config.one_shot.long")
  return made


def judge(config: Any, folder: str | pathlib.Path, points: Iterable[Sequence[int]]) -> list[float]:
  """Returns the accuracies of architectures with the shared weights in a folder that `run` left.

  They are judged on the validation split, in whole batches, whose moments the norms take: examples
  that fill no whole batch are left out. config: as of `run`.
  """
  trained = training.results.restore(config, folder)
  net, task = trained.task.net, trained.task
  source = training.inputs.evaluation(config, "validation")
  host = data.eval_batches(
    source,
    min(config.eval_batch_size, len(source)),
    transform=training.inputs.evaluation_transform(config, source),
    workers=config.data.workers,
    threads=config.data.threads,
  )
  whole = [batch for batch in host if batch["mask"].all()]
  params = {name: x for name, x in trained.variables["params"].items() if name != CONTROLLER}

  @jax.jit
  def right(params, tokens, images, labels):
    logits = net.run(params, net.weights(tokens), task._inputs(images))
    return jnp.mean(logits.argmax(-1) == labels)

  return [
    float(np.mean([right(params, jnp.array(p), b["image"], b["label"]) for b in whole]))
    for p in points
  ]


def _draw(
  series: Mapping[str, tuple[Sequence[int], Sequence[float]]], target: float, path: pathlib.Path
) -> None:
  """Draws accuracy, cost and entropy over the steps to the PNG file `path`."""
  from matplotlib import figure
  from matplotlib.backends import backend_agg

  made = figure.Figure(figsize=(9.6, 3.2), layout="constrained")
  backend_agg.FigureCanvasAgg(made)
  for axes, (name, label, scale) in zip(
    made.subplots(1, 3),
    (
      ("held_out_top1", "accuracy of sampled networks, %", 100.0),
      ("cost", "their multiply-adds, millions", 1e-6),
      ("policy_entropy", "entropy of the controller, nats", 1.0),
    ),
    strict=True,
  ):
    steps, values = series[f"train/{name}"]
    axes.plot(steps, scale * np.asarray(values))
    axes.set(xlabel="steps", ylabel=label)
    if name == "cost":
      axes.axhline(scale * target, color="0.5", linestyle=":", label="target")
      axes.legend(fontsize=8)
  path.parent.mkdir(parents=True, exist_ok=True)
  made.savefig(path, dpi=120)
