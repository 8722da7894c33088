"""Policies over token lists: pure functions of their parameters, one network per way of sampling.

Letters in shapes: b architectures, d decisions, k the most choices that a decision has, n kinds of
decisions, h hidden units. Everything is padded to k; masks take padding and invalid choices out.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from effnets import errors

NEVER = -1e30
"""Logit of a choice that cannot be taken; not infinite, so that gradients stay numbers."""

Params = Any


@dataclasses.dataclass(frozen=True)
class Layout:
  """What a policy has to know of a space. kinds: number of every decision's kind."""

  arities: tuple[int, ...]
  kinds: tuple[int, ...]

  @classmethod
  def of(cls, space: Any) -> "Layout":
    """Returns the layout of a space; kinds are numbered as they first appear."""
    names = list(dict.fromkeys(decision.kind for decision in space.decisions))
    kinds = tuple(names.index(decision.kind) for decision in space.decisions)
    return cls(tuple(int(arity) for arity in space.arities), kinds)

  @property
  def sizes(self) -> tuple[int, ...]:
    """The most choices of every kind."""
    pairs = list(zip(self.kinds, self.arities, strict=True))
    return tuple(max(a for k, a in pairs if k == kind) for kind in range(max(self.kinds) + 1))

  @property
  def choices(self) -> int:
    """k."""
    return max(self.arities)

  def mask(self) -> Bool[np.ndarray, "d k"]:
    """Returns which choices there are at all."""
    return np.arange(self.choices) < np.asarray(self.arities)[:, None]

  def rows(self, padded: bool, steps: bool = False) -> tuple[int, Int[np.ndarray, "d k"]]:
    """Returns how many (kind, choice) rows a table has, and the row of each decision's choices.

    padded: k rows for every kind, instead of as many as it has choices. steps: every decision is a
    kind of its own. Rows of padding are those of some real choice; a mask takes them out.
    """
    kinds = tuple(range(len(self.arities))) if steps else self.kinds
    sizes = self.arities if steps else self.sizes
    sizes = (self.choices,) * len(sizes) if padded else sizes
    offsets = np.cumsum((0, *sizes))
    within = np.minimum(np.arange(self.choices), np.asarray(sizes)[list(kinds), None] - 1)
    return int(offsets[-1]), offsets[list(kinds), None] + within


@dataclasses.dataclass(frozen=True)
class Policy:
  """The parts that all policies share; see `Factorised` for the simplest whole one."""

  layout: Layout

  independent: ClassVar[bool] = False
  """Whether the logits of a decision depend on no other decision."""

  def init(self, rng: np.random.Generator) -> Params:
    """Returns fresh parameters, float32."""
    raise NotImplementedError

  def start(self, params: Params, batch: int) -> Any:
    """Returns the state before the first decision."""
    raise NotImplementedError

  def step(
    self, params: Params, state: Any, place: Int[Array, ""], previous: Int[Array, " b"]
  ) -> tuple[Any, Float[Array, "b k"]]:
    """Returns the next state and the logits of decision `place`; previous: the token before it."""
    raise NotImplementedError

  def logits(self, params: Params, tokens: Int[Array, "b d"]) -> Float[Array, "b d k"]:
    """Returns the logits of every decision after the tokens before it; nothing is masked."""
    previous = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]

    def step(state, inputs):
      return self.step(params, state, *inputs)

    places = jnp.arange(tokens.shape[1])
    start = self.start(params, tokens.shape[0])
    return jax.lax.scan(step, start, (places, previous.T))[1].swapaxes(0, 1)

  def sample(
    self, params: Params, noise: Float[Array, "b d k"], mask: Bool[Array, "d k"]
  ) -> Int[Array, "b d"]:
    """Returns tokens drawn with Gumbel noise, where no mask depends on earlier tokens."""

    def step(carry, inputs):
      state, previous = carry
      place, noise, mask = inputs
      state, logits = self.step(params, state, place, previous)
      token = jnp.argmax(jnp.where(mask, logits + noise, NEVER), -1)
      return (state, token), token

    batch, decisions, _ = noise.shape
    carry = self.start(params, batch), jnp.zeros(batch, int)
    inputs = jnp.arange(decisions), noise.swapaxes(0, 1), mask
    return jax.lax.scan(step, carry, inputs)[1].T


@dataclasses.dataclass(frozen=True)
class Factorised(Policy):
  """Independent logits of every decision, zero at first."""

  independent: ClassVar[bool] = True

  def init(self, rng):
    return np.zeros((len(self.layout.arities), self.layout.choices), np.float32)

  def start(self, params, batch):
    return ()

  def step(self, params, state, place, previous):
    return state, jnp.broadcast_to(params[place], (*previous.shape, params.shape[1]))

  def logits(self, params, tokens):
    return jnp.broadcast_to(params, (tokens.shape[0], *params.shape))

  def sample(self, params, noise, mask):
    return jnp.argmax(jnp.where(mask, params + noise, NEVER), -1)


