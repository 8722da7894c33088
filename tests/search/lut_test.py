"""Tables of layers, with a meter whose times are known."""

import dataclasses
import math

import numpy as np
import pytest

from effnets import errors
from effnets.search import cost, latency, lut, rewards, spaces


class Known:
  """A layer takes its multiply-adds in nanoseconds; a network twice its layers and 0.5 ms."""

  about = {"device": "a clock"}
  call = 0.25

  def __init__(self):
    self.asked = []

  def _made(self, value):
    return latency.Measured(value, value, value, 0.0, 1, 1, True, 0.0, "a clock")

  def nothing(self):
    return self._made(self.call)

  def piece(self, piece):
    self.asked.append(piece.key)
    return self._made(self.call + piece.madds * 1e-6)

  def network(self, where, tokens, *, image_size, num_classes):
    pieces = cost.pieces(where.decode(tokens), image_size, num_classes)
    return self._made(0.5 + 2 * (self.call + sum(piece.madds for piece in pieces) * 1e-6))


def built(name="mnas_cell_tiny", **settings):
  meter = Known()
  made = spaces.create(name)
  return made, meter, lut.build(made, meter, num_classes=10, **settings)


def test_a_sum_is_that_of_its_layers():
  made, meter, table = built(networks=100)
  assert len(meter.asked) == len(set(meter.asked)) == len(table.entries)
  for tokens in list(made.points())[::50]:
    pieces = cost.pieces(made.decode(tokens), 32, 10)
    want = sum(piece.madds for piece in pieces) * 1e-6
    assert table.sum(pieces) == pytest.approx(0.25 + want)
    # The line through the measured networks makes it exact.
    assert table.latency(made, tokens) == pytest.approx(0.5 + 2 * (0.25 + want))
  check = table.check
  assert check.networks == 100 and check.steady == 1
  assert (check.r2, check.tau) == (pytest.approx(1), pytest.approx(1))
  assert (check.scale, check.offset) == (pytest.approx(2), pytest.approx(0.5))


def test_every_layer_of_the_space_is_there():
  made = spaces.create("mnas_cell_tiny")
  want = {
    piece.key for tokens in made.points() for piece in cost.pieces(made.decode(tokens), 32, 10)
  }
  assert lut.reachable(made, 32, 10).keys() == want
  made = spaces.create("mnas_tiny")
  have = lut.reachable(made, 32, 10)
  rng = np.random.default_rng(0)
  for _ in range(100):
    assert {piece.key for piece in cost.pieces(made.decode(made.sample(rng)), 32, 10)} <= set(have)


def test_a_missing_key_is_named():
  made, _, table = built(networks=2, everything=False)
  tokens = next(
    tokens
    for tokens in made.points()
    if any(p.key not in table.entries for p in cost.pieces(made.decode(tokens), 32, 10))
  )
  missing = next(
    p.key for p in cost.pieces(made.decode(tokens), 32, 10) if p.key not in table.entries
  )
  with pytest.raises(errors.UserError) as error:
    table.latency(made, tokens)
  assert repr(missing) in str(error.value)


def test_files(tmp_path):
  made, _, table = built(networks=5, everything=False)
  table.save(tmp_path / "lut.json")
  assert lut.load(tmp_path / "lut.json") == table
  bare = dataclasses.replace(table, check=None)
  bare.save(tmp_path / "bare.json")
  assert lut.load(tmp_path / "bare.json") == bare
  (tmp_path / "no.json").write_text("[]")
  for name in ("no.json", "missing.json"):
    with pytest.raises(errors.UserError, match=f"{name} is no latency table"):
      lut.load(tmp_path / name)
  other = spaces.create("mnas_cell_tiny", activation="swish")
  with pytest.raises(
    errors.UserError, match=f"not for 'mnas_cell_tiny' of version {other.version}"
  ):
    table.latency(other, next(other.points()))


def test_wrong_requests():
  with pytest.raises(errors.UserError, match=r"networks=1000 .* at most 336"):
    built(networks=1000)
  with pytest.raises(errors.UserError, match="'nasfpn_tiny' has not"):
    built("nasfpn_tiny", networks=5)
  assert lut.main(["--space=mnas_tinny"]) == 2


def _slow_tau(a, b):
  up = down = ties_a = ties_b = 0
  for i in range(len(a)):
    for j in range(i):
      x, y = a[i] - a[j], b[i] - b[j]
      up += x * y > 0
      down += x * y < 0
      ties_a += x == 0
      ties_b += y == 0
  pairs = len(a) * (len(a) - 1) / 2
  return (up - down) / math.sqrt((pairs - ties_a) * (pairs - ties_b))


def test_kendall():
  rng = np.random.default_rng(0)
  for ties in (5, 1000):
    a, b = rng.integers(0, ties, (2, 30))
    assert rewards.kendall(a, b) == pytest.approx(_slow_tau(a, b))
  assert rewards.kendall(np.ones(3), np.arange(3)) == 0


def test_what_the_line_leaves():
  measured = [Known()._made(value) for value in (1.0, 2.0, 4.0)]
  check = lut.judge(measured, (1.0, 2.0, 3.0))
  # The least-squares line is 1.5 x - 2/3.
  assert (check.scale, check.offset) == (pytest.approx(1.5), pytest.approx(-2 / 3))
  rest = [1 - 5 / 6, 2 - 7 / 3, 4 - 23 / 6]
  total = sum((v - 7 / 3) ** 2 for v in (1, 2, 4))
  assert check.r2 == pytest.approx(1 - sum(r * r for r in rest) / total)
  assert check.error == pytest.approx(math.sqrt(sum(r * r for r in rest) / 3))
