"""Searches and workers: who proposes, who evaluates, and what becomes of failures and duplicates.

One process searches (`run`): it owns the algorithm, queues its proposals and tells it the results.
Any number of workers (`work`), threads of that process or processes anywhere, evaluate.

Results are told in the order of their proposals, and proposal n is made when all results before
n - window + 1 have been told, whoever is quicker. So a search with a window of w is the same search
at any speed of its workers, is never more than w - 1 results stale, and with a window of 1 it is
the serial one. What a killed search has stored is told again in the same order, and it goes on as
if it had not been killed.
"""

import contextlib
import dataclasses
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from effnets import errors
from effnets.search import storage
from effnets.search import study as study_lib
from effnets.search.algorithms import base
from effnets.search.study import Record, State, Study

Evaluate = Callable[[Any, tuple[int, ...], int], Mapping[str, Any]]
"""(space, tokens, seed) -> values, JSON. Raises: Infeasible, Failed; any other is tried again."""
# An evaluator may have a method `inheriting(info)`, which returns one for what a proposal notes.
Reward = Callable[[Mapping[str, Any]], float]

_CHIEF, _ENDED = "chief", "ended"
_NOT_FINITE = "not finite:"
# Seconds between two looks at a database that has nothing new, and between two looks for the dead.
_PAUSE, _REAP = (0.01, 0.5), 15.0


class InfeasibleError(Exception):
  """The network cannot be built, or breaks a hard limit. It says why, and was not trained."""


class FailedError(Exception):
  """The evaluation has failed and would fail again: NaN, out of memory. It says how."""


class TooManyFailuresError(errors.UserError):
  """More children have failed than the search may lose."""


@dataclasses.dataclass(frozen=True)
class Rules:
  """What becomes of proposals that give no reward.

  retries: further attempts with the same tokens after an exception; NaN and no memory get none.
  losses: further attempts after workers that went away.
  failure, infeasible: what the algorithm is told: `skip`, that it failed, which policies learn
    nothing from; `penalise`, the reward `penalty`; for a failure also `abort`: the search ends.
  max_failed: failed proposals after which the search stops; -1: a quarter of all.
  count_nan: whether those that end in NaN count among them.
  repeats: evaluations of the same network, with different seeds, before their mean is taken for
    all further ones.
  """

  retries: int = 1
  losses: int = 3
  failure: str = "skip"
  infeasible: str = "skip"
  penalty: float = 0.0
  max_failed: int = -1
  count_nan: bool = True
  repeats: int = 1


@dataclasses.dataclass(frozen=True)
class Progress:
  """How far a search is, after a result was told.

  told: results so far, of `trials`. best: first of `study.ranking`, or None. trained: different
  evaluations. seconds_left: at the pace so far of this start.
  """

  record: Record
  told: int
  trials: int
  best: Record | None
  summary: Mapping[str, float]
  trained: int
  duplicates: int
  failures: int
  infeasible: int
  seconds_left: float


def run(
  study: Study,
  algorithm: base.Algorithm,
  evaluate: Evaluate | Sequence[Evaluate] | None,
  reward: Reward,
  *,
  trials: int,
  seed: int = 0,
  rules: Rules = Rules(),
  window: int = 0,
  cost: str = "",
  report: Callable[[Progress], None] | None = None,
) -> list[Record]:
  """Searches until the study has `trials` results in all, and returns their records in order.

  It ends earlier if the algorithm has nothing more to propose.

  Args:
    algorithm: fresh; it is told what the study has already.
    evaluate: one, that this thread calls; a sequence, each called by a thread of its own; or None,
      if workers elsewhere evaluate.
    seed: that evaluations get; their n-th repeat gets n more.
    window: see the module; 0: 1, or twice as many as there are evaluators, at least 8 for workers
      elsewhere.
    cost: the value that tells equal rewards apart, the lower one.
    report: is called after every result that was not told in an earlier start.

  Raises:
    TooManyFailuresError: after `rules.max_failed`. The study can be continued.
    UserError if somebody else searches in this study, or its database stays away.
  """
  inline = evaluate if callable(evaluate) else None
  others = [] if evaluate is None or inline else list(evaluate)
  window = window or (1 if inline else max(2 * len(others), 8 if evaluate is None else 1))
  chief = _Chief(study, algorithm, trials=trials, rules=rules, window=window, cost=cost)
  with _only_one(study), _threads(study, others, reward, seed) as check:
    chief.start()
    pause, reaped = _PAUSE[0], -_REAP
    while not chief.done:
      if time.monotonic() - reaped >= _REAP:
        study.reap()
        reaped = time.monotonic()
      moved = chief.advance(report)
      if inline is not None and not chief.done:
        moved |= _one(study, inline, reward, seed)
      if moved:
        pause = _PAUSE[0]
        continue
      check()
      time.sleep(pause)
      pause = min(1.5 * pause, _PAUSE[1])
  return study.records()[:trials]