@dataclasses.dataclass(frozen=True)
class Lstm(Policy):
  """One LSTM layer; a sampled token's embedding is the next input, a softmax reads every output.

  Embeddings and heads belong to a kind of decision: where in the network it is, the state knows.
  padded: whether tables have k rows for every kind. per_step_heads: a head for every decision.
  Parameters for kinds padded to k: n k h + h + 8 h^2 + 4 h + n k (h + 1), all uniform at first.

  Source: Zoph et al. 2018, A.2 to A.3: one layer of 100 units, weights uniform in +-0.1.
  """

  hidden: int = 100
  padded: bool = True
  per_step_heads: bool = False
  span: float = 0.1

  def init(self, rng):
    rows, _ = self.layout.rows(self.padded)
    heads, _ = self.layout.rows(self.padded, self.per_step_heads)
    h = self.hidden
    shapes = {
      "embedding": (rows, h),
      "start": (h,),
      "input": (h, 4 * h),
      "recurrent": (h, 4 * h),
      "bias": (4 * h,),
      "head": (heads, h),
      "head_bias": (heads,),
    }
    draw = lambda shape: rng.uniform(-self.span, self.span, shape).astype(np.float32)  # noqa: E731
    return {name: draw(shape) for name, shape in shapes.items()}

  def start(self, params, batch):
    return (jnp.zeros((batch, self.hidden)),) * 2

  def _cell(self, params, state, projected):
    """Returns the state after one step; projected: the input through its weights, with bias."""
    output, cell = state
    gates = jnp.split(projected + output @ params["recurrent"], 4, -1)
    enter, forget, candidate, leave = gates
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell

  def step(self, params, state, place, previous):
    rows = jnp.asarray(self.layout.rows(self.padded)[1])
    heads = jnp.asarray(self.layout.rows(self.padded, self.per_step_heads)[1])
    embedded = params["embedding"][rows[place - 1, previous]]
    embedded = jnp.where(place == 0, params["start"], embedded)
    state = self._cell(params, state, embedded @ params["input"] + params["bias"])
    head = params["head"][heads[place]]
    return state, state[0] @ head.T + params["head_bias"][heads[place]]

  def logits(self, params, tokens):
    # All but the recurrence itself for all steps at once.
    rows = jnp.asarray(self.layout.rows(self.padded)[1])
    heads = jnp.asarray(self.layout.rows(self.padded, self.per_step_heads)[1])
    batch, decisions = tokens.shape
    embedded = params["embedding"][rows[jnp.arange(decisions - 1), tokens[:, :-1]]]
    first = jnp.broadcast_to(params["start"], (batch, 1, self.hidden))
    projected = jnp.concatenate([first, embedded], 1) @ params["input"] + params["bias"]

    def step(state, projected):
      state = self._cell(params, state, projected)
      return state, state[0]

    outputs = jax.lax.scan(step, self.start(params, batch), projected.swapaxes(0, 1))[1]
    return jnp.einsum("dbh,dkh->bdk", outputs, params["head"][heads]) + params["head_bias"][heads]


