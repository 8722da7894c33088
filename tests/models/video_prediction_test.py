"""SVG' against the counts and shapes of the papers, the cell against figures, a slow loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from effnets import errors, models
from effnets.models import counting, recurrence
from effnets.models import video_prediction as prediction

# base, K, M: encoder, decoder, predictor, posterior, in all, without z.
COUNTS = [
  (256, 1, 1, 2_032_832, 2_806_339, 10_052_480, 5_060_884, 25_013_419, 14_868_611),
  (256, 2, 2, 7_530_752, 10_626_179, 38_979_200, 19_558_932, 96_253_995, 57_090_051),
  (256, 3, 3, 16_493_888, 23_459_523, 86_780_288, 43_494_164, 213_722_027, 126_664_579),
  (256, 4, 3, 28_922_240, 41_306_371, 86_780_288, 43_494_164, 243_997_227, 156_939_779),
  (256, 5, 3, 44_815_808, 64_166_723, 86_780_288, 43_494_164, 282_751_147, 195_693_699),
  (512, 1, 1, 2_032_832, 2_806_339, 38_979_200, 19_558_932, 82_936_235, 43_772_291),
  (512, 2, 2, 7_530_752, 10_626_179, 153_455_744, 76_866_580, 325_345_835, 171_520_515),
  (512, 3, 3, 16_493_888, 23_459_523, 343_429_760, 171_922_964, 727_229_099, 383_244_931),
  (512, 5, 3, 44_815_808, 64_166_723, 343_429_760, 171_922_964, 796_258_219, 452_274_051),
]


TINY = {"k": 0.0626, "m": 0.03, "code": 6, "latent": 2, "image_size": 16, "frames": 5}


def params(**settings):
  return models.abstract(prediction.build(frames=2, **settings))["params"]


@pytest.mark.parametrize(
  "row", [COUNTS[0], *(pytest.param(r, marks=pytest.mark.slow) for r in COUNTS[1:-1]), COUNTS[-1]]
)
def test_parameters(row):
  base, k, m, encoder, decoder, predictor, posterior, whole, without = row
  found = params(base=base, k=float(k), m=float(m))
  parts = {name: counting.parameters(tree) for name, tree in found.items()}
  assert parts == {
    "encoder": encoder,
    "decoder": decoder,
    "frame_predictor": predictor,
    "posterior": posterior,
    "prior": posterior,
  }
  assert counting.parameters(found) == whole
  recurrent = params(base=base, k=float(k), m=float(m), kind="recurrent")
  assert counting.parameters(recurrent) == without
  acting = params(base=base, k=float(k), m=float(m), actions=4)
  assert counting.parameters(acting) == whole + 36 * base * m


@pytest.mark.parametrize(
  ("settings", "whole"),
  [
    ({"coder": "vgg", "latent": 64}, 22_831_747),
    ({"coder": "dcgan", "channels": 1}, 12_614_057),
    ({"coder": "vgg", "latent": 24, "channels": 1}, 22_778_081),
    ({"coder": "vgg", "latent": 24, "channels": 1, "prior": "fixed"}, 22_778_081 - 571_696),
  ],
)
def test_parameters_of_vector_models(settings, whole):
  assert counting.parameters(params(**settings)) == whole


_LARGE = ("svg_prime_large", "svg_lp", "svg_fp", "svg_lp_dcgan")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=pytest.mark.slow if name in _LARGE else ())
    for name in models.list_models(task="prediction")
  ],
)
def test_entries(name):
  entry, module = models.entry(name), models.create(name)
  count = models.count(module)
  assert (count.params, count.madds) == (entry.params, entry.madds)
  assert (module.image_size, module.frames) == (entry.image_size, entry.frames)


def test_multiply_adds_of_a_step():
  """A frame more costs its encoder, predictor, posterior, prior and decoder, by the formulas."""
  more = [models.count(prediction.build(frames=frames)).madds for frames in (2, 3)]
  conv = lambda i, o, side: 9 * i * o * side**2  # noqa: E731
  chain = ((3, 64, 64), (64, 64, 64), (64, 128, 32), (128, 128, 32), (128, 256, 16))
  chain += ((256, 256, 16), (256, 256, 16), (256, 128, 8))
  back = ((128, 256, 8), (512, 256, 16), (256, 256, 16), (256, 128, 16), (256, 128, 32))
  back += ((128, 64, 32), (128, 64, 64), (64, 3, 64))
  frames = sum(conv(*x) for x in (*chain, *back))
  cell, inner = conv(512, 1024, 8), lambda i, o: conv(i, o, 8)
  predictor = inner(138, 256) + 2 * cell + inner(256, 128)
  latent = inner(128, 256) + cell + 2 * inner(256, 10)
  assert more[1] - more[0] == frames + predictor + 2 * latent


@pytest.mark.parametrize("kind", prediction.KINDS)
def test_half_precision(kind):
  module = prediction.build(**TINY, kind=kind, dtype="bfloat16", remat="block", actions=2)
  variables, (clips, actions) = models.abstract(module), module.abstract_inputs()
  assert jax.eval_shape(module.apply, variables, clips, actions).frames.dtype == jnp.float32
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  found = jax.eval_shape(
    lambda v, x, a, k: module.apply(v, x, a, horizon=3, count=2, keys=k, method="sample"),
    variables, clips, actions, keys,
  )  # fmt: skip
  assert found.shape == (1, 2, 3, 16, 16, 3) and found.dtype == jnp.float32


def closed_form(k, m, base, code, latent):
  """Returns parameters by the layers' own formulas; widths are rounded down."""
  w = [int(c * k) for c in (64, 128, 256)]
  h = int(base * m)
  vgg = lambda i, o: 9 * i * o + 3 * o  # noqa: E731
  conv = lambda i, o: 9 * i * o + o  # noqa: E731
  chain = [3, w[0], w[0], w[1], w[1], w[2], w[2], w[2]]
  encoder = sum(map(vgg, chain, chain[1:])) + conv(w[2], code)
  decoder = conv(code, w[2]) + vgg(2 * w[2], w[2]) + vgg(w[2], w[2]) + vgg(w[2], w[1])
  decoder += vgg(2 * w[1], w[1]) + vgg(w[1], w[0]) + vgg(2 * w[0], w[0]) + conv(w[0], 3)
  cell = 72 * h * h + 4 * h
  predictor = conv(code + latent, h) + 2 * cell + conv(h, code)
  return encoder + decoder + predictor + 2 * (conv(code, h) + cell + 2 * conv(h, latent))


