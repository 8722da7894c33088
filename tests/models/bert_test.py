"""The encoder against the sheet's counts and numbers, and its parts against plain formulas."""

import math
import types

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from effnets import errors, models
from effnets.models import bert, counting

KEYS = jax.random.split(jax.random.key(0), 3)


def _marked(name):
  slow = models.create(name).depth > 8 and name not in ("bert_base", "bert_large")
  return pytest.param(name, marks=pytest.mark.slow if slow else ())


# Sheet 7.1, counted with Hugging Face's BertModel; that every entry says the same is in its table.
@pytest.mark.parametrize("name", [_marked(n) for n in models.list_models(task="text")])
def test_parameters_and_multiply_adds(name):
  entry, module = models.entry(name), models.create(name)
  count = models.count(module)
  width, depth, words = module.width, module.depth, module.vocab_size
  formula = width * (words + 514) + 2 * width + depth * (12 * width**2 + 13 * width)
  assert count.params == entry.params == formula + width**2 + width
  assert count.madds == entry.madds
  assert entry.dropout_rate == module.dropout_rate


@pytest.mark.parametrize("name,giga", [("base", 11.174), ("large", 39.461), ("tiny", 0.0587)])
def test_multiply_adds_of_the_sheet(name, giga):
  assert models.entry(f"bert_{name}").madds / 1e9 == pytest.approx(giga, rel=1e-3)


def test_heads_have_as_many_parameters_as_in_the_sheet():
  outputs = (("cola", 2), ("mnli", 3), ("mrpc", 2), ("qnli", 2), ("qqp", 2), ("rte", 2), ("sst", 2))
  module = bert.WithHeads(models.create("bert_base"), (*outputs, ("sts", 1)))
  shapes = models.abstract(module)
  assert counting.parameters(shapes["params"]) == 109_494_544
  assert shapes["params"]["task_specific_sts"]["kernel"].shape == (768, 1)


def _tiny(**settings):
  return models.create(
    "bert_tiny", vocab_size=11, width=8, heads=2, hidden=16, positions=16, **settings
  )


IDS = np.array([[2, 5, 9, 3, 1, 7], [4, 4, 8, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
TYPES = np.array([[0, 0, 1, 1, 1, 1]] * 3)
MASK = np.array([[1] * 6, [1, 1, 1, 0, 0, 0], [1] * 6])


def test_attentions_agree_and_rounding_to_bfloat16_is_small():
  variables = models.init(_tiny(std=0.3), 0)
  fused, _ = _tiny(attention="fused").apply(variables, IDS, TYPES, MASK)
  plain, _ = _tiny(attention="plain").apply(variables, IDS, TYPES, MASK)
  real = MASK.astype(bool)
  np.testing.assert_allclose(fused[real], plain[real], atol=2e-6)
  rounded, pooled = _tiny(dtype="bfloat16").apply(variables, IDS, TYPES, MASK)
  assert rounded.dtype == pooled.dtype == jnp.bfloat16
  # 8 bits of mantissa; norms in bfloat16 would be NaN or far off with their epsilon of 1e-12.
  np.testing.assert_allclose(rounded[real].astype(np.float32), plain[real], atol=0.1)


def test_cudnns_kernel_is_for_its_platform_alone(monkeypatch):
  # As if cuDNN were here; the lowering is JAX's own.
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
  monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda _: False)
  backend = types.SimpleNamespace(platform_version="cuda 12090")
  monkeypatch.setattr(jax.extend.backend, "get_backend", lambda: backend)
  heads = jax.ShapeDtypeStruct((4, 32, 2, 64), jnp.bfloat16)
  mask = jax.ShapeDtypeStruct((4, 32), jnp.int32)

  def function(queries, keys, values, mask):
    made = bert.attention(queries, keys, values, mask)
    return jnp.sum(made.astype(jnp.float32) ** 2)

  def lowered(platform, *shapes):
    traced = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2))).trace(*shapes)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  shapes = (heads, heads, heads, mask)
  for platform in ("cpu", "tpu"):
    assert "cudnn" not in lowered(platform, *shapes)
  text = lowered("cuda", *shapes)
  for kernel in ("", "Backward"):
    assert f"@__cudnn$fmhaScaleBiasSoftmax{kernel}(" in text
  # Of 32 bits, of an odd length, or of heads that it has no kernel for, XLA's operations.
  for shape, dtype in (
    ((4, 32, 2, 64), "float32"),
    ((4, 31, 2, 64), "bfloat16"),
    ((4, 32, 2, 4), "bfloat16"),
  ):
    other = jax.ShapeDtypeStruct(shape, dtype)
    mask = jax.ShapeDtypeStruct(shape[:2], jnp.int32)
    assert "cudnn" not in lowered("cuda", other, other, other, mask)


