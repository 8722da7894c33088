"""The update of texts on several meshes: same losses, same gradients leaf by leaf."""

import jax
import numpy as np
import pytest

from effnets import configuration, data, parallel, recipes, tasks
from effnets.training import step


def _gradients(sizes, execution="jit", accumulate=1):
  config = configuration.base()
  recipes.texts.toy_glue(config, steps=2)
  config.data.options.tasks = "rte,sts"
  config.batch_size = 8
  config.model.update({"depth": 1, "width": 8, "heads": 2, "hidden": 8})
  config.model.update({"dropout_rate": 0.2, "attention_dropout_rate": 0.2})
  config.task.dropout_rate = 0.2
  count = int(np.prod(list(sizes.values())))
  placement = parallel.create(
    sizes, execution=execution, min_size=16, devices=jax.devices()[:count]
  )
  made = tasks.create(config, placement, num_classes=3, step_batch=8, total_steps=10)
  source = data.open_source("toy_glue", "train", options={"tasks": "rte,sts"})
  stream = data.ordered(source, seed=0)
  examples = [stream[position] for position in range(8)]
  host = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
  batch = placement.put(host, jax.tree.map(lambda _: placement.batch, host))
  params = made.init(0)["params"]
  params = placement.put(params, placement.state(params))
  gradient = step.gradients(made, placement, accumulate=accumulate)
  run = jax.jit(lambda p, b: gradient(placement.gather(p), {}, (), b, np.uint32(0), np.int32(3)))
  loss, grads, _, metrics = run(params, batch)
  return float(loss), jax.device_get(grads), jax.device_get(metrics)


@pytest.mark.parametrize(
  "sizes,settings",
  [
    ({"data": 2, "fsdp": 2}, {}),
    pytest.param({"data": 4}, {"execution": "shard_map"}, marks=pytest.mark.slow),
    pytest.param({"data": 2}, {"accumulate": 2}, marks=pytest.mark.slow),
  ],
)
def test_every_mesh_computes_the_same(sizes, settings):
  loss, grads, metrics = _gradients(sizes, **settings)
  expected_loss, expected, expected_metrics = _gradients({"data": 1})
  assert loss == pytest.approx(expected_loss, rel=1e-5)
  for (path, one), other in zip(
    jax.tree.leaves_with_path(grads), jax.tree.leaves(expected), strict=True
  ):
    scale = max(np.abs(other).max(), 1e-3)
    np.testing.assert_allclose(one / scale, other / scale, atol=2e-5, err_msg=str(path))
  for name, (total, count) in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], (total, count), rtol=1e-5, atol=1e-6)