@pytest.mark.parametrize("k", [0.25, 0.7, 1.5])
def test_fractional_multipliers(k):
  found = params(k=k, m=0.3, base=100, code=17, latent=3)
  assert counting.parameters(found) == closed_form(k, 0.3, 100, 17, 3)
  scaled = params(k=k, m=0.3, base=100, code=17, latent=3, scale_code=True)
  assert counting.parameters(scaled) == closed_form(k, 0.3, 100, int(17 * k), 3)


def test_shapes():
  module = prediction.build(k=2.0, frames=5)
  variables = models.abstract(module)
  clips = jax.ShapeDtypeStruct((2, 5, 64, 64, 3), jnp.float32)
  codes, skips = jax.eval_shape(
    lambda v, x: module.apply(v, x, False, method=lambda m, *a: m.encoder(*a)), variables, clips
  )
  assert codes.shape == (2, 5, 8, 8, 128)
  assert [s.shape[2:] for s in skips] == [(64, 64, 128), (32, 32, 256), (16, 16, 512)]
  found = jax.eval_shape(module.apply, variables, clips)
  assert found.frames.shape == (2, 4, 64, 64, 3)
  assert found.posterior[0].shape == found.prior[1].shape == (2, 4, 8, 8, 10)


def test_convolutional_cell():
  cell = recurrence.ConvLSTMCell(3)
  kernel = 0.3 * np.sin(np.arange(12 * 5 * 9)).reshape(12, 5, 3, 3)
  bias = 0.1 * np.cos(np.arange(12))
  own = {"kernel": jnp.asarray(kernel.transpose(2, 3, 1, 0), jnp.float32), "bias": bias}
  x = jnp.asarray(np.sin(0.5 * np.arange(32)).reshape(1, 2, 4, 4).transpose(0, 2, 3, 1))
  carry = cell.zeros(1, (4, 4))
  for _ in range(2):
    carry, h = cell.apply({"params": own}, carry, x)
  np.testing.assert_allclose(h[0, 1, 2], (-0.1741, 0.0691, 0.0553), atol=6e-5)
  np.testing.assert_allclose(carry[0][0, 1, 2], (-0.3035, 0.2883, 0.3243), atol=6e-5)
  assert float(h.sum()) == pytest.approx(-6.4291, abs=6e-5)


