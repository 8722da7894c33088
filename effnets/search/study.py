"""The trials of a search: stored and queued in an Optuna study, whose database is the only truth.

A proposal of the algorithm is a record, counted from 0. Every attempt at it is one Optuna trial, so
that Optuna's dashboard shows what happened; its tokens are attributes, not parameters. States:

  QUEUED      waits for a worker
  RUNNING     a worker evaluates it
  COMPLETE    has a reward
  INFEASIBLE  cannot be built, or breaks a hard limit; was not trained
  FAILED      ended in an error, or in a number that is none; its `error` says why
  STALE       its worker has gone; or was stopped, which `error` says

Who searches queues, tells the algorithm and gives failed attempts another try (`running.run`);
workers only take what is queued and finish it, so any number may come and go.
"""

import dataclasses
import enum
import hashlib
import json
import math
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from effnets import errors
from effnets.search import storage as storage_lib
from effnets.search.algorithms import base

optuna = storage_lib.optuna
TrialState = optuna.trial.TrialState


class State(enum.StrEnum):
  """See the module."""

  QUEUED = "queued"
  RUNNING = "running"
  COMPLETE = "complete"
  INFEASIBLE = "infeasible"
  FAILED = "failed"
  STALE = "stale"


_STATES = {
  TrialState.WAITING: State.QUEUED,
  TrialState.RUNNING: State.RUNNING,
  TrialState.COMPLETE: State.COMPLETE,
  TrialState.PRUNED: State.INFEASIBLE,
}
_OUTCOMES = {
  State.COMPLETE: TrialState.COMPLETE,
  State.INFEASIBLE: TrialState.PRUNED,
  State.FAILED: TrialState.FAIL,
  State.STALE: TrialState.FAIL,
}


@dataclasses.dataclass(frozen=True)
class Record:
  """One attempt at one proposal.

  number: of the proposal. key: equal for equal networks. repeat: how many evaluations of this key
    come before it. of: number of the proposal whose result this one takes, or None.
  failures, losses: attempts before this one that ended in an error, and whose worker went away.
  final: whether the same would happen again, so that it is not tried again.
  seconds: of the evaluation. begun: when, seconds since 1970, 0 if it has not.
  id, trial: Optuna's own for the attempt, and its number there.
  """

  number: int
  proposal: base.Proposal
  key: str
  state: State
  reward: float | None = None
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  repeat: int = 0
  of: int | None = None
  failures: int = 0
  losses: int = 0
  final: bool = False
  released: bool = False
  worker: str = ""
  error: str = ""
  seconds: float = 0.0
  begun: float = 0.0
  id: int = -1
  trial: int = -1

  @property
  def tokens(self) -> tuple[int, ...]:
    """The architecture."""
    return self.proposal.tokens

  @property
  def open(self) -> bool:
    """Whether it waits or is evaluated."""
    return self.state in (State.QUEUED, State.RUNNING)

  @property
  def settled(self) -> bool:
    """Whether no other attempt can replace it."""
    return self.state in (State.COMPLETE, State.INFEASIBLE)


