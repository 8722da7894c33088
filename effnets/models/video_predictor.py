"""SVG' and its relatives: what comes next in a film, many times over.

An encoder gives each frame a code, a recurrent net says the next frame's code from that of the
frame before and a latent z, a decoder draws it with the help of skips from a frame of the context.
z is drawn from a posterior that has seen the next frame, or, once nobody has, from a learned prior.

  stochastic   all of this: SVG' over maps, SVG-LP over vectors, SVG-FP with a fixed prior
  recurrent    without z: the LSTM ablation
  feedforward  without z and without recurrence, over the codes of the last frames: the CNN ablation

Times count from 1: frames x_1 to x_C are the context.
Source: Villegas et al. 2019 (arXiv 1911.01655); Denton and Fergus 2018 (arXiv 1802.07687) and its
code; where the former leaves sizes open they are fields.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from effnets.models import common, frame_coders, recurrence

KINDS = ("stochastic", "recurrent", "feedforward")
PRIORS = ("learned", "fixed")
SKIPS = ("context", "official", "last")
BN_MODES = ("running", "batch")
STARTS = {"official": frame_coders.START, "fan_in": "fan_in"}
REMAT = ("none", "block")

_Keys = Mapping[str, Key[Array, " b"]] | None
_Normal = tuple[Float[Array, "b t h w z"], Float[Array, "b t h w z"]]


@flax.struct.dataclass
class Predicted:
  """Frames 2 to T as they are told with the true frames at hand.

  frames: in (0, 1). posterior, prior: mean and log-variance of z at every step; None without z.
  """

  frames: Float[Array, "b t h w c"]
  posterior: _Normal | None = None
  prior: _Normal | None = None


class VideoPredictor(common.Common, kw_only=True):
  """Encoder, frame predictor, posterior, prior, decoder.

  kind: see the module. coder: see `frame_coders`; `shallow` goes with convolutional LSTMs, the
  others, whose codes are vectors, with plain ones.
  k: factor of all channels of encoder and decoder but the code's. m: factor of `base`, the channels
  of the recurrent nets. Products are rounded down. code: channels of the code, times k with
  `scale_code`. latent: channels of z, at every place of the map.
  prior: `learned`, or `fixed`, the standard normal.
  actions: numbers of an action, joined to the predictor's input; 0 for none. context: C.
  skips: the frame whose skips help to draw x_t.
    context: x_{t-1}, but no later one than x_C.
    official: x_{t-1}, but no later one than x_{C-1}, as the loop of SVG's code has it.
    last: always x_{t-1}, that may be a prediction.
  bn_mode: whether `sample` normalises by `running` moments, or by those of the `batch` it is given,
  as SVG's code does: a clip's prediction then depends on its neighbours.
  start: of kernels: `official`, N(0, 0.02), which suits hundreds of channels, or `fan_in`, of
  variance 1 / fan_in, for few: of these 0.02 would leave little of what passes the recurrent nets.
  channels: of frames. frames, image_size: it was designed for; any other number of frames works.
  remat: `block` keeps of every layer and of every step its input alone for the backward pass.
  The others: see `common.Common`.
  """

  kind: str = "stochastic"
  coder: str = "shallow"
  k: float = 1.0
  m: float = 1.0
  base: int = 256
  code: int = 128
  scale_code: bool = False
  latent: int = 10
  prior: str = "learned"
  actions: int = 0
  context: int = 2
  skips: str = "context"
  bn_mode: str = "running"
  start: str = "official"
  channels: int = 3
  frames: int = 12
  image_size: int = 64
  momentum: float = 0.9
  epsilon: float = 1e-5

  def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shapes of one clip, and of its actions if there are such."""
    shape = (1, self.frames, self.image_size, self.image_size, self.channels)
    clips = jax.ShapeDtypeStruct(shape, jnp.float32)
    actions = jax.ShapeDtypeStruct((1, self.frames, self.actions), jnp.float32)
    return (clips, actions) if self.actions else (clips,)

  def frozen_names(self) -> tuple[str, ...]:
    """Returns the names of frozen parameters: none."""
    return ()

  @property
  def stochastic(self) -> bool:
    """Whether futures are drawn."""
    return self.kind == "stochastic"

  @property
  def code_channels(self) -> int:
    """Channels of a code."""
    return frame_coders.wide(self.code, self.k) if self.scale_code else self.code

  def setup(self) -> None:
    settings = self.settings(padding="SYMMETRIC")
    coder = (self.coder, self.k, settings, self.remat != "none", STARTS[self.start])
    self.encoder = frame_coders.Encoder(*coder, code=self.code_channels, name="encoder")
    self.decoder = frame_coders.Decoder(*coder, channels=self.channels, name="decoder")
    kernel = 3 if self.coder == "shallow" else 1
    net = (frame_coders.wide(self.base, self.m), kernel, settings, STARTS[self.start])
    kind = recurrence.Feedforward if self.kind == "feedforward" else recurrence.FramePredictor
    self.frame_predictor = kind(*net, code=self.code_channels, name="frame_predictor")
    if self.stochastic:
      self.posterior_net = recurrence.Gaussian(*net, latent=self.latent, name="posterior")
      if self.prior == "learned":
        self.prior_net = recurrence.Gaussian(*net, latent=self.latent, name="prior")

  # ---- A step ------------------------------------------------------------------------------------

  def _begin(self, codes: Float[Array, "b t h w g"]) -> dict[str, Any]:
    """Returns what the recurrent nets carry before the first step."""
    if self.kind == "feedforward":
      return {}
    batch, side = codes.shape[0], codes.shape[2:4]
    carry = {"predictor": self.frame_predictor.zeros(batch, side)}
    if self.stochastic:
      carry["posterior"] = self.posterior_net.zeros(batch, side)
      if self.prior == "learned":
        carry["prior"] = self.prior_net.zeros(batch, side)
    return carry

  def _step(
    self,
    carry: dict[str, Any],
    before: Float[Array, "b h w g"],
    after: Float[Array, "b h w g"] | None,
    action: Float[Array, "b a"] | None,
    noise: Float[Array, "b h w z"] | None,
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the new carry, and the next frame's code with what z was drawn from.

    after: of the next frame, for the posterior; None to draw from the prior. noise: of z; None for
    its mean.
    """
    new, found, inputs = dict(carry), {}, [before]
    if action is not None:
      inputs.append(_tiled(action, before.shape[1:3]))
    if self.stochastic:
      if self.prior == "learned":
        new["prior"], normal = self.prior_net(carry["prior"], before)
      else:
        zero = jnp.zeros((*before.shape[:3], self.latent), jnp.float32)
        normal = (zero, zero)
      found["prior"] = normal
      if after is not None:
        new["posterior"], normal = self.posterior_net(carry["posterior"], after)
        found["posterior"] = normal
      mean, log_variance = normal
      z = mean if noise is None else mean + jnp.exp(0.5 * log_variance) * noise
      inputs.append(z)
    joined = jnp.concatenate([x.astype(before.dtype) for x in inputs], -1)
    new["predictor"], found["code"] = self.frame_predictor(carry["predictor"], joined)
    return new, found

  def _known(
    self, carry: dict[str, Any], codes: Array, actions: Array | None, noise: Array | None
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the carry after all true frames, and what was found on the way, `b t …`."""
    after = codes[:, 1:] if self.stochastic else None
    steps = (codes[:, :-1], after, actions, noise)
    if self.stochastic is False:
      steps = (codes, None, actions, None)
    # Time leads.
    steps = tuple(None if x is None else jnp.moveaxis(x, 1, 0) for x in steps)
    if self.is_initializing():
      # Shapes are all that counts there, and a lifted scan would hide how parameters are drawn.
      found = []
      for index in range(steps[0].shape[0]):
        own = (None if x is None else x[index] for x in steps)
        carry, each = self._step(carry, *own)
        found.append(each)
      found = jax.tree.map(lambda *x: jnp.stack(x), *found)
    else:

      def body(module, carry, xs):
        return module._step(carry, *xs)

      if self.remat != "none":
        body = nn.remat(body, prevent_cse=False)
      scanned = nn.scan(body, variable_broadcast="params", split_rngs={})
      carry, found = scanned(self, carry, steps)
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), found)

  # ---- With the true frames at hand --------------------------------------------------------------

  def __call__(
    self,
    clips: Float[Array, "b t h w c"],
    actions: Float[Array, "b t a"] | None = None,
    *,
    train: bool = False,
    keys: _Keys = None,
  ) -> Predicted:
    """Returns frames 2 to T, each told from the true frames before it; z is the posterior's.

    Args:
      clips: in [0, 1]. actions: the t-th leads from x_t to x_{t+1}; the last one is not read.
      train: batch moments instead of running ones. keys: one per example for `latent`, the noise of
        z; None: its mean.
    Raises: ValueError if actions are missing, or there are any that the network does not take.
    """
    self._check(actions)
    steps = clips.shape[1] - 1
    # The last frame tells nothing but its own z.
    codes, skips = self.encoder(clips if self.stochastic else clips[:, :-1], train)
    actions = None if actions is None else actions[:, :steps]
    normals: dict[str, Any] = {}
    if self.kind == "feedforward":
      windows = np.maximum(np.arange(steps)[:, None] - np.arange(self.context)[::-1], 0)
      found = frame_coders.per_frame(self.frame_predictor, self._joined(codes[:, windows], actions))
    else:
      noise = self._noise(keys, steps, codes.shape[2:4])
      _, normals = self._known(self._begin(codes), codes, actions, noise)
      found = normals.pop("code")
    last = {"context": self.context, "official": max(1, self.context - 1), "last": steps}
    which = np.minimum(np.arange(steps), last[self.skips] - 1)
    frames = self.decoder(found, [_picked(skip, which) for skip in skips], train)
    return Predicted(frames, normals.get("posterior"), normals.get("prior"))

  # ---- Without them ------------------------------------------------------------------------------

  def sample(
    self,
    clips: Float[Array, "b t h w c"],
    actions: Float[Array, "b t a"] | None = None,
    *,
    horizon: int,
    count: int = 1,
    keys: Key[Array, " b"] | None = None,
  ) -> Float[Array, "b n t h w c"]:
    """Returns `count` futures of `horizon` frames after the context of every clip, in (0, 1).

    In the context z is the posterior's, as in SVG's code, while the prior runs along. Without z all
    futures are equal, and computed once.

    Args:
      clips: of which the first `context` frames are read. actions: of the context and at least
        `horizon - 1` more. keys: one per example; sample i of a clip is a function of its key and
        i; None: no noise, the mean of z.
    Raises: ValueError if there are too few frames or actions.
    """
    self._check(actions)
    if clips.shape[1] < self.context:
      raise ValueError(f"a context of {clips.shape[1]} frames; {self.context} are needed.")
    total = self.context + horizon
    if actions is not None and actions.shape[1] < total - 1:
      raise ValueError(f"{actions.shape[1]} actions; {total - 1} are needed.")
    train = self.bn_mode == "batch"
    codes, skips = self.encoder(clips[:, : self.context], train)
    drawn = count if self.stochastic and keys is not None else 1
    if self.kind == "feedforward":
      made = self._slid(codes, skips, actions, horizon, train)
    else:
      made = self._drawn(codes, skips, actions, horizon, drawn, keys, train)
    if drawn == count:
      return made
    return jnp.broadcast_to(made[:, :1], (made.shape[0], count, *made.shape[2:]))

  def _held(self, skips: Any) -> list[Array]:
    """Returns the skips of the context frame that helps to draw what follows, `b 1 …`."""
    back = 2 if self.skips == "official" and self.context > 1 else 1
    return [skip[:, self.context - back :][:, :1] for skip in skips]

  def _drawn(
    self,
    codes: Array,
    skips: Any,
    actions: Array | None,
    horizon: int,
    count: int,
    keys: Key[Array, " b"] | None,
    train: bool,
  ) -> Float[Array, "b n t h w c"]:
    # The samples of a clip lie side by side, so that the batch stays cut as it was.
    many = lambda x: None if x is None else jnp.repeat(x, count, 0)  # noqa: E731
    batch, known = codes.shape[0], self.context - 1
    noise = None
    if self.stochastic and keys is not None:
      own = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))
      noise = self._noise({"latent": own(keys).reshape(-1)}, known + horizon, codes.shape[2:4])
    codes, actions = many(codes), many(actions)
    carry = self._begin(codes)
    if known:
      cut = lambda x: None if x is None else x[:, :known]  # noqa: E731
      frames = codes if self.stochastic else codes[:, :known]
      carry, _ = self._known(carry, frames, cut(actions), cut(noise))
    # Skips of samples are `b n …`, as decoder and encoder take them.
    held = [jnp.repeat(skip, count, 1) for skip in self._held(skips)]
    spread = lambda x: x.reshape(batch, count, *x.shape[1:])  # noqa: E731

    def body(module, state, xs):
      carry, before, held = state
      action, noise = xs
      carry, found = module._step(carry, before, None, action, noise)
      frame = module.decoder(spread(found["code"]), held, train)
      code, skips = module.encoder(frame, train)
      if module.skips == "last":
        held = list(skips)
      return (carry, code.reshape(-1, *code.shape[2:]), held), frame

    rest = lambda x: None if x is None else jnp.moveaxis(x[:, known : known + horizon], 1, 0)  # noqa: E731
    scanned = nn.scan(
      body, variable_broadcast=("params", "batch_stats"), split_rngs={}, length=horizon
    )
    _, frames = scanned(self, (carry, codes[:, -1], held), (rest(actions), rest(noise)))
    return jnp.moveaxis(frames, 0, 2)

  def _slid(
    self, codes: Array, skips: Any, actions: Array | None, horizon: int, train: bool
  ) -> Float[Array, "b 1 t h w c"]:
    """Returns the future of the network without recurrence, which slides over what it made."""

    def body(module, state, action):
      window, held = state
      action = None if action is None else action[:, None]
      joined = module._joined(window[:, None], action)
      found = frame_coders.per_frame(module.frame_predictor, joined)
      frame = module.decoder(found, held, train)
      code, skips = module.encoder(frame, train)
      if module.skips == "last":
        held = list(skips)
      return (jnp.concatenate([window[:, 1:], code], 1), held), frame

    known = self.context - 1
    rest = None
    if actions is not None:
      rest = jnp.moveaxis(actions[:, known : known + horizon], 1, 0)
    scanned = nn.scan(
      body, variable_broadcast=("params", "batch_stats"), split_rngs={}, length=horizon
    )
    _, frames = scanned(self, (codes, self._held(skips)), rest)
    return jnp.moveaxis(frames, 0, 2)

  # ---- What both share ---------------------------------------------------------------------------

  def _joined(
    self, windows: Float[Array, "b t n h w g"], actions: Float[Array, "b t a"] | None
  ) -> Float[Array, "b t h w d"]:
    """Returns the codes of n frames as channels, with the last of their actions."""
    b, t, n, h, w, g = windows.shape
    joined = jnp.moveaxis(windows, 2, 4).reshape(b, t, h, w, n * g)
    if actions is None:
      return joined
    tiled = frame_coders.per_frame(functools.partial(_tiled, side=(h, w)), actions)
    return jnp.concatenate([joined, tiled.astype(joined.dtype)], -1)

  def _noise(
    self, keys: _Keys, steps: int, side: tuple[int, int]
  ) -> Float[Array, "b t h w z"] | None:
    if not self.stochastic or keys is None or "latent" not in keys:
      return None
    shape = (*side, self.latent)

    def each(key, step):
      return jax.random.normal(jax.random.fold_in(key, step), shape)

    # A step's noise is the same however many steps follow.
    over_time = jax.vmap(each, (None, 0))
    return jax.vmap(lambda key: over_time(key, jnp.arange(steps)))(keys["latent"])

  def _check(self, actions: Array | None) -> None:
    width = 0 if actions is None else actions.shape[-1]
    if width != self.actions:
      raise ValueError(f"actions of {width} numbers; this network takes {self.actions}.")


def _tiled(action: Float[Array, "b a"], side: tuple[int, int]) -> Float[Array, "b h w a"]:
  """Returns the action at every place of a map."""
  return jnp.broadcast_to(action[:, None, None], (action.shape[0], *side, action.shape[1]))


def _picked(x: Float[Array, "b t *s"], which: np.ndarray) -> Float[Array, "b n *s"]:
  """Returns frames by their numbers: those that ascend one by one, then the last of them again."""
  new = int(which[-1]) + 1
  if len(which) == new:
    return x[:, :new]
  again = jnp.broadcast_to(x[:, new - 1 : new], (x.shape[0], len(which) - new, *x.shape[2:]))
  return jnp.concatenate([x[:, :new], again], 1)