def work(
  study: Study,
  evaluate: Evaluate,
  reward: Reward,
  *,
  seed: int = 0,
  stop: Callable[[], bool] = lambda: False,
  report: Callable[[Record], None] | None = None,
  patience: float = 900.0,
) -> int:
  """Evaluates what a search queues until it has ended; returns how many that were.

  stop: is asked between two of them. patience: seconds without work after which it gives up.
  """
  done, pause, last = 0, _PAUSE[0], time.monotonic()
  while not stop():
    if _one(study, evaluate, reward, seed, report):
      done, pause, last = done + 1, _PAUSE[0], time.monotonic()
      continue
    if study.get(_ENDED) or time.monotonic() - last > patience:
      break
    time.sleep(pause)
    pause = min(1.5 * pause, 4 * _PAUSE[1])
  return done


def _one(
  study: Study,
  evaluate: Evaluate,
  reward: Reward,
  seed: int,
  report: Callable[[Record], None] | None = None,
) -> bool:
  """Takes and evaluates one record; returns whether there was one."""
  record = study.take(storage.worker_name())
  if record is None:
    return False
  started = time.perf_counter()
  with storage.Heartbeat(study.storage, record.id):
    try:
      ended = _evaluated(study, record, evaluate, reward, seed)
    except BaseException as error:
      # A person or the machine stops this process, not the child: its next attempt counts as first.
      stopped = f"stopped: {type(error).__name__}"
      study.finish(dataclasses.replace(record, state=State.STALE, released=True, error=stopped))
      raise
  ended = dataclasses.replace(ended, seconds=time.perf_counter() - started)
  if not study.finish(ended):
    logging.warning(
      "Trial %d was given to another worker after %.0f s without a heartbeat; this result is left.",
      record.number,
      storage.GRACE,
    )
  elif report is not None:
    report(ended)
  return True


def _evaluated(
  study: Study, record: Record, evaluate: Evaluate, reward: Reward, seed: int
) -> Record:
  """Returns the record with what its evaluation gave; raises what is no `Exception` alone."""
  # What a child has of its parent, such as trained weights of edges, if it can take that.
  inheriting = getattr(evaluate, "inheriting", None)
  if inheriting is not None:
    evaluate = inheriting(record.proposal.info)
  try:
    values = study_lib.jsonable(evaluate(study.space, record.tokens, seed + record.repeat))
    missing = [name for name in study.objectives if name not in values]
    if missing:
      raise FailedError(f"the evaluation gives no {missing[0]!r}, only {', '.join(values)}")
    bad = study_lib.not_finite(values)
    score = float("nan") if bad else float(reward(values))
    bad = bad or study_lib.not_finite({"reward": score})
    if bad:
      return dataclasses.replace(
        record, state=State.FAILED, final=True, error=f"{_NOT_FINITE} {bad}"
      )
    return dataclasses.replace(record, state=State.COMPLETE, reward=score, values=values)
  except InfeasibleError as error:
    return dataclasses.replace(record, state=State.INFEASIBLE, error=str(error))
  except (FailedError, errors.UserError) as error:
    return dataclasses.replace(record, state=State.FAILED, final=True, error=str(error))
  except Exception as error:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
    logging.info("Trial %d failed.", record.number, exc_info=True)
    return dataclasses.replace(record, state=State.FAILED, error=text)