class Study:
  """The trial store and queue of one search.

  Args:
    space: has `name`, `version` and `key(tokens)`.
    where: see `storage`. name: of the study, of which a database may hold several.
    identity: what must be equal in all who take part, by name: algorithm, reward, code...
    objectives: value -> `maximize` or `minimize`, beside the reward, for Optuna's own plots.
    create: whether a study that is not there is made; workers do not.
    patience: seconds that a database may be away.

  Raises: UserError for a study of another space, version or identity, or none.
  """

  def __init__(
    self,
    space: Any,
    where: str = "memory",
    *,
    name: str = "search",
    identity: Mapping[str, str] | None = None,
    objectives: Mapping[str, str] | None = None,
    create: bool = True,
    patience: float = 600.0,
  ):
    self.space, self.name = space, name
    self.objectives = dict(objectives or {})
    self.storage = storage_lib.Storage(where, patience=patience)
    if create:
      self._create()
    try:
      self._id = self.storage.get_study_id_from_name(name)
    except KeyError as error:
      raise errors.UserError(
        f"{self._shown} holds no study {name!r} to work for; start its --mode=search first."
      ) from error
    mine = {"space": space.name, "space version": space.version, **(identity or {})}
    self._check({key: str(value) for key, value in mine.items()}, create)
    self._lock = threading.Lock()
    self._attempts: dict[int, Record] = {}
    self._newest: dict[int, Record] = {}
    self._ended = 0  # so many of the first attempts need not be read again

  @property
  def _shown(self) -> str:
    return storage_lib.shown(self.storage.where)

  @property
  def whole(self) -> Any:
    """The study as Optuna's own plots and tools take it."""
    return optuna.load_study(study_name=self.name, storage=self.storage.raw)

  def _create(self) -> None:
    directions = ["maximize", *self.objectives.values()]
    # The call is repeated if the database goes away in its midst, hence `load_if_exists`.
    self.storage.call(
      optuna.create_study,
      storage=self.storage.raw,
      study_name=self.name,
      directions=directions,
      load_if_exists=True,
    )

  def _check(self, mine: Mapping[str, str], create: bool) -> None:
    there = self.storage.get_study_user_attrs(self._id)
    saved = {key.removeprefix("is: "): v for key, v in there.items() if key.startswith("is: ")}
    for key, value in mine.items():
      if key not in saved and create and not self.storage.get_n_trials(self._id):
        self.storage.set_study_user_attr(self._id, f"is: {key}", value)
      elif saved.get(key) != value:
        what = "; a worker needs the code of the search" if key == "code" else ""
        raise errors.UserError(
          f"{self._shown}: study {self.name!r} has {key} {saved.get(key)!r}, here it is "
          f"{value!r}{what}. Give the same, or another workdir or study "
          "(--config.search.study=NAME)."
        )

  def queue(
    self,
    number: int,
    proposal: base.Proposal,
    *,
    key: str,
    repeat: int = 0,
    of: int | None = None,
    failures: int = 0,
    losses: int = 0,
  ) -> None:
    """Queues one attempt at the proposal `number`; see `Record`."""
    attributes = {
      "number": number,
      "tokens": list(map(int, proposal.tokens)),
      "info": jsonable(proposal.info),
      "key": key,
      "repeat": repeat,
      "of": of,
      "failures": failures,
      "losses": losses,
    }
    waiting = optuna.trial.create_trial(state=TrialState.WAITING, user_attrs=attributes)
    self.storage.create_new_trial(self._id, template_trial=waiting)

  def requeue(self, record: Record) -> None:
    """Queues another attempt at what failed or was left."""
    lost = record.state is State.STALE and not record.released
    self.queue(
      record.number,
      record.proposal,
      key=record.key,
      repeat=record.repeat,
      failures=record.failures + (record.state is State.FAILED),
      losses=record.losses + lost,
    )

  def independent(self, record: Record) -> None:
    """Lets a queued record be evaluated that was to take another's result."""
    self.storage.set_trial_user_attr(record.id, "of", None)

  def take(self, worker: str, record: Record | None = None) -> Record | None:
    """Returns a record that is now this worker's, or None if none waits.

    record: the one to take; default: the first that is to be evaluated.
    """
    waiting = [record] if record else [r for r in self._with(TrialState.WAITING) if r.of is None]
    for found in waiting:
      try:
        if self.storage.heartbeats:
          # Before it runs, so that no trial runs without a sign of life.
          self.storage.record_heartbeat(found.id)
        if self.storage.set_trial_state_values(found.id, state=TrialState.RUNNING):
          self.storage.set_trial_user_attr(found.id, "worker", worker)
          return dataclasses.replace(found, state=State.RUNNING, worker=worker)
      except optuna.exceptions.UpdateFinishedTrialError:
        continue
    return None

  def finish(self, record: Record) -> bool:
    """Stores how a record that was taken has ended; False if it was given to somebody else since.

    record: with its new state, and reward and values, or error.
    """
    # One attribute, written at once: every write is a transaction of milliseconds.
    result: dict[str, Any] = {"outcome": str(record.state), "seconds": round(record.seconds, 3)}
    for name in ("reward", "values", "error", "final", "released"):
      value = getattr(record, name)
      if value is not None and value is not False:
        result[name] = value
    objectives = None
    if record.state is State.COMPLETE:
      objectives = [record.reward, *(float(record.values[n]) for n in self.objectives)]
    try:
      self.storage.set_trial_user_attr(record.id, "result", result)
      return self.storage.set_trial_state_values(
        record.id, state=_OUTCOMES[record.state], values=objectives
      )
    except optuna.exceptions.UpdateFinishedTrialError:
      return False

  def reap(self) -> None:
    """Ends the attempts whose worker shows no life any more; they become STALE."""
    for record in self._with(TrialState.RUNNING):
      # Without a name: the worker died before it could write it, or is just about to.
      late = time.time() - record.begun > storage_lib.GRACE
      if storage_lib.gone(record.worker) if record.worker else late:
        self._fail(record.id)
    if self.storage.heartbeats:
      for trial_id in self.storage._get_stale_trial_ids(self._id):  # Optuna has no public name.
        self._fail(trial_id)

  def _fail(self, trial_id: int) -> None:
    try:
      self.storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
      return

  def _with(self, state: TrialState) -> list[Record]:
    trials = self.storage.get_all_trials(self._id, deepcopy=False, states=(state,))
    return [_record(trial) for trial in trials if "tokens" in trial.user_attrs]

  def _refresh(self) -> None:
    """Reads what has changed: attempts that have ended never do."""
    trials = self.storage.get_all_trials(self._id, deepcopy=False)
    for trial in trials[self._ended :]:
      if trial.number == self._ended and trial.state.is_finished():
        self._ended += 1
      if "tokens" not in trial.user_attrs:
        continue  # not queued by a search
      record = self._attempts[trial.number] = _record(trial)
      present = self._newest.get(record.number)
      if present is None or present.trial == record.trial or not present.settled:
        self._newest[record.number] = record

  def attempts(self) -> list[Record]:
    """Returns every attempt, in the order of queueing."""
    with self._lock:
      self._refresh()
      return list(self._attempts.values())

  def records(self) -> list[Record]:
    """Returns the newest attempt at every proposal, in their order; one that has a result first."""
    with self._lock:
      self._refresh()
      return [self._newest[number] for number in sorted(self._newest)]

  def get(self, name: str) -> Any:
    """Returns what `set` stored, or None."""
    return self.storage.get_study_user_attrs(self._id).get(name)

  def set(self, name: str, value: Any) -> None:
    """Stores a JSON value beside the trials."""
    self.storage.set_study_user_attr(self._id, name, value)