def test_padding_changes_nothing():
  module = _tiny()
  variables = models.init(module, 0)
  whole, pooled = module.apply(variables, IDS, TYPES, MASK)
  changed = np.where(MASK, IDS, 10)
  other, _ = module.apply(variables, changed, TYPES, MASK)
  np.testing.assert_array_equal(whole[MASK.astype(bool)], other[MASK.astype(bool)])
  short, short_pooled = module.apply(variables, IDS[1:2, :3], TYPES[1:2, :3], MASK[1:2, :3])
  np.testing.assert_allclose(whole[1:2, :3], short, atol=1e-6)
  np.testing.assert_allclose(pooled[1:2], short_pooled, atol=1e-6)


def test_dropout_is_a_matter_of_each_text_alone():
  module = _tiny(dropout_rate=0.5)
  variables = models.init(module, 0)
  noise = {"dropout": KEYS}
  whole, _ = module.apply(variables, IDS, TYPES, MASK, train=True, keys=noise)
  again, _ = module.apply(
    variables, IDS[::-1], TYPES[::-1], MASK[::-1], train=True, keys={"dropout": KEYS[::-1]}
  )
  np.testing.assert_allclose(whole, again[::-1], atol=1e-6)
  quiet, _ = module.apply(variables, IDS, TYPES, MASK, train=False, keys=noise)
  assert np.abs(quiet - whole).max() > 0.1


def test_rematerialised_gradients_are_the_same():
  variables = models.init(_tiny(), 0)

  def gradients(remat):
    module = _tiny(remat=remat)

    def loss(variables):
      hidden, pooled = module.apply(variables, IDS, TYPES, MASK, train=True, keys={"dropout": KEYS})
      return jnp.sum(hidden[0] ** 3) + jnp.sum(pooled)

    return jax.grad(loss)(variables)

  for one, other in zip(*map(jax.tree.leaves, map(gradients, bert.REMAT)), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def test_initial_values():
  kernel = models.init(models.create("bert_tiny"), 0)["params"]["layer_0"]["expand"]["kernel"]
  assert np.abs(kernel).max() <= 0.04  # cut at two of 0.02
  assert kernel.std() == pytest.approx(0.02 * 0.8796, rel=0.02)
  head = bert.WithHeads(_tiny(), (("rte", 2),))
  limit = math.sqrt(6 / 10)
  kernel = models.init(head, 0)["params"]["task_specific_rte"]["kernel"]
  assert 0.5 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize(
  "settings,words",
  [
    ({"heads": 3}, r"config.model.heads=3 does not divide config.model.width=128; nearest: 2 or 4"),
    ({"activation": "gelu_erf"}, "config.model.activation='gelu_erf' is not .*Nearest: 'gelu"),
    ({"dropout_rate": 1.0}, "config.model.dropout_rate=1.0 should be at least 0 and below 1"),
    ({"num_classes": 3}, "config.task.name='text'"),
    ({"depth": 0}, "config.model.depth=0 should be at least 1"),
  ],
)
def test_wrong_settings(settings, words):
  with pytest.raises(errors.UserError, match=words):
    models.create("bert_tiny", **settings)


def test_more_tokens_than_positions():
  variables = models.init(_tiny(), 0)
  with pytest.raises(ValueError, match="17 tokens are more than the 16 positions"):
    _tiny().apply(variables, np.zeros((1, 17), int))