def tiny(**settings):
  module = prediction.build(**{**TINY, **settings})
  variables = models.init(module, 0)
  rng = np.random.default_rng(1)
  # Small weights make everything grey and every moment alike.
  variables["params"] = jax.tree.map(
    lambda x: (
      x
      if x.ndim < 2
      else (rng.normal(size=x.shape) * np.sqrt(2 / np.prod(x.shape[:-1]))).astype(np.float32)
    ),
    variables["params"],
  )
  variables["batch_stats"] = jax.tree.map(
    lambda x: (x + 0.3 * rng.random(x.shape)).astype(np.float32), variables["batch_stats"]
  )
  clips = jnp.asarray(rng.random((2, 5, 16, 16, 3)), jnp.float32)
  actions = jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32) if module.actions else None
  return module, variables, clips, actions


def slow(module, variables, clips, actions, *, context, horizon, noise=None, teacher=False):
  """Returns frames by the sheet's loop, one step after the other, with running moments."""

  @functools.partial(jax.jit, static_argnums=0)
  def run(name, *x):
    x = (*x, False) if name in ("encoder", "decoder") else x
    return module.apply(variables, *x, method=lambda m, *a: getattr(m, name)(*a))

  def encode(frame):
    code, skips = run("encoder", frame[:, None])
    return code[:, 0], [s for s in skips]

  _, _, h, w, _ = jax.eval_shape(lambda: run("encoder", clips))[0].shape
  states = {
    "predictor": module.apply(
      variables, method=lambda m: m.frame_predictor.zeros(len(clips), (h, w))
    )
  }
  for name in ("posterior_net", "prior_net"):
    if module.stochastic and (name == "posterior_net" or module.prior == "learned"):
      states[name] = module.apply(
        variables, method=lambda m, n=name: getattr(m, n).zeros(len(clips), (h, w))
      )
  frames, held, made = [clips[:, t] for t in range(clips.shape[1])], {}, []
  previous = clips[:, 0]
  for t in range(2, context + horizon + 1):
    known = teacher or t <= context
    source = frames[t - 2] if teacher or t <= context + 1 else previous
    code, skips = encode(source)
    held[t - 1] = skips
    limit = {"context": context, "official": max(1, context - 1), "last": 10**6}[module.skips]
    inputs = [code]
    if actions is not None:
      inputs.append(jnp.tile(actions[:, None, None, t - 2], (1, h, w, 1)))
    if module.stochastic:
      if module.prior == "learned":
        states["prior_net"], (mean, spread) = run("prior_net", states["prior_net"], code)
      else:
        mean = spread = jnp.zeros((len(clips), h, w, module.latent))
      if known:
        after, _ = encode(frames[t - 1])
        states["posterior_net"], (mean, spread) = run(
          "posterior_net", states["posterior_net"], after
        )
      eps = 0 if noise is None else noise[:, t - 2]
      inputs.append(mean + jnp.exp(spread / 2) * eps)
    states["predictor"], code = run(
      "frame_predictor", states["predictor"], jnp.concatenate(inputs, -1)
    )
    previous = run("decoder", code[:, None], held[min(t - 1, limit)])[:, 0]
    made.append(previous)
  return jnp.stack(made, 1)


VARIANTS = [
  {"actions": 3, "skips": "official"},
  {"coder": "dcgan", "kind": "recurrent"},
  *(
    pytest.param(settings, marks=pytest.mark.slow)
    for settings in (
      {},
      {"prior": "fixed", "skips": "last", "context": 1},
      {"kind": "recurrent", "actions": 3, "skips": "last"},
      {"coder": "vgg", "context": 3},
    )
  ),
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_against_a_slow_loop(settings):
  module, variables, clips, actions = tiny(**settings)
  keys = jax.random.split(jax.random.key(3), 2) if module.stochastic else None
  noisy = {"latent": keys} if module.stochastic else None
  side = 2 if module.coder == "shallow" else 1
  noise = module._noise(noisy, 4, (side, side))
  found = jax.jit(module.apply)(variables, clips, actions, keys=noisy)
  expected = slow(
    module, variables, clips, actions, context=module.context, horizon=5 - module.context,
    noise=noise, teacher=True,
  )  # fmt: skip
  assert float(jnp.std(expected)) > 0.01
  np.testing.assert_allclose(found.frames, expected, atol=2e-5)

  future = module.apply(
    variables, clips, actions, horizon=5 - module.context, count=2, keys=keys, method="sample"
  )
  assert future.shape == (2, 2, 5 - module.context, 16, 16, 3)
  for i in range(2):
    own = None
    if module.stochastic:
      own = {"latent": jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)}
    expected = slow(
      module, variables, clips, actions, context=module.context, horizon=5 - module.context,
      noise=module._noise(own, 4, (side, side)),
    )  # fmt: skip
    np.testing.assert_allclose(future[:, i], expected[:, module.context - 1 :], atol=2e-5)


