"""A search space as data: a list of decisions, and rules that tie them together.

A point is a tuple of tokens, one per decision: the number of the choice taken. Everything is
categorical: a permutation is slots that must differ, an unordered pair is two tokens that must
differ, an edge of a graph is a decision of two choices. Tokens of decisions that do not matter are
kept, and ignored by `Space.key`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int

from effnets import errors

ENUMERABLE = 2_000_000
"""Points of dependent decisions up to which counts may enumerate them."""


@dataclasses.dataclass(frozen=True)
class Decision:
  """One choice to make.

  name: unique in its space, such as "block3.kernel". choices: JSON values, what tokens 0, 1, ...
  stand for. kind: decisions of one kind share embeddings and heads in a sequential policy, as their
  tokens mean alike; such as "kernel". They need not have equally many choices.
  """

  name: str
  choices: tuple
  kind: str


@dataclasses.dataclass(frozen=True)
class When:
  """`name` matters only where the decision `on`, itself active, took one of `values`.

  Several rules for one name must all hold.
  """

  name: str
  on: str
  values: tuple


@dataclasses.dataclass(frozen=True)
class Different:
  """The decisions `names` take different choices; None may be taken by several.

  ordered: whether their order matters; the key sorts them and counts ignore it where not.
  """

  names: tuple[str, ...]
  ordered: bool = True


@dataclasses.dataclass(frozen=True)
class AnyOf:
  """At least one of the decisions `names` takes another choice than its first."""

  names: tuple[str, ...]


Rule = When | Different | AnyOf
_RULES: dict[str, type] = {rule.__name__: rule for rule in (When, Different, AnyOf)}


def plain(value: Any) -> Any:
  """Returns `value` with tuples where JSON has lists."""
  return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def digest(value: Any) -> str:
  """Returns 16 hexadecimal digits that depend on the JSON form of `value` alone.

  >>> digest((1, 2)) == digest([1, 2]), digest({"a": 1}) == digest({"a": 2})
  (True, False)
  """
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class Space:
  """Decisions and rules; without a subclass, `decode` gives a dict of the active choices.

  name: as in `spaces.names()`, or any. decisions, rules: see there. settings: JSON values by which
  a registered space is made again. known: what papers found, by name, as `encode` takes it.
  """

  kind: ClassVar[str] = "plain"

  def __init__(
    self,
    name: str,
    decisions: Iterable[Decision],
    rules: Iterable[Rule] = (),
    *,
    settings: Mapping[str, Any] | None = None,
  ):
    """Raises: ValueError for decisions of one name, or rules that no point can keep."""
    self.name = name
    self.decisions = tuple(decisions)
    self.rules = tuple(rules)
    self.settings = dict(settings or {})
    self.known: dict[str, Any] = {}
    self.index = {decision.name: i for i, decision in enumerate(self.decisions)}
    if len(self.index) != len(self.decisions):
      raise ValueError(f"space {name!r} has decisions of one name.")
    self.arities: Int[np.ndarray, " d"] = np.array(
      [len(decision.choices) for decision in self.decisions], np.int32
    )
    self.arities.setflags(write=False)
    self._all = [np.ones(arity, bool) for arity in self.arities]
    # By decision: the other slots of its groups; the groups it is the last of; its conditions.
    self._rivals: dict[int, dict[int, list[int]]] = {}
    self._last: dict[int, list[list[int]]] = {}
    self._conditions: dict[int, list[tuple[int, frozenset[int]]]] = {}
    self._unordered: list[list[int]] = []
    for rule in self.rules:
      self._take(rule)
    self.flat = not (self._rivals or self._last)

  def _take(self, rule: Rule) -> None:
    if isinstance(rule, When):
      at, on = self.index[rule.name], self.index[rule.on]
      choices = self.decisions[on].choices
      if on >= at or not set(rule.values) <= set(choices):
        raise ValueError(f"{rule}: {rule.on!r} comes before, and has the choices {choices}.")
      values = frozenset(choices.index(value) for value in rule.values)
      self._conditions.setdefault(at, []).append((on, values))
      return
    places = sorted(self.index[name] for name in rule.names)
    if isinstance(rule, AnyOf):
      self._last.setdefault(places[-1], []).append(places[:-1])
      return
    for count, place in enumerate(places):
      choices = self.decisions[place].choices
      if place in self._rivals:
        raise ValueError(f"{rule}: {self.decisions[place].name!r} has another such rule.")
      if len(choices) <= count and None not in choices:
        raise ValueError(f"{rule}: {self.decisions[place].name!r} has too few choices.")
      # By rival: what each of its tokens forbids here, as a token, or -1.
      self._rivals[place] = {
        other: [
          choices.index(value) if value is not None and value in choices else -1
          for value in self.decisions[other].choices
        ]
        for other in places
        if other != place
      }
    if not rule.ordered:
      self._unordered.append(places)

  def __repr__(self) -> str:
    return f"<space {self.name!r}: {len(self)} decisions, version {self.version}>"

  def __len__(self) -> int:
    return len(self.decisions)

  @functools.cached_property
  def published(self) -> dict[str, tuple[int, ...]]:
    """Tokens of the networks that papers found, by name; those outside the space left out."""
    found = {}
    for name, spec in self.known.items():
      with contextlib.suppress(errors.UserError):
        found[name] = self.encode(spec)
    return found

  # What it is, as data.

  def data(self) -> dict[str, Any]:
    """Returns everything that makes the space what it is, as JSON values."""
    return {
      "name": self.name,
      "kind": self.kind,
      "settings": self.settings,
      "decisions": [dataclasses.asdict(decision) for decision in self.decisions],
      "rules": [{"rule": type(rule).__name__, **dataclasses.asdict(rule)} for rule in self.rules],
    }

  @functools.cached_property
  def version(self) -> str:
    """16 digits that change with the decisions, the rules or the settings."""
    return digest(self.data())

  def to_json(self) -> str:
    """Returns the space as text, for `from_json`."""
    return json.dumps({**self.data(), "version": self.version})

  @staticmethod
  def from_json(text: str) -> "Space":
    """Returns the space that `to_json` wrote.

    Raises: UserError if this code makes another space of that name and those settings, or if the
    text is not such a space.
    """
    try:
      known = json.loads(text)
      name, kind, settings = known["name"], known["kind"], known["settings"]
      decisions = [
        Decision(found["name"], plain(found["choices"]), found["kind"])
        for found in known["decisions"]
      ]
      rules = [
        _RULES[found["rule"]](**{k: plain(v) for k, v in found.items() if k != "rule"})
        for found in known["rules"]
      ]
      version = known["version"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise errors.UserError(f"this text is no search space: {error!r}.") from error
    if kind == Space.kind:
      made = Space(name, decisions, rules, settings=settings)
    else:
      from effnets.search import spaces

      made = spaces.create(name, **{key: plain(value) for key, value in settings.items()})
    made.check_version(version)
    return made

  def check_version(self, version: str) -> None:
    """Raises: UserError if `version`, of stored results, is not this space's."""
    if version != self.version:
      raise errors.UserError(
        f"the space {self.name!r} has version {self.version} here, and {version} there: they "
        "differ in decisions, rules or settings. Take the same settings and code, or a new workdir."
      )

  # Points.

  def active(self, tokens: Sequence[int]) -> Bool[np.ndarray, " d"]:
    """Returns which decisions matter to the network of `tokens`, or of their beginning."""
    found = np.ones(len(tokens), bool)
    for place, conditions in self._conditions.items():
      if place < len(tokens):
        found[place] = all(found[on] and tokens[on] in values for on, values in conditions)
    return found

  def mask(self, tokens: Sequence[int]) -> Bool[np.ndarray, " k"]:
    """Returns which choices of decision number `len(tokens)` are valid after `tokens`."""
    place = len(tokens)
    if place not in self._rivals and place not in self._last:
      return self._all[place].copy()
    valid = self._all[place].copy()
    for rival, forbidden in self._rivals.get(place, {}).items():
      if rival < place and forbidden[tokens[rival]] >= 0:
        valid[forbidden[tokens[rival]]] = False
    for others in self._last.get(place, ()):
      if not any(tokens[other] for other in others):
        valid[0] = False
    return valid

  def validate(self, tokens: Sequence[int]) -> None:
    """Raises: UserError with the reason, if `tokens` are no point of the space."""
    if len(tokens) != len(self):
      raise errors.UserError(
        f"{len(tokens)} tokens are no point of {self.name!r}, which has {len(self)} decisions."
      )
    for place, (decision, token) in enumerate(zip(self.decisions, tokens, strict=True)):
      whole = isinstance(token, int | np.integer) and not isinstance(token, bool)
      if not whole or not 0 <= token < len(decision.choices):
        raise errors.UserError(
          f"token {place} ({decision.name}) is {token!r}; its choices {decision.choices} are "
          f"numbered 0 to {len(decision.choices) - 1}."
        )
      valid = self.mask(tokens[:place])
      if not valid[token]:
        right = [int(choice) for choice in np.flatnonzero(valid)]
        raise errors.UserError(
          f"token {place} ({decision.name}) cannot be {token} after those before it; "
          f"valid: {right}."
        )

  def sample(self, rng: np.random.Generator) -> tuple[int, ...]:
    """Returns a random point, every valid choice of a decision equally likely."""
    if self.flat:
      return tuple(int(token) for token in rng.integers(self.arities))
    tokens: list[int] = []
    for _ in self.decisions:
      tokens.append(int(rng.choice(np.flatnonzero(self.mask(tokens)))))
    return tuple(tokens)

  def mutate(self, tokens: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """Returns `tokens` with one active decision changed to another valid value.

    Where rules force it others change too: of slots that differ, two swap.
    """
    active = np.flatnonzero(self.active(tokens))
    open_to = [int(place) for place in active if self._others(tokens, place)]
    if not open_to:
      raise errors.UserError(f"no decision of {self.name!r} can change: it has one point.")
    place = open_to[rng.integers(len(open_to))]
    others = self._others(tokens, place)
    return self.change(tokens, place, others[rng.integers(len(others))], rng)

  def _others(self, tokens: Sequence[int], place: int) -> list[int]:
    valid = self.mask(tokens[:place])
    return [int(token) for token in np.flatnonzero(valid) if token != tokens[place]]

  def change(
    self,
    tokens: Sequence[int],
    place: int,
    token: int,
    rng: np.random.Generator | None = None,
  ) -> tuple[int, ...]:
    """Returns `tokens` with decision number `place` at `token`, and later ones repaired.

    rng: chooses among several repairs; None takes the first.
    """
    old, changed = tokens[place], list(tokens)
    changed[place] = int(token)
    for later in range(place + 1, len(changed)):
      if later not in self._rivals and later not in self._last:
        continue
      valid = self.mask(changed[:later])
      if valid[changed[later]]:
        continue
      # Not what a later slot holds, so that two slots swap and the others stay.
      rivals = self._rivals.get(later, {})
      held = {rivals[rival][changed[rival]] for rival in rivals if rival > later}
      options = [int(choice) for choice in np.flatnonzero(valid)]
      free = [choice for choice in options if choice not in held] or options
      if place in rivals and rivals[place][old] in free:
        free = [rivals[place][old]]
      changed[later] = free[0 if rng is None else rng.integers(len(free))]
    return tuple(changed)

  def neighbours(self, tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yields every point that one change of an active decision leads to."""
    for place in np.flatnonzero(self.active(tokens)):
      for token in self._others(tokens, place):
        yield self.change(tokens, int(place), token)

  def points(self) -> Iterator[tuple[int, ...]]:
    """Yields all points, in lexicographic order."""
    if self.flat:
      yield from itertools.product(*map(range, self.arities.tolist()))
      return
    yield from self._extensions(())

  def _extensions(self, tokens: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(tokens) == len(self):
      yield tokens
      return
    for token in np.flatnonzero(self.mask(tokens)):
      yield from self._extensions((*tokens, int(token)))

  # What they mean.

  def canonical(self, tokens: Sequence[int]) -> tuple:
    """Returns JSON values that are equal for two points exactly where their networks are.

    Here: -1 for inactive decisions, unordered slots sorted. Subclasses drop collisions too.
    """
    return self._in_order(
      [int(t) if on else -1 for t, on in zip(tokens, self.active(tokens), strict=True)]
    )

  def _in_order(self, tokens: Sequence[int]) -> tuple:
    """Returns `tokens` with the choices of unordered slots, instead of their tokens, sorted."""
    found = list(tokens)
    for places in self._unordered:
      chosen = [
        self.decisions[place].choices[tokens[place]] if tokens[place] >= 0 else None
        for place in places
      ]
      chosen = sorted(chosen, key=lambda value: (value is not None, str(value), value))
      for place, value in zip(places, chosen, strict=True):
        found[place] = value
    return tuple(found)

  def key(self, tokens: Sequence[int]) -> str:
    """Returns the canonical hash: equal for two points exactly where their networks are."""
    return digest(self.canonical(tokens))

  def values(self, tokens: Sequence[int]) -> dict[str, Any]:
    """Returns the choice of every active decision, by name."""
    return {
      decision.name: decision.choices[token]
      for decision, token, on in zip(self.decisions, tokens, self.active(tokens), strict=True)
      if on
    }

  def tokens(self, values: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the point of the given choices; decisions without one take their first valid choice.

    Raises: UserError for a name that is no decision, or a value that is none of its choices.
    """
    for name in values:
      if name not in self.index:
        raise errors.unknown("decision", name, f"one of {self.name!r}", self.index)
    found: list[int] = []
    for decision in self.decisions:
      if decision.name in values:
        value = plain(values[decision.name])
        if value not in decision.choices:
          raise errors.UserError(
            f"{decision.name}={value!r} is outside {self.name!r}; choices: {decision.choices}."
          )
        found.append(decision.choices.index(value))
      else:
        found.append(int(np.flatnonzero(self.mask(found))[0]))
    self.validate(found)
    return tuple(found)

  def decode(self, tokens: Sequence[int]) -> Any:
    """Returns what `tokens` stand for. Raises: UserError if they are no point."""
    self.validate(tokens)
    return self.values(tokens)

  def encode(self, spec: Any) -> tuple[int, ...]:
    """Returns tokens that `decode` makes `spec` of. Raises: UserError if it is outside."""
    return self.tokens(spec)

  # How many there are.

  def _groups(self) -> list[list[int]]:
    """Returns the decisions in groups that no rule joins."""
    root = list(range(len(self)))

    def find(place: int) -> int:
      while root[place] != place:
        place = root[place]
      return place

    for rule in self.rules:
      names = (rule.name, rule.on) if isinstance(rule, When) else rule.names
      first, *rest = (find(self.index[name]) for name in names)
      for other in rest:
        root[find(other)] = find(first)
    found: dict[int, list[int]] = {}
    for place in range(len(self)):
      found.setdefault(find(place), []).append(place)
    return list(found.values())

  def _slots(self, group: Sequence[int]) -> bool:
    """Returns whether a group is the slots, of equal choices, of one `Different` and no more."""
    rivals = self._rivals.get(group[0])
    alone = not any(place in self._conditions or place in self._last for place in group)
    lists = {self.decisions[place].choices for place in group}
    if rivals is None or not alone or len(lists) > 1 or None in self.decisions[group[0]].choices:
      return False
    return sorted([group[0], *rivals]) == sorted(group)

  def _ways(self, group: Sequence[int]) -> int:
    arity, count = int(self.arities[group[0]]), len(group)
    unordered = any(group[0] in places for places in self._unordered)
    return math.comb(arity, count) if unordered else math.perm(arity, count)

  def _enumerated(self, group: Sequence[int], *, canonical: bool) -> int:
    """Returns how many valid tuples, or canonical ones, the decisions of a group have."""
    size = math.prod(int(self.arities[place]) for place in group)
    if size > ENUMERABLE:
      raise NotImplementedError(f"{size} dependent points of {self.name!r} are too many to count.")
    part = self._part(group)
    return len({part.canonical(t) if canonical else part._in_order(t) for t in part.points()})

  def _part(self, group: Sequence[int]) -> "Space":
    """Returns the space of a group's decisions and rules alone."""
    names = {self.decisions[place].name for place in group}
    first = lambda rule: rule.name if isinstance(rule, When) else rule.names[0]  # noqa: E731
    rules = [rule for rule in self.rules if first(rule) in names]
    return Space(self.name, [self.decisions[place] for place in sorted(group)], rules)

  def count_raw(self) -> int:
    """Returns how many points there are, with inactive decisions; unordered slots count once."""
    total = 1
    for group in self._groups():
      if self._slots(group):
        total *= self._ways(group)
      elif any(place in self._rivals or place in self._last for place in group):
        total *= self._enumerated(group, canonical=False)
      else:
        total *= math.prod(int(self.arities[place]) for place in group)
    return total

  def count_unique(self) -> int:
    """Returns how many different keys there are, exactly."""
    total = 1
    for group in self._groups():
      if self._slots(group):
        total *= self._ways(group)
      elif len(group) == 1:
        total *= int(self.arities[group[0]])
      else:
        total *= self._enumerated(group, canonical=True)
    return total

  @property
  def log_cardinality(self) -> float:
    """Natural logarithm of `count_raw()`."""
    return math.log(self.count_raw())