def _record(trial: optuna.trial.FrozenTrial) -> Record:
  known = trial.user_attrs
  result = known.get("result", {}) if trial.state.is_finished() else {}
  state = _STATES.get(trial.state)
  if state is None:
    # One whose worker died between the two writes of `finish` has been lost as well.
    state = State.FAILED if result.get("outcome") == State.FAILED else State.STALE
  return Record(
    number=known["number"],
    proposal=base.Proposal(tuple(known["tokens"]), known["info"]),
    key=known["key"],
    state=state,
    reward=result.get("reward") if state is State.COMPLETE else None,
    values=result.get("values", {}),
    repeat=known["repeat"],
    of=known["of"],
    failures=known["failures"],
    losses=known["losses"],
    final=result.get("final", False),
    released=result.get("released", False),
    worker=known.get("worker", ""),
    error=result.get("error", ""),
    seconds=result.get("seconds", 0.0),
    begun=trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
    id=trial._trial_id,  # Optuna has no public name for it.
    trial=trial.number,
  )


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `values` as they come back from a database: lists for tuples, Python's own numbers.

  >>> jsonable({"parents": (1, 2)})
  {'parents': [1, 2]}
  """
  return json.loads(json.dumps(dict(values), default=lambda x: x.tolist()))


def not_finite(values: Mapping[str, Any]) -> str:
  """Returns `name=nan` of the first number that is none, however deep; "" if there is none.

  >>> not_finite({"top1": 0.5, "madds": float("inf")})
  'madds=inf'
  """

  def visit(name, value):
    if isinstance(value, Mapping):
      parts = ((f"{name}.{key}", inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
      parts = ((f"{name}.{i}", inner) for i, inner in enumerate(value))
    else:
      bad = isinstance(value, float) and not math.isfinite(value)
      return f"{name}={value}" if bad else ""
    return next(filter(None, (visit(*part) for part in parts)), "")

  return next(filter(None, (visit(str(k), v) for k, v in values.items())), "")


def history(records: Iterable[Record]) -> str:
  """Returns a hash of what was proposed and what came of it; equal for equal searches.

  Times, workers and lost attempts are left out.
  """
  lines = []
  for r in records:
    reward = None if r.reward is None else r.reward.hex()
    lines.append([r.number, list(r.tokens), r.key, str(r.state), reward, dict(r.proposal.info)])
  return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()


def ranking(records: Iterable[Record], cost: str = "") -> list[Record]:
  """Returns complete records, the best first, one of every network.

  Equal rewards are told apart by the lower `cost`, a value, then by the earlier proposal.
  """
  done = [r for r in records if r.state is State.COMPLETE and r.reward is not None]
  done.sort(key=lambda r: (-r.reward, r.values.get(cost, 0) if cost else 0, r.number))
  found: dict[str, Record] = {}
  for record in done:
    found.setdefault(record.key, record)
  return list(found.values())


def front(records: Iterable[Record], gain: str, cost: str) -> list[Record]:
  """Returns the networks that none beats in both: more of the value `gain`, less of `cost`.

  By rising cost; of equal ones the earliest.
  """
  done = [r for r in records if r.state is State.COMPLETE and gain in r.values and cost in r.values]
  done.sort(key=lambda r: (r.values[cost], -r.values[gain], r.number))
  found: list[Record] = []
  for record in done:
    if not found or record.values[gain] > found[-1].values[gain]:
      found.append(record)
  return found