@dataclasses.dataclass(frozen=True)
class Transformer(Policy):
  """A causal transformer: pre-normalised layers, learned positions, embeddings and heads by kind.

  width: of the stream, that of the heads together. Source: the project's own choice of sizes.
  """

  width: int = 64
  layers: int = 2
  heads: int = 4
  padded: bool = False
  per_step_heads: bool = False

  def __post_init__(self):
    if self.width % self.heads:
      raise errors.UserError(f"width={self.width} has to be a multiple of heads={self.heads}.")

  def init(self, rng):
    rows, _ = self.layout.rows(self.padded)
    heads, _ = self.layout.rows(self.padded, self.per_step_heads)
    w = self.width

    def draw(*shape, scale=0.02):
      return rng.normal(0, scale, shape).astype(np.float32)

    def ones():
      return np.ones(w, np.float32)

    def layer():
      return {
        "attention_norm": ones(),
        "qkv": draw(w, 3 * w, scale=w**-0.5),
        "merge": draw(w, w, scale=0.02),
        "mlp_norm": ones(),
        "widen": draw(w, 4 * w, scale=w**-0.5),
        "widen_bias": np.zeros(4 * w, np.float32),
        "narrow": draw(4 * w, w, scale=0.02),
      }

    return {
      "embedding": draw(rows, w, scale=1.0),
      "start": draw(w, scale=1.0),
      "positions": draw(len(self.layout.arities), w, scale=1.0),
      "layers": [layer() for _ in range(self.layers)],
      "norm": ones(),
      "head": draw(heads, w),
      "head_bias": np.zeros(heads, np.float32),
    }

  def start(self, params, batch):
    # Keys and values of the steps so far, layer by layer.
    shape = (self.layers, 2, batch, len(self.layout.arities), self.width)
    return jnp.zeros(shape)

  def _norm(self, x, scale):
    return x * scale * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

  def _attend(self, query, key, value, seen):
    """Returns the attended values `b q w`; seen: which of the keys `t` each query `q` may see."""
    split = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)  # noqa: E731
    scores = jnp.einsum("bqnc,btnc->bnqt", split(query), split(key))
    scores *= (self.width // self.heads) ** -0.5
    weights = jax.nn.softmax(jnp.where(seen, scores, NEVER), -1)
    return jnp.einsum("bnqt,btnc->bqnc", weights, split(value)).reshape(query.shape)

  def _mlp(self, layer, x):
    y = self._norm(x, layer["mlp_norm"]) @ layer["widen"] + layer["widen_bias"]
    return x + jax.nn.gelu(y) @ layer["narrow"]

  def step(self, params, state, place, previous):
    rows = jnp.asarray(self.layout.rows(self.padded)[1])
    heads = jnp.asarray(self.layout.rows(self.padded, self.per_step_heads)[1])
    embedded = params["embedding"][rows[place - 1, previous]]
    x = jnp.where(place == 0, params["start"], embedded) + params["positions"][place]
    x = x[:, None]
    seen = jnp.arange(state.shape[3]) <= place
    for i, layer in enumerate(params["layers"]):
      query, *pair = jnp.split(self._norm(x, layer["attention_norm"]) @ layer["qkv"], 3, -1)
      state = jax.lax.dynamic_update_slice(state, jnp.stack(pair)[None], (i, 0, 0, place, 0))
      x = x + self._attend(query, *state[i], seen) @ layer["merge"]
      x = self._mlp(layer, x)
    x = self._norm(x[:, 0], params["norm"])
    return state, x @ params["head"][heads[place]].T + params["head_bias"][heads[place]]

  def logits(self, params, tokens):
    rows = jnp.asarray(self.layout.rows(self.padded)[1])
    heads = jnp.asarray(self.layout.rows(self.padded, self.per_step_heads)[1])
    batch, decisions = tokens.shape
    embedded = params["embedding"][rows[jnp.arange(decisions - 1), tokens[:, :-1]]]
    first = jnp.broadcast_to(params["start"], (batch, 1, self.width))
    x = jnp.concatenate([first, embedded], 1) + params["positions"]
    seen = jnp.tri(decisions, dtype=bool)
    for layer in params["layers"]:
      parts = jnp.split(self._norm(x, layer["attention_norm"]) @ layer["qkv"], 3, -1)
      x = x + self._attend(*parts, seen) @ layer["merge"]
      x = self._mlp(layer, x)
    x = self._norm(x, params["norm"])
    return jnp.einsum("bdh,dkh->bdk", x, params["head"][heads]) + params["head_bias"][heads]


POLICIES: dict[str, type[Policy]] = {
  "factorised": Factorised,
  "lstm": Lstm,
  "transformer": Transformer,
}


def create(name: str, layout: Layout, **settings: Any) -> Policy:
  """Returns the policy `name` with its settings. Raises: UserError for an unknown one."""
  if name not in POLICIES:
    raise errors.unknown("policy", name, "a policy", POLICIES)
  known = [f.name for f in dataclasses.fields(POLICIES[name]) if f.name != "layout"]
  for setting in settings:
    if setting not in known:
      raise errors.unknown(f"policy {name}", setting, "one of its settings", known)
  return POLICIES[name](layout, **settings)


def count(params: Params) -> int:
  """Returns the number of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def log_probabilities(
  logits: Float[Array, "b d k"],
  tokens: Int[Array, "b d"],
  mask: Bool[Array, "*b d k"],
  active: Bool[Array, "b d"],
) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
  """Returns every decision's log-probability of its token, and its entropy, in nats.

  Both are 0 for inactive decisions: what does not matter is neither rewarded nor kept open.
  """
  logs = jax.nn.log_softmax(jnp.where(mask, logits, NEVER), -1)
  chosen = jnp.take_along_axis(logs, tokens[..., None], -1)[..., 0]
  entropy = -jnp.sum(jnp.where(mask, jnp.exp(logs) * logs, 0.0), -1)
  return jnp.where(active, chosen, 0.0), jnp.where(active, entropy, 0.0)
