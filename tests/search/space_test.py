"""Spaces as data, against brute force over small ones."""

import itertools
import json
import math

import numpy as np
import pytest

from effnets import errors
from effnets.search import space, spaces

RNG = 20
TOY = space.Space(
  "toy",
  [
    space.Decision("op", ("conv", "mbconv", "zero"), "op"),
    space.Decision("expand", (3, 6), "expand"),
    space.Decision("squeeze", (0, 0.25), "squeeze"),
    *(space.Decision(f"slot{i}", (0, 1, 2, 3), "slot") for i in range(3)),
    space.Decision("edge0", (False, True), "edge"),
    space.Decision("edge1", (False, True), "edge"),
    space.Decision("left", (5, 6, 7), "parent"),
    space.Decision("right", (5, 6, 7), "parent"),
  ],
  [
    space.When("expand", "op", ("mbconv",)),
    space.When("squeeze", "expand", (6,)),
    space.Different(("slot0", "slot1", "slot2")),
    space.AnyOf(("edge0", "edge1")),
    space.Different(("left", "right"), ordered=False),
  ],
)
EDGES = space.Space(
  "edges",
  [space.Decision(f"e{i}", (False, True), "edge") for i in range(5)],
  [space.AnyOf(("e0", "e1", "e2")), space.AnyOf(("e1", "e3")), space.AnyOf(("e3", "e4"))],
)
FEW = space.Space(
  "few",
  [space.Decision(f"i{n}", (0, 1, 2) if n < 2 else (None, 0, 1, 2), "input") for n in range(3)],
  [space.Different(("i0", "i1", "i2"), ordered=False)],
)
SMALL = [TOY, EDGES, FEW]


def allowed(made, tokens):
  """The rules once more, from their words."""
  chosen = {d.name: d.choices[t] for d, t in zip(made.decisions, tokens, strict=True)}
  for rule in made.rules:
    if isinstance(rule, space.Different):
      values = [chosen[n] for n in rule.names if chosen[n] is not None]
      if len(set(values)) < len(values):
        return False
    if isinstance(rule, space.AnyOf) and not any(chosen[n] for n in rule.names):
      return False
  return True


def brute(made):
  return [t for t in itertools.product(*map(range, made.arities)) if allowed(made, t)]


@pytest.mark.parametrize("made", SMALL, ids=lambda made: made.name)
def test_points_are_those_that_keep_the_rules(made):
  want = brute(made)
  assert list(made.points()) == want
  valid = set(want)
  for tokens in itertools.product(*map(range, made.arities)):
    if tokens not in valid:
      with pytest.raises(errors.UserError, match="token"):
        made.validate(tokens)
  for tokens in want:
    made.validate(tokens)


@pytest.mark.parametrize("made", SMALL, ids=lambda made: made.name)
def test_counts(made):
  points = brute(made)
  slots = [r.names for r in made.rules if isinstance(r, space.Different) and not r.ordered]

  def unordered(tokens):
    values = {d.name: d.choices[t] for d, t in zip(made.decisions, tokens, strict=True)}
    groups = [frozenset(values[n] for n in names) for names in slots]
    rest = [values[name] for name in values if not any(name in names for names in slots)]
    return (*rest, *groups)

  assert made.count_raw() == len({unordered(tokens) for tokens in points})
  assert made.count_unique() == len({made.key(tokens) for tokens in points})
  assert made.log_cardinality == pytest.approx(math.log(made.count_raw()))


def test_the_key_drops_what_does_not_matter():
  first = TOY.tokens({"op": "conv", "slot1": 1, "slot2": 2, "left": 5, "right": 7})
  same = TOY.tokens(
    {"op": "conv", "expand": 6, "squeeze": 0.25, "slot1": 1, "slot2": 2, "left": 7, "right": 5}
  )
  assert first != same and TOY.key(first) == TOY.key(same)
  assert TOY.active(same).tolist() == [True, False, False, *[True] * 7]
  # Squeeze depends on an expansion that itself is active or not.
  wide = {"op": "mbconv", "expand": 6, "slot1": 1, "slot2": 2, "right": 6}
  keys = {
    TOY.key(TOY.tokens({**wide, "squeeze": s, "expand": e})) for s in (0, 0.25) for e in (3, 6)
  }
  assert len(keys) == 3


