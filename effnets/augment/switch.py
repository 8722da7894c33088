"""One random operation after another on every example of a batch, executing only what was drawn.

`vmap` over a `switch` would run every operation and throw all but one away (23 times slower on CPU
for RandAugment), so this is a loop: over examples on CPU, over chunks of examples that share an
operation elsewhere. Both give the same pixels. RandAugment, AutoAugment and their versions for
detection are tables of operations and draws from them; this executes all of them.

Call it inside `jax.shard_map` over the batch axes where there is a mesh: under plain `jit` both
loops gather the whole batch on every device. Do not put it under an outer `vmap`, where the loop's
switch turns into running every operation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8, UInt32

from effnets.augment import operations as ops

EXECUTIONS = ("auto", "map", "chunks")

_CHUNK = 8

Function = Callable[[PyTree, PyTree], PyTree]


class Draws(NamedTuple):
  """The random choices of a batch, one for each example and layer.

  index: which row of the policy's table. sign: 1 or -1, used by signed operations only.
  centre: two random words; modulo height and width they are the centre of a cutout.
  """

  index: Int[Array, "b n"]
  sign: Int[Array, "b n"]
  centre: UInt32[Array, "b n 2"]


class Table(NamedTuple):
  """Operations and arguments to draw from.

  names: the distinct operations. branch: which of them each row is. values: `Inputs.values` of each
  row, for a positive sign. signed: which of the values the sign turns.
  """

  names: tuple[str, ...]
  branch: Int[np.ndarray, " k"]
  values: Float[np.ndarray, "k 2"]
  signed: Bool[np.ndarray, "k 2"]

  def inputs(
    self, draws: Draws, size: tuple[int, int], fill: int | Sequence[int]
  ) -> tuple[Int[Array, "b n"], ops.Inputs]:
    """Returns the drawn operations, as places in `names`, and what they take; `size`: h, w."""
    value = jnp.asarray(self.values)[draws.index]
    sign = draws.sign[..., None].astype(jnp.float32)
    value = jnp.where(jnp.asarray(self.signed)[draws.index], sign * value, value)
    centre = (draws.centre % jnp.array(size, jnp.uint32)).astype(jnp.int32)
    packed = jnp.broadcast_to(jnp.asarray(ops.pack_fill(fill)), draws.index.shape)
    return jnp.asarray(self.branch)[draws.index], ops.Inputs(value, centre, packed)


def table(rows: Sequence[tuple[str, float | None]], signed: Callable[[str], bool]) -> Table:
  """Returns the table of (operation, argument) rows.

  Rows that repeat an operation share one branch, so a weighted list compiles nothing twice.

  signed: says of an operation whether its argument's sign is drawn.
  """
  names = sorted({name for name, _ in rows})
  turned = np.zeros((len(rows), 2), bool)
  for index, (name, _) in enumerate(rows):
    # An angle's sign is the sign of its sine; the cosine stays.
    turned[index, int(ops.is_angle(name))] = signed(name)
  return Table(
    tuple(names),
    np.array([names.index(name) for name, _ in rows], np.int32),
    np.stack([ops.values(name, value) for name, value in rows]),
    turned,
  )


def words(keys: Key[Array, " b"], shape: tuple[int, ...]) -> UInt32[Array, "b ..."]:
  """Returns random words of `shape` for each example, from its own key."""
  return jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys)


def below(word: UInt32[Array, "*b"], probability: Float[Array, "*b"]) -> Bool[Array, "*b"]:
  """Returns whether a random word's share of 2**32 is below a probability: 0 never, 1 always."""
  return (word >> 8).astype(jnp.float32) * np.float32(2**-24) < probability


def sign(word: UInt32[Array, "*b"]) -> Int[Array, "*b"]:
  """Returns 1 or -1."""
  return 1 - 2 * (word & 1).astype(jnp.int32)


def images(
  images: UInt8[Array, "b h w 3"],
  draws: Draws,
  rows: Sequence[tuple[str, float | None]],
  *,
  fill: int | Sequence[int],
  execution: str = "auto",
) -> UInt8[Array, "b h w 3"]:
  """Returns the images after the drawn `rows`, (operation, argument); execution: see `run`."""
  pixels = ops.pack(jnp.asarray(images))
  choices = table(rows, lambda name: ops.OPERATIONS[name].signed)
  functions = [ops.OPERATIONS[name].function for name in choices.names]
  branches, inputs = choices.inputs(draws, pixels.shape[1:], fill)
  return ops.unpack(run(pixels, branches, inputs, functions, execution))


def run(
  examples: PyTree,
  branches: Int[Array, "b n"],
  inputs: PyTree,
  functions: Sequence[Function],
  execution: str = "auto",
) -> PyTree:
  """Returns the examples after `n` operations each.

  Args:
    examples: arrays with the batch as first dimension. branches: which of `functions` to apply.
    inputs: what they take, arrays whose first dimensions are b n.
    functions: (example, its inputs) -> example, with the same shapes and dtypes.
    execution: `map` (a loop over examples, for CPU), `chunks` (a loop over chunks of 8 examples
      that share an operation, for GPU and TPU) or `auto` (by the platform that is compiled for).
  """
  if execution != "auto":
    return {"map": _map, "chunks": _chunks}[execution](examples, branches, inputs, functions)
  return jax.lax.platform_dependent(
    examples,
    branches,
    inputs,
    cpu=lambda *arrays: _map(*arrays, functions),
    default=lambda *arrays: _chunks(*arrays, functions),
  )


def _map(examples, branches, inputs, functions):
  """Returns the examples after all layers: a loop over examples with a scalar switch."""

  def augment(one):
    example, branch, mine = one

    def layer(n, example):
      return jax.lax.switch(branch[n], functions, example, jax.tree.map(lambda x: x[n], mine))

    return jax.lax.fori_loop(0, branch.shape[0], layer, example)

  return jax.lax.map(augment, (examples, branches, inputs))


def _chunks(examples, branches, inputs, functions):
  """Returns the examples after all layers: per layer a loop over chunks that share an operation.

  Examples are sorted by operation and each operation's examples are cut into chunks of `_CHUNK`, so
  the number of chunks is the sum of ceil(n / _CHUNK): a traced bound with no capacity to overflow.
  """
  batch = branches.shape[0]
  functions = [jax.vmap(function) for function in functions]

  def layer(n, examples):
    branch = branches[:, n]
    mine = jax.tree.map(lambda x: x[:, n], inputs)
    order = jnp.argsort(branch, stable=True)
    counts = jnp.sum(branch[:, None] == jnp.arange(len(functions)), axis=0, dtype=jnp.int32)
    first_example = jnp.cumsum(counts) - counts
    chunk_counts = (counts + _CHUNK - 1) // _CHUNK
    last_chunk = jnp.cumsum(chunk_counts)

    def chunk(j, examples):
      operation = jnp.sum(last_chunk <= j, dtype=jnp.int32)
      within = (j - (last_chunk[operation] - chunk_counts[operation])) * _CHUNK
      place = within + jnp.arange(_CHUNK)
      valid = place < counts[operation]
      which = order[jnp.where(valid, first_example[operation] + place, 0)]
      chosen, theirs = jax.tree.map(lambda x: x[which], (examples, mine))
      results = jax.lax.switch(operation, functions, chosen, theirs)
      target = jnp.where(valid, which, batch)
      return jax.tree.map(lambda x, new: x.at[target].set(new, mode="drop"), examples, results)

    return jax.lax.fori_loop(0, last_chunk[-1], chunk, examples)

  return jax.lax.fori_loop(0, branches.shape[1], layer, examples)