class _Chief:
  """The owner of the algorithm: queues proposals, settles attempts, tells results."""

  def __init__(
    self,
    study: Study,
    algorithm: base.Algorithm,
    *,
    trials: int,
    rules: Rules,
    window: int,
    cost: str,
  ):
    self._study, self._algorithm, self._trials = study, algorithm, trials
    self._rules, self._window, self._cost = rules, window, cost
    self._max_failed = rules.max_failed if rules.max_failed >= 0 else max(1, trials // 4)
    self.told = self._proposed = 0
    self._records: list[Record] = []
    # Of every network, in order: the proposals that are evaluated, not copied.
    self._evaluated: dict[str, list[int]] = {}
    self._best: Record | None = None
    self._counts = dict.fromkeys(("trained", "duplicates", "failures", "infeasible"), 0)
    self._failed = 0  # in this start, of those that count
    self._first, self._started = 0, time.monotonic()

  @property
  def done(self) -> bool:
    """Whether everything is told that is to be."""
    return self.told >= self._trials

  def start(self) -> None:
    """Reads what the study has."""
    self._refresh()
    for record in self._records:
      if record.of is None:
        self._evaluated.setdefault(record.key, []).append(record.number)
    # Those were told before; whatever has ended beyond them was not, but nobody is waiting for it.
    unsettled = (r.number for r in self._records if r.open or self._another(r))
    self._first = next(unsettled, len(self._records))

  def _refresh(self) -> None:
    self._records = self._study.records()
    for number, record in enumerate(self._records):
      if record.number != number:
        raise errors.UserError(
          f"The study lacks proposal {number}: its trials were changed by hand. Start another one."
        )

  def advance(self, report: Callable[[Progress], None] | None) -> bool:
    """Settles, tells and queues what can be; returns whether there was any."""
    self._refresh()
    before = self.told, len(self._records)
    again = self._settle()
    self._propose()
    while self.told < min(self._trials, len(self._records)):
      record = self._records[self.told]
      if record.open or self._another(record):
        break
      self._tell(record)
      if report is not None and record.number >= self._first:
        report(self._progress(record))
      self._check_failures(record)
      self._propose()
    return again or before != (self.told, len(self._records))

  def _settle(self) -> bool:
    """Gives failed attempts another try, and copies their results to duplicates."""
    moved = False
    for record in self._records[self.told :]:
      if self._another(record):
        logging.info("Trial %d gets another attempt: %s.", record.number, record.error or "lost")
        self._study.requeue(record)
        moved = True
      elif record.state is State.QUEUED and record.of is not None:
        moved |= self._copy(record)
    if moved:
      self._refresh()
    return moved

  def _copy(self, record: Record) -> bool:
    """Gives a duplicate its result, once all are there that it is the mean of."""
    numbers = self._evaluated[record.key]
    sources = [self._records[n] for n in numbers if n < record.number]
    if any(source.open or self._another(source) for source in sources):
      return False
    unable = next((s for s in sources if s.state is State.INFEASIBLE), None)
    done = [s for s in sources if s.state is State.COMPLETE]
    if not done and unable is None:
      # It had no luck; this one tries it.
      self._study.independent(record)
      numbers.append(record.number)
      return True
    taken = self._study.take("", record)
    if taken is None:
      return False
    if not done:
      self._study.finish(dataclasses.replace(taken, state=State.INFEASIBLE, error=unable.error))
      return True
    values = dict(done[0].values)
    for name, value in values.items():
      if len(done) > 1 and isinstance(value, float):
        values[name] = sum(s.values[name] for s in done) / len(done)
    mean = sum(s.reward for s in done) / len(done)
    self._study.finish(dataclasses.replace(taken, state=State.COMPLETE, reward=mean, values=values))
    return True

  def _another(self, record: Record) -> bool:
    """Returns whether an attempt that has ended is followed by another."""
    if record.state is State.STALE:
      return record.released or record.losses < self._rules.losses
    failed = record.state is State.FAILED
    return failed and not record.final and record.failures < self._rules.retries

  def _propose(self) -> None:
    """Fills the window."""
    while self._proposed < min(self._trials, self.told + self._window):
      number = self._proposed
      try:
        proposal = self._algorithm.propose(number)
      except base.Exhausted as error:
        if number >= len(self._records) and (not error.waiting or self.told == number):
          logging.warning("The search ends after %d proposals: %s", number, error)
          self._trials = number
        return
      self._proposed += 1
      # What an earlier start has queued stands; the algorithm remembers that it proposed it.
      if number >= len(self._records):
        self._queue(number, proposal)

  def _queue(self, number: int, proposal: base.Proposal) -> None:
    key = self._study.space.key(proposal.tokens)
    numbers = self._evaluated.setdefault(key, [])
    tries = [self._records[n] for n in numbers]
    # Failures do not count: this one may have more luck.
    useful = [
      r
      for r in tries
      if r.open or self._another(r) or r.state in (State.COMPLETE, State.INFEASIBLE)
    ]
    unable = any(r.state is State.INFEASIBLE for r in useful)
    of = useful[0].number if unable or len(useful) >= self._rules.repeats else None
    self._study.queue(number, proposal, key=key, repeat=len(useful) if of is None else 0, of=of)
    if of is None:
      numbers.append(number)
    # What is known of it until it is read again.
    self._records.append(Record(number, proposal, key, State.QUEUED, of=of))

  def _tell(self, record: Record) -> None:
    rules = self._rules
    given = record.reward
    if record.state is State.INFEASIBLE:
      given = rules.penalty if rules.infeasible == "penalise" else None
    elif record.state is not State.COMPLETE:
      given = rules.penalty if rules.failure == "penalise" else None
    self._algorithm.tell(base.Result(record.number, record.proposal, given, record.values))
    self.told += 1
    counts = self._counts
    counts["duplicates" if record.of is not None else "trained"] += record.state is State.COMPLETE
    counts["infeasible"] += record.state is State.INFEASIBLE
    counts["failures"] += record.state in (State.FAILED, State.STALE)
    self._best = next(iter(study_lib.ranking(filter(None, (self._best, record)), self._cost)), None)

  def _check_failures(self, record: Record) -> None:
    """Stops the search if a failure of this start is one too many."""
    if record.state not in (State.FAILED, State.STALE) or record.number < self._first:
      return
    self._failed += self._rules.count_nan or not record.error.startswith(_NOT_FINITE)
    allowed = 0 if self._rules.failure == "abort" else self._max_failed
    if self._failed > allowed:
      raise TooManyFailuresError(
        f"{self._failed} of {self.told - self._first} children have failed, more than the "
        f"{allowed} that may (config.search.max_failed). The last one, trial {record.number}, "
        f"tokens {list(record.tokens)}: {record.error or 'its workers went away'}. All results are "
        "kept; mend the cause, and the same command goes on."
      )

  def _progress(self, record: Record) -> Progress:
    here = self.told - self._first
    pace = (time.monotonic() - self._started) / max(1, here)
    return Progress(
      record=record,
      told=self.told,
      trials=self._trials,
      best=self._best,
      summary=dict(self._algorithm.summary()),
      seconds_left=pace * (self._trials - self.told),
      **self._counts,
    )


@contextlib.contextmanager
def _only_one(study: Study) -> Iterator[None]:
  """A context in which this process alone searches in the study; it tells workers when it ends."""
  me = storage.worker_name()
  there = study.get(_CHIEF)
  if there and there["worker"] != me:
    age = time.time() - there["time"]
    if not storage.gone(there["worker"]) and age < storage.GRACE:
      raise errors.UserError(
        f"{there['worker']} searches in this study already (sign of life {age:.0f} s ago). To help "
        "it, use --mode=worker."
      )
  stop = threading.Event()

  def live() -> None:
    while not stop.wait(storage.HEARTBEAT):
      study.set(_CHIEF, {"worker": me, "time": time.time()})

  study.set(_CHIEF, {"worker": me, "time": time.time()})
  study.set(_ENDED, False)
  thread = threading.Thread(target=live, name="chief", daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join(timeout=storage.HEARTBEAT)
    study.set(_CHIEF, None)
    study.set(_ENDED, True)


@contextlib.contextmanager
def _threads(
  study: Study, evaluators: Sequence[Evaluate], reward: Reward, seed: int
) -> Iterator[Callable[[], None]]:
  """Starts a worker thread for each evaluator; yields what raises an error of theirs.

  On leaving, each finishes its child.
  """
  stop, raised = threading.Event(), []

  def loop(evaluate: Evaluate) -> None:
    try:
      work(study, evaluate, reward, seed=seed, stop=stop.is_set, patience=float("inf"))
    except BaseException as error:
      raised.append(error)

  def check() -> None:
    if raised:
      raise raised[0]

  threads = [
    threading.Thread(target=loop, args=(one,), name=f"worker-{index}", daemon=True)
    for index, one in enumerate(evaluators)
  ]
  for thread in threads:
    thread.start()
  try:
    yield check
  finally:
    stop.set()
    for thread in threads:
      thread.join()