@pytest.mark.parametrize("made", SMALL, ids=lambda made: made.name)
def test_mutations_reach_all_and_only_valid_points(made):
  rng = np.random.default_rng(RNG)
  tokens = made.sample(rng)
  seen = {tokens}
  for _ in range(4000):
    changed = made.mutate(tokens, rng)
    made.validate(changed)
    assert changed != tokens
    first = next(i for i, (a, b) in enumerate(zip(tokens, changed, strict=True)) if a != b)
    assert made.active(tokens)[first]
    # Only what a rule ties to the changed decision moves with it.
    tied = {
      name
      for rule in made.rules
      if not isinstance(rule, space.When) and made.decisions[first].name in rule.names
      for name in rule.names
    }
    moved = {d.name for d, a, b in zip(made.decisions, tokens, changed, strict=True) if a != b} - {
      made.decisions[first].name
    }
    if made is not EDGES:  # whose rules overlap, so that one repair may ask for another
      assert moved <= tied
    tokens = changed
    seen.add(tokens)
  keys = {made.key(t) for t in made.points()}
  if len(keys) < 100:
    assert {made.key(t) for t in seen} == keys


def test_two_slots_swap():
  tokens = TOY.tokens({"slot0": 0, "slot1": 1, "slot2": 2})
  place = TOY.index["slot0"]
  assert TOY.change(tokens, place, 2)[place : place + 3] == (2, 1, 0)
  assert TOY.change(tokens, place, 3)[place : place + 3] == (3, 1, 2)


def test_samples_are_even_where_nothing_depends():
  made = space.Space("flat", [space.Decision(f"d{i}", tuple(range(i + 2)), "d") for i in range(3)])
  assert made.flat and not TOY.flat
  rng = np.random.default_rng(RNG)
  draws = np.array([made.sample(rng) for _ in range(6000)])
  for place, arity in enumerate(made.arities):
    share = np.bincount(draws[:, place], minlength=arity) / len(draws)
    # Four standard deviations of a share of 6,000 draws.
    np.testing.assert_allclose(share, 1 / arity, atol=4 * math.sqrt(0.25 / 6000))


@pytest.mark.parametrize("made", SMALL, ids=lambda made: made.name)
def test_round_trips(made):
  for tokens in itertools.islice(made.points(), 300):
    again = made.encode(made.decode(tokens))
    assert made.key(again) == made.key(tokens)
  copy = space.Space.from_json(made.to_json())
  assert copy.version == made.version and copy.decisions == made.decisions
  assert list(copy.points()) == list(made.points())


def test_neighbours_are_one_change_away():
  tokens = next(EDGES.points())
  want = set()
  for place, arity in enumerate(EDGES.arities):
    for token in range(arity):
      changed = (*tokens[:place], token, *tokens[place + 1 :])
      if token != tokens[place] and EDGES.mask(tokens[:place])[token]:
        want.add(EDGES.change(tokens, place, token))
        assert EDGES.change(tokens, place, token)[: place + 1] == changed[: place + 1]
  assert set(EDGES.neighbours(tokens)) == want


def test_the_version_changes_with_everything():
  base = [space.Decision("a", (1, 2), "a"), space.Decision("b", (1, 2), "b")]
  versions = {
    space.Space("s", base).version,
    space.Space("t", base).version,
    space.Space("s", base[::-1]).version,
    space.Space("s", [base[0], space.Decision("b", (1, 3), "b")]).version,
    space.Space("s", base, [space.When("b", "a", (1,))]).version,
    space.Space("s", base, [space.Different(("a", "b"))]).version,
    space.Space("s", base, settings={"x": 1}).version,
  }
  assert len(versions) == 7
  with pytest.raises(errors.UserError, match=r"version [0-9a-f]{16} here, and 00 there"):
    space.Space("s", base).check_version("00")


def test_another_version_is_refused():
  known = json.loads(spaces.create("mnas_tiny").to_json())
  known["version"] = "0" * 16
  with pytest.raises(errors.UserError, match="'mnas_tiny' has version"):
    space.Space.from_json(json.dumps(known))
  for text in ("[]", "{}", "no"):
    with pytest.raises(errors.UserError, match="no search space"):
      space.Space.from_json(text)


def test_what_cannot_be_is_refused():
  one = space.Decision("a", (1,), "a")
  two = space.Decision("b", (1, 2), "b")
  for decisions, rules in (
    ([one, one], []),
    ([two, one], [space.When("b", "a", (1,))]),  # comes before what it depends on
    ([one, two], [space.When("b", "a", (3,))]),
    ([one, space.Decision("c", (1,), "c")], [space.Different(("a", "c"))]),
  ):
    with pytest.raises(ValueError):
      space.Space("s", decisions, rules)
  with pytest.raises(errors.UserError, match="has one point"):
    space.Space("s", [one]).mutate((0,), np.random.default_rng(0))
  with pytest.raises(errors.UserError, match="3 tokens are no point of 'toy'"):
    TOY.validate((0, 0, 0))
  with pytest.raises(errors.UserError, match=r"op='pool' is outside 'toy'"):
    TOY.tokens({"op": "pool"})
  with pytest.raises(
    errors.UserError, match=r"decision='expnd' is not one of 'toy'. Nearest: 'exp"
  ):
    TOY.tokens({"expnd": 3})
