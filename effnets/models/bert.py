"""BERT: the encoder of texts, in all published sizes, and heads for several tasks on top of it.

Post-norm transformer blocks over word, position and segment embeddings; `pooled` is a dense layer
with tanh over the first token.
Source: Devlin et al. 2019 (arXiv 1810.04805) and its code; the compact sizes: Turc et al. 2019
(1908.08962). Heads as in Clark et al. 2019 (1907.04829).
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from effnets import errors
from effnets.models import initialize, layers, registry

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
  "gelu": functools.partial(jax.nn.gelu, approximate=False),  # x/2 (1 + erf(x / sqrt 2))
  "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
  "relu": jax.nn.relu,
  "swish": jax.nn.silu,
  "tanh": jnp.tanh,
}
ATTENTIONS = ("fused", "plain")
REMAT = ("none", "block")
DTYPES = ("float32", "bfloat16")

COUNTED_TOKENS = 128
"""Length of the text for which multiply-adds are told."""

_Keys = Mapping[str, Key[Array, " b"]] | None


class Norm(nn.Module):
  """Normalises the features of every token, in float32: 1e-12 is 0 beside a variance in bfloat16.

  epsilon: beside the variance.
  """

  epsilon: float

  @nn.compact
  def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
    width = (x.shape[-1],)
    scale = initialize.parameter(self, "scale", initialize.Constant(1.0), width)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), width)
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(x.dtype)


class Dense(nn.Module):
  """x @ kernel + bias over the last dimension. start: of the kernel; bias starts at 0."""

  features: int
  start: initialize.Initializer

  @nn.compact
  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b k"]:
    shape = (x.shape[-1], self.features)
    kernel = initialize.parameter(self, "kernel", self.start, shape)
    bias = initialize.parameter(self, "bias", initialize.Constant(0.0), shape[1:])
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


class Embedding(nn.Module):
  """A table of vectors, `count` of `features` each."""

  count: int
  features: int
  std: float

  @nn.compact
  def __call__(self) -> Float[Array, "n d"]:
    start = initialize.Truncated(self.std)
    return initialize.parameter(self, "embedding", start, (self.count, self.features))


def attention(
  queries: Float[Array, "b s a h"],
  keys: Float[Array, "b s a h"],
  values: Float[Array, "b s a h"],
  mask: Int[Array, "b s"],
  *,
  kind: str = "fused",
  dropped: Callable[[Array], Array] | None = None,
) -> Float[Array, "b s a h"]:
  """Returns softmax(q k' / sqrt(h)) v over the tokens whose mask is not 0.

  Args:
    kind: `fused` takes cuDNN's kernel on Nvidia's GPUs, in 16 bits; `plain` takes XLA's operations
      everywhere. Both compute the softmax in float32.
    dropped: dropout of the weights, `b a s s`, which only `plain` can do.
  """
  allowed = (mask != 0)[:, None, None, :]
  if kind == "fused" and dropped is None and _cudnn_takes(queries):
    # By platform: from a machine with GPUs a program may be made for TPUs. These have no kernel
    # here: JAX's own cannot be divided over a mesh by the compiler.
    return jax.lax.platform_dependent(
      queries,
      keys,
      values,
      allowed,
      cuda=functools.partial(_attention_of_jax, how="cudnn"),
      default=functools.partial(_attention_of_jax, how="xla"),
    )
  scores = jnp.einsum("bqah,bkah->baqk", queries, keys, preferred_element_type=jnp.float32)
  scores = scores / math.sqrt(queries.shape[-1])
  # Finite, so that a text without any token gives no NaN.
  weights = jax.nn.softmax(jnp.where(allowed, scores, -1e30), axis=-1).astype(queries.dtype)
  if dropped is not None:
    weights = dropped(weights)
  return jnp.einsum("baqk,bkah->bqah", weights, values)


def _attention_of_jax(
  queries: Array, keys: Array, values: Array, allowed: Array, *, how: str
) -> Array:
  if how == "cudnn":  # whose kernel broadcasts over heads alone
    allowed = jnp.broadcast_to(allowed, (len(keys), 1, queries.shape[1], keys.shape[1]))
  return jax.nn.dot_product_attention(queries, keys, values, mask=allowed, implementation=how)


def _cudnn_takes(queries: Float[Array, "b s a h"]) -> bool:
  """Returns whether cuDNN is here, without which its kernel cannot be traced, and has one."""
  _, length, _, size = queries.shape
  fits = isinstance(length, int) and length % 2 == 0 and size % 8 == 0 and size <= 128
  half = queries.dtype in (jnp.bfloat16, jnp.float16)
  return half and fits and "cuda" in jax.extend.backend.get_backend().platform_version


class Block(nn.Module):
  """Self-attention and a dense layer of `hidden` units, each added to its input, then normalised.

  Fields: see `Bert`.
  """

  heads: int
  hidden: int
  activation: str
  dropout_rate: float
  attention_dropout_rate: float
  attention: str
  epsilon: float
  std: float

  @nn.compact
  def __call__(
    self, x: Float[Array, "b s d"], mask: Int[Array, "b s"], keys: Key[Array, " b"] | None
  ) -> Float[Array, "b s d"]:
    width = x.shape[-1]
    dense = functools.partial(Dense, start=initialize.Truncated(self.std))
    split = (*x.shape[:2], self.heads, width // self.heads)
    query, key, value = (
      dense(width, name=name)(x).reshape(split) for name in ("query", "key", "value")
    )
    dropped = None
    if keys is not None and self.attention_dropout_rate:
      dropped = lambda w: _dropped(w, keys, 0, self.attention_dropout_rate)  # noqa: E731
    mixed = attention(query, key, value, mask, kind=self.attention, dropped=dropped)
    mixed = dense(width, name="mix")(mixed.reshape(x.shape))
    x = Norm(self.epsilon, name="mix_norm")(x + _dropped(mixed, keys, 1, self.dropout_rate))
    inner = ACTIVATIONS[self.activation](dense(self.hidden, name="expand")(x))
    inner = dense(width, name="project")(inner)
    return Norm(self.epsilon, name="project_norm")(x + _dropped(inner, keys, 2, self.dropout_rate))


def _dropped(x: Array, keys: Key[Array, " b"] | None, place: int, rate: float) -> Array:
  """Returns `x` after dropout. place: tells the draws of one layer apart."""
  if keys is None or not rate:
    return x
  return layers.dropout(x, _folded(keys, place), rate)


def _folded(keys: Key[Array, " b"], place: int) -> Key[Array, " b"]:
  return jax.vmap(lambda key: jax.random.fold_in(key, place))(keys)


class Bert(nn.Module):
  """Texts as token ids to one vector a token and one a text.

  vocab_size, positions, types: rows of the embeddings of words, places and segments.
  depth: blocks. width: features of a token. heads: of the attention. hidden: units inside a block.
  activation: of `ACTIVATIONS`. dropout_rate: after embeddings, attention and dense layers.
  attention_dropout_rate: of the attention's weights. epsilon: of norms.
  attention: see `attention`. dtype: of activations; norms and softmax are float32 anyway.
  remat: `block` keeps each block's input alone for the backward pass, and computes the rest again.
  std: of initial kernels and embeddings, as TensorFlow counts: before they are cut at two of it.
  """

  vocab_size: int
  depth: int
  width: int
  heads: int
  hidden: int
  positions: int = 512
  types: int = 2
  activation: str = "gelu"
  dropout_rate: float = 0.1
  attention_dropout_rate: float = 0.1
  attention: str = "fused"
  epsilon: float = 1e-12
  std: float = 0.02
  dtype: Any = "float32"
  remat: str = "none"

  def setup(self) -> None:
    self.words = Embedding(self.vocab_size, self.width, self.std, name="embeddings_word")
    self.places = Embedding(self.positions, self.width, self.std, name="embeddings_position")
    self.segments = Embedding(self.types, self.width, self.std, name="embeddings_type")
    self.first_norm = Norm(self.epsilon, name="embeddings_norm")
    block = nn.remat(Block) if self.remat == "block" else Block
    self.blocks = [
      block(
        heads=self.heads,
        hidden=self.hidden,
        activation=self.activation,
        dropout_rate=self.dropout_rate,
        attention_dropout_rate=self.attention_dropout_rate,
        attention=self.attention,
        epsilon=self.epsilon,
        std=self.std,
        name=f"layer_{index}",
      )
      for index in range(self.depth)
    ]
    start = initialize.Truncated(self.std)
    self.pooler = Dense(self.width, start, name="pooler")

  def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes of one text of `COUNTED_TOKENS` tokens, or as many as fit."""
    shape = (1, min(COUNTED_TOKENS, self.positions))
    return (jax.ShapeDtypeStruct(shape, jnp.int32),) * 3

  def __call__(
    self,
    ids: Int[Array, "b s"],
    token_type_ids: Int[Array, "b s"] | None = None,
    mask: Int[Array, "b s"] | None = None,
    train: bool = False,
    keys: _Keys = None,
  ) -> tuple[Float[Array, "b s d"], Float[Array, "b d"]]:
    """Returns (hidden, pooled): the last block's vector of every token, and the text's.

    Args:
      ids: of tokens, below vocab_size. token_type_ids: segments, default 0. mask: 1 for tokens, 0
        for padding, default 1; vectors of padding mean nothing.
      keys: one key per text for `dropout`; without it, or unless `train`, nothing is dropped.
    Raises: ValueError for more tokens than `positions`.
    """
    if ids.shape[-1] > self.positions:
      raise ValueError(f"{ids.shape[-1]} tokens are more than the {self.positions} positions.")
    types = jnp.zeros_like(ids) if token_type_ids is None else token_type_ids
    mask = jnp.ones_like(ids) if mask is None else mask
    noise = keys["dropout"] if train and keys is not None and "dropout" in keys else None
    # Host arrays too, by numbers that may be traced.
    words, segments, places = map(jnp.asarray, (self.words(), self.segments(), self.places()))
    x = words[ids] + segments[types] + places[None, : ids.shape[-1]]
    x = self.first_norm(x).astype(jnp.dtype(self.dtype))
    x = _dropped(x, noise, 0, self.dropout_rate)
    for index, block in enumerate(self.blocks):
      x = block(x, mask, None if noise is None else _folded(noise, index + 1))
    first = jax.lax.index_in_dim(x, 0, axis=1, keepdims=False)
    return x, jnp.tanh(self.pooler(first))


class WithHeads(nn.Module):
  """A text encoder and one dense layer for every task.

  backbone: the encoder. outputs: (name, units) of every task, in the order of its logits.
  dropout_rate: of what the heads see.
  """

  backbone: Bert
  outputs: tuple[tuple[str, int], ...]
  dropout_rate: float = 0.1

  def setup(self) -> None:
    # Glorot's limit, as TensorFlow's dense layers have it.
    width = self.backbone.width
    self.heads = [
      Dense(units, initialize.Uniform(math.sqrt(6 / (width + units))), name=f"task_specific_{name}")
      for name, units in self.outputs
    ]

  def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns those of the encoder."""
    return self.backbone.abstract_inputs()

  def frozen_names(self) -> tuple[str, ...]:
    """Returns no names: everything is trained."""
    return ()

  def __call__(
    self,
    ids: Int[Array, "b s"],
    token_type_ids: Int[Array, "b s"] | None = None,
    mask: Int[Array, "b s"] | None = None,
    train: bool = False,
    keys: _Keys = None,
  ) -> Float[Array, "b k"]:
    """Returns the outputs of all heads side by side, float32, whatever task a text is of."""
    _, pooled = self.backbone(ids, token_type_ids, mask, train, keys)
    if train and keys is not None and "dropout" in keys:
      pooled = _dropped(pooled, keys["dropout"], self.backbone.depth + 1, self.dropout_rate)
    pooled = pooled.astype(jnp.float32)
    return jnp.concatenate([head(pooled) for head in self.heads], -1)


def build(
  *,
  num_classes: int = 0,
  vocab_size: int = 30_522,
  depth: int = 12,
  width: int = 768,
  heads: int = 0,
  hidden: int = 0,
  positions: int = 512,
  types: int = 2,
  activation: str = "gelu",
  dropout_rate: float = 0.1,
  attention_dropout_rate: float = 0.1,
  attention: str = "fused",
  epsilon: float = 1e-12,
  std: float = 0.02,
  dtype: Any = "float32",
  remat: str = "none",
) -> Bert:
  """Returns an encoder.

  Args: num_classes: 0, since heads belong to tasks. heads: 0 for width / 64. hidden: 0 for 4 width.
    The others: see `Bert`.
  Raises: UserError for impossible values.
  """
  if num_classes:
    raise errors.UserError(
      f"num_classes={num_classes}: an encoder of texts has no classes; its heads come with "
      "config.task.name='text'."
    )
  for key, value, least in (
    ("vocab_size", vocab_size, 1),
    ("depth", depth, 1),
    ("width", width, 1),
    ("heads", heads, 0),
    ("hidden", hidden, 0),
    ("positions", positions, 1),
    ("types", types, 1),
  ):
    if value < least:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least {least}.")
  heads = heads or max(1, width // 64)
  if width % heads:
    fitting = [n for n in range(1, width + 1) if width % n == 0]
    near = sorted(sorted(fitting, key=lambda n: abs(n - heads))[:2])
    raise errors.UserError(
      f"config.model.heads={heads} does not divide config.model.width={width}; nearest: "
      f"{' or '.join(map(str, near))}."
    )
  for key, value in (
    ("dropout_rate", dropout_rate),
    ("attention_dropout_rate", attention_dropout_rate),
  ):
    if not 0 <= value < 1:
      raise errors.UserError(f"config.model.{key}={value!r} should be at least 0 and below 1.")
  for key, value, options in (
    ("activation", activation, ACTIVATIONS),
    ("attention", attention, ATTENTIONS),
    ("remat", remat, REMAT),
    ("dtype", jnp.dtype(dtype).name, DTYPES),
  ):
    if value not in options:
      raise errors.unknown(f"config.model.{key}", value, "a valid choice", options)
  return Bert(
    vocab_size=vocab_size,
    depth=depth,
    width=width,
    heads=heads,
    hidden=hidden or 4 * width,
    positions=positions,
    types=types,
    activation=activation,
    dropout_rate=dropout_rate,
    attention_dropout_rate=attention_dropout_rate,
    attention=attention,
    epsilon=epsilon,
    std=std,
    dtype=dtype,
    remat=remat,
  )


def _madds(depth: int, width: int) -> int:
  tokens = COUNTED_TOKENS
  return depth * (12 * width**2 * tokens + 2 * tokens**2 * width) + width**2


def _add(name: str, depth: int, width: int, params: int, vocab_size: int = 30_522) -> None:
  compact = depth < 12 or width < 768
  registry.register(
    registry.Entry(
      name=name,
      build=functools.partial(build, depth=depth, width=width, vocab_size=vocab_size),
      paper="1908.08962" if compact else "1810.04805",
      image_size=0,
      dropout_rate=0.1,
      drop_path_rate=0.0,
      params=params,
      madds=_madds(depth, width),
      num_classes=0,
      task="text",
      tokens=COUNTED_TOKENS,
    )
  )


# Width -> parameters, pooler included, at depths 2, 4, … 12.
_COMPACT = {
  128: (4_385_920, 4_782_464, 5_179_008, 5_575_552, 5_972_096, 6_368_640),
  256: (9_591_040, 11_170_560, 12_750_080, 14_329_600, 15_909_120, 17_488_640),
  512: (22_458_880, 28_763_648, 35_068_416, 41_373_184, 47_677_952, 53_982_720),
  768: (38_603_520, 52_779_264, 66_955_008, 81_130_752, 95_306_496, 109_482_240),
}
# Those with names of their own.
NAMED = {
  "tiny": (2, 128),
  "mini": (4, 256),
  "small": (4, 512),
  "medium": (8, 512),
  "base": (12, 768),
}

for _width, _counts in _COMPACT.items():
  for _depth, _params in zip(range(2, 13, 2), _counts, strict=True):
    _add(f"bert_l{_depth}_h{_width}", _depth, _width, _params)
for _name, (_depth, _width) in NAMED.items():
  _add(f"bert_{_name}", _depth, _width, _COMPACT[_width][_depth // 2 - 1])
_add("bert_large", 24, 1024, 335_141_888)
_add("bert_base_cased", 12, 768, 108_310_272, 28_996)
_add("bert_large_cased", 24, 1024, 333_579_264, 28_996)
_add("bert_base_multilingual_cased", 12, 768, 177_853_440, 119_547)