def test_without_recurrence():
  module, variables, clips, actions = tiny(kind="feedforward", actions=3)
  found = module.apply(variables, clips, actions).frames
  # The frame after the context is told from the same two frames, known or not.
  future = module.apply(variables, clips, actions, horizon=3, count=2, method="sample")
  np.testing.assert_allclose(future[:, 0, 0], found[:, 1], atol=1e-5)
  np.testing.assert_array_equal(future[:, 0], future[:, 1])
  # It sees two frames: what lies further back changes nothing.
  other = clips.at[:, 0].set(0.5)
  changed = jnp.abs(module.apply(variables, other, actions).frames - found).max((0, 2, 3, 4))
  assert changed[0] > 1e-3 and changed[1] > 1e-3 and float(changed[3]) == 0.0
  # It slides over its own frames.
  module = module.clone(skips="last")
  sample = jax.jit(functools.partial(module.apply, horizon=3, method="sample"))
  first = sample(variables, clips, actions)
  again = jnp.concatenate([clips[:, 1:2], first[:, 0, :1], clips[:, 3:]], 1)
  moved = jnp.concatenate([actions[:, 1:], actions[:, :1]], 1)
  second = sample(variables, again, moved)[:, :, :2]
  np.testing.assert_allclose(first[:, 0, 1:], second[:, 0], atol=1e-5)


def test_noise():
  module, variables, clips, _ = tiny()
  keys = jax.random.split(jax.random.key(0), 2)
  sample = lambda count, keys: jax.jit(  # noqa: E731
    functools.partial(module.apply, horizon=2, count=count, method="sample")
  )(variables, clips, keys=keys)
  three = sample(3, keys)
  np.testing.assert_array_equal(three, sample(3, keys))
  np.testing.assert_allclose(sample(2, keys), three[:, :2], atol=1e-6)
  assert float(jnp.abs(three[:, 0] - three[:, 1]).max()) > 1e-4
  # A clip's futures are functions of its own key.
  other = sample(3, keys.at[1].set(jax.random.key(9)))
  np.testing.assert_allclose(other[0], three[0], atol=1e-6)
  assert float(jnp.abs(other[1] - three[1]).max()) > 1e-4
  plain = sample(2, None)
  np.testing.assert_array_equal(plain[:, 0], plain[:, 1])


def test_moments_of_the_batch():
  module, variables, clips, _ = tiny(kind="recurrent")
  run = lambda m, x: jax.jit(  # noqa: E731
    functools.partial(m.apply, horizon=2, method="sample")
  )(variables, x)
  alone, both = run(module, clips[:1]), run(module, clips)
  np.testing.assert_allclose(alone[0], both[0], atol=1e-6)
  batch = module.clone(bn_mode="batch")
  assert float(jnp.abs(run(batch, clips[:1])[0] - run(batch, clips)[0]).max()) > 1e-3


def test_remat_and_gradients():
  module, variables, clips, _ = tiny()
  keys = {"latent": jax.random.split(jax.random.key(0), 2)}

  def loss(module):
    def value(params):
      found, _ = module.apply(
        {**variables, "params": params}, clips, train=True, keys=keys, mutable=["batch_stats"]
      )
      return jnp.abs(found.frames - clips[:, 1:]).mean()

    return jax.jit(jax.value_and_grad(value))(variables["params"])

  (plain, grads), (again, same) = loss(module), loss(module.clone(remat="block"))
  assert float(plain) == pytest.approx(float(again), rel=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3), grads, same)
  # The prior reaches the loss by the KL term alone.
  assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads["prior"]))
  assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["posterior"]))


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    ({"kind": "gan"}, "config.model.kind='gan'.*Valid"),
    ({"coder": "vg"}, "config.model.coder='vg'.*Nearest: 'vgg'"),
    ({"k": 0.0}, "config.model.k=0.0 should be above 0"),
    ({"latent": 0}, "config.model.latent=0 should be at least 1"),
    ({"image_size": 60}, "config.model.image_size=60 does not halve 3 times.*nearest: 64"),
    ({"actions": -1}, "config.model.actions=-1 should be at least 0"),
  ],
)
def test_what_is_refused(settings, words):
  with pytest.raises(errors.UserError, match=words):
    prediction.build(**settings)


def test_actions_have_to_fit():
  module, variables, clips, _ = tiny()
  with pytest.raises(ValueError, match="actions of 2 numbers; this network takes 0"):
    module.apply(variables, clips, jnp.zeros((2, 5, 2)))
