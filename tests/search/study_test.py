import os
import sqlite3
import subprocess
import sys
import threading
import time

import optuna
import pytest

from effnets import errors
from effnets.search import running, storage
from effnets.search import study as study_lib
from effnets.search.algorithms import Proposal
from effnets.search.running import FailedError, InfeasibleError, Rules
from effnets.search.study import Record, State, Study
from tests.search import stand_ins

SPACE = stand_ins.Space()


def search(study, *, trials=20, evaluate=stand_ins.fraction, algorithm=None, **kwargs):
  algorithm = algorithm or stand_ins.Climber(study.space)
  return running.run(study, algorithm, evaluate, stand_ins.accuracy, trials=trials, **kwargs)


class Counting:
  """`fraction`, counting what it is asked for; `fails` raises or replaces."""

  def __init__(self, fails=None):
    self.asked, self._fails, self._lock = [], fails, threading.Lock()

  def __call__(self, space, tokens, seed):
    with self._lock:
      self.asked.append((tokens, seed))
      count = len(self.asked)
    changed = self._fails(count, tokens, seed) if self._fails else None
    return stand_ins.fraction(space, tokens, seed) if changed is None else changed


class Killed(BaseException):
  pass


def kill_at(number):
  def fails(count, tokens, seed):
    if count == number:
      raise Killed

  return fails


@pytest.mark.parametrize("kind", ["memory", "journal", "sqlite"])
def test_stored_history_is_what_the_algorithm_saw(kind, tmp_path):
  where = {"memory": "memory", "journal": f"journal:{tmp_path}/log", "sqlite": f"{tmp_path}/s.db"}
  algorithm = stand_ins.Climber(SPACE)
  study = Study(SPACE, where[kind])
  records = search(study, algorithm=algorithm)
  assert [r.number for r in records] == list(range(20))
  for record, result in zip(records, algorithm.told, strict=True):
    assert (record.number, record.tokens, record.reward) == (
      result.number,
      result.tokens,
      result.reward,
    )
    assert record.reward == stand_ins.fraction(SPACE, record.tokens, 0)["accuracy"]
  # Serial: each was proposed knowing all before it.
  assert [r.proposal.info.get("told", 0) for r in records] == list(range(20))
  # Optuna's own view of the same study.
  assert study.whole.best_value == max(r.reward for r in records)
  again = Study(SPACE, where[kind]) if kind != "memory" else study
  assert study_lib.history(again.records()) == study_lib.history(records)


def test_kill_and_resume_at_trial_137_of_300(tmp_path, monkeypatch):
  """A real SIGKILL in the midst of the 138th evaluation, and a serial search that never was."""
  script = f"""
import os, signal
from effnets.search import running
from effnets.search.study import Study
from tests.search import stand_ins
os.fsync = lambda file: None  # what a process has written outlives it; the disk's time is saved
def evaluate(space, tokens, seed):
  if len(study.records()) == 138:
    os.kill(os.getpid(), signal.SIGKILL)
  return stand_ins.fraction(space, tokens, seed)
space = stand_ins.Space(decisions=30)
study = Study(space, "journal:{tmp_path}/log")
running.run(study, stand_ins.Climber(space), evaluate, stand_ins.accuracy, trials=300)
"""
  ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
  assert ended.returncode == -9, ended.stderr.decode()
  monkeypatch.setattr(os, "fsync", lambda file: None)
  space = stand_ins.Space(decisions=30)
  study = Study(space, f"journal:{tmp_path}/log")
  assert len(study.records()) == 138 and study.records()[-1].state is State.RUNNING
  resumed = search(study, trials=300)
  unbroken = search(Study(space), trials=300)
  assert study_lib.history(resumed) == study_lib.history(unbroken)
  assert len(resumed) == 300 and resumed[-1].reward > resumed[0].reward
  # The attempt that died is there, and its repetition.
  assert [r.state for r in study.attempts() if r.number == 137] == [State.STALE, State.COMPLETE]


def test_budget_is_in_total():
  study = Study(SPACE)
  first = search(study, trials=8)
  more = search(study, trials=20)
  assert more[:8] == first and len(more) == 20
  assert study_lib.history(more) == study_lib.history(search(Study(SPACE), trials=20))
  counting = Counting()
  assert search(study, trials=20, evaluate=counting) == more and not counting.asked


def test_thread_workers_make_the_same_trials():
  serial = search(Study(SPACE), trials=60, algorithm=stand_ins.Random(SPACE))

  def slow(space, tokens, seed):
    time.sleep(0.002 * (sum(tokens) % 4))
    return stand_ins.fraction(space, tokens, seed)

  study = Study(SPACE)
  threads = search(study, trials=60, algorithm=stand_ins.Random(SPACE), evaluate=[slow] * 4)
  assert {(r.number, r.tokens) for r in threads} == {(r.number, r.tokens) for r in serial}
  assert len({r.worker for r in threads if r.of is None}) == 4


def test_a_window_bounds_staleness_at_any_speed():
  def uneven(space, tokens, seed):
    time.sleep(0.004 * (sum(tokens) % 3))
    return stand_ins.fraction(space, tokens, seed)

  histories = set()
  for workers in (1, 3):
    records = search(Study(SPACE), trials=40, evaluate=[uneven] * workers, window=6)
    told = [r.proposal.info.get("told", 0) for r in records]
    assert told == [max(0, n - 5) for n in range(40)]
    histories.add(study_lib.history(records))
  assert len(histories) == 1


def test_workers_of_other_processes(tmp_path):
  where = f"{tmp_path}/study.db"
  study = Study(SPACE, where)
  script = f"""
from effnets.search import running
from effnets.search.study import Study
from tests.search import stand_ins
study = Study(stand_ins.Space(), "{where}", create=False)
print(running.work(study, stand_ins.fraction, stand_ins.accuracy))
"""
  study.set("ended", False)
  children = [
    subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)
  ]
  records = search(study, trials=12, evaluate=None, algorithm=stand_ins.Random(SPACE))
  done = [int(child.communicate(timeout=60)[0]) for child in children]
  assert sum(done) == sum(r.of is None for r in records)
  assert all(r.state is State.COMPLETE for r in records)


@pytest.mark.parametrize("window", [1, 5])
def test_a_search_that_runs_out_of_proposals(window):
  class Few(stand_ins.Random):
    """Proposes in pairs, the second after the first is told; six in all."""

    def propose(self, number):
      if number >= 6:
        raise stand_ins.base.Exhausted("seen it all")
      if number % 2 and len(self.told) < number:
        raise stand_ins.base.Exhausted("not yet", waiting=True)
      return super().propose(number)

  algorithm = Few(SPACE)
  records = search(Study(SPACE), algorithm=algorithm, window=window)
  assert [r.number for r in records] == [r.number for r in algorithm.told] == list(range(6))


def test_two_workers_never_get_the_same_trial(tmp_path, monkeypatch):
  """The second one looks while the first is between reading that it waits and taking it."""
  first, second = (Study(SPACE, f"{tmp_path}/study.db") for _ in range(2))
  proposal = stand_ins.Random(SPACE).propose(0)
  first.queue(0, proposal, key=SPACE.key(proposal.tokens))
  found = []
  other = threading.Thread(target=lambda: found.append(second.take("second:1:1")))
  backend = first.storage.raw._backend
  check = backend.check_trial_is_updatable

  def interrupted(*args):
    if other.ident is None:
      other.start()
      other.join(timeout=0.5)
    return check(*args)

  monkeypatch.setattr(backend, "check_trial_is_updatable", interrupted)
  mine = first.take("first:1:1")
  other.join()
  assert (mine is None) != (found[0] is None)


def test_equal_networks_are_evaluated_once():
  space = stand_ins.Space(sums=True)
  for workers in (None, 3):
    counting = Counting()
    evaluate = counting if workers is None else [counting] * workers
    records = search(Study(space), trials=60, evaluate=evaluate, algorithm=stand_ins.Random(space))
    keys = {sum(r.tokens) for r in records}
    assert sorted(sum(tokens) for tokens, _ in counting.asked) == sorted(keys)
    first = {}
    for record in records:
      # The reward of the first of its kind, whatever this one's tokens would have given.
      assert record.reward == first.setdefault(record.key, record.reward)
      assert (record.of is None) == (first[record.key] is record.reward) or record.of is not None


def test_repeats_are_averaged():
  """Rewards of equal networks under different seeds; from the third on their mean is taken."""
  space = stand_ins.Space(decisions=1, choices=1)
  records = search(
    Study(space),
    trials=4,
    evaluate=lambda space, tokens, seed: {"accuracy": 0.25 * seed},
    algorithm=stand_ins.Random(space),
    seed=1,
    rules=Rules(repeats=2),
  )
  assert [r.reward for r in records] == [0.25, 0.5, 0.375, 0.375]


def test_an_exception_is_tried_again_with_the_same_tokens():
  def fails(count, tokens, seed):
    if count in (3, 4):
      raise OSError("disk is full")

  study, counting = Study(SPACE), Counting(fails)
  records = search(study, evaluate=counting, rules=Rules(retries=2))
  assert study_lib.history(records) == study_lib.history(search(Study(SPACE)))
  tries = [r for r in study.attempts() if r.number == records[2].number]
  assert [r.state for r in tries] == [State.FAILED, State.FAILED, State.COMPLETE]
  assert len({r.tokens for r in tries}) == 1
  assert "OSError: disk is full" in tries[0].error


@pytest.mark.parametrize("failure, given", [("skip", None), ("penalise", -1.0)])
def test_a_failure_that_stays(failure, given):
  def fails(count, tokens, seed):
    if count in (5, 6):
      raise RuntimeError("broken")

  algorithm = stand_ins.Random(SPACE)
  records = search(
    Study(SPACE),
    evaluate=Counting(fails),
    algorithm=algorithm,
    rules=Rules(failure=failure, penalty=-1.0),
  )
  assert [r.number for r in records if r.state is State.FAILED] == [4]
  assert [r.reward for r in algorithm.told if r.number == 4] == [given]
  assert "RuntimeError: broken" in records[4].error and records[4].failures == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_no_numbers(bad):
  counting = Counting(lambda count, *_: {"accuracy": bad} if count == 4 else None)
  algorithm = stand_ins.Random(SPACE)
  study = Study(SPACE)
  records = search(study, evaluate=counting, algorithm=algorithm)
  assert records[3].state is State.FAILED and f"accuracy={bad}" in records[3].error
  assert algorithm.told[3].reward is None
  assert len(counting.asked) == 20  # the same would come of another try
  states = [t.state for t in study.whole.trials]
  assert states.count(optuna.trial.TrialState.FAIL) == 1


def test_infeasible_networks_are_not_failures():
  def fails(count, tokens, seed):
    if tokens[0]:
      raise InfeasibleError("too large")

  algorithm = stand_ins.Random(SPACE)
  records = search(
    Study(SPACE), evaluate=Counting(fails), algorithm=algorithm, rules=Rules(max_failed=0)
  )
  for record, result in zip(records, algorithm.told, strict=True):
    assert (record.state is State.INFEASIBLE) == bool(record.tokens[0])
    assert (result.reward is None) == bool(record.tokens[0])
  assert {r.error for r in records} == {"too large", ""}


def test_too_many_failures_stop_a_search_that_can_go_on():
  def fails(count, tokens, seed):
    if count % 2:
      raise FailedError("out of memory")

  study = Study(SPACE)
  with pytest.raises(errors.UserError, match=r"3 of 5 children.*\b2 that may.*out of memory"):
    search(study, evaluate=Counting(fails), rules=Rules(max_failed=2))
  assert len(study.records()) == 5
  records = search(study, rules=Rules(max_failed=2))
  assert len(records) == 20
  assert [r.state for r in records[:5]] == [State.FAILED, State.COMPLETE] * 2 + [State.FAILED]


def test_nan_may_be_left_out_of_the_count():
  counting = Counting(lambda count, *_: {"accuracy": float("nan")} if count % 2 else None)
  rules = Rules(max_failed=0, count_nan=False)
  assert len(search(Study(SPACE), evaluate=counting, rules=rules)) == 20
  with pytest.raises(errors.UserError, match="not finite: accuracy=nan"):
    search(Study(SPACE), evaluate=Counting(lambda *_: {"accuracy": float("nan")}), trials=20)


def test_a_stopped_child_is_first_in_the_next_start():
  study = Study(SPACE)
  with pytest.raises(Killed):
    search(study, evaluate=Counting(kill_at(7)))
  for _ in range(5):  # more often than losses would be forgiven
    with pytest.raises(Killed):
      search(study, evaluate=Counting(kill_at(1)))
  assert study_lib.history(search(study)) == study_lib.history(search(Study(SPACE)))


def test_a_lost_heartbeat_gives_the_trial_to_another(tmp_path):
  where = f"{tmp_path}/study.db"
  study = Study(SPACE, where)
  with pytest.raises(Killed):
    search(study, trials=3, evaluate=Counting(kill_at(2)))
  study.requeue(study.records()[1])
  lost = study.take("another-machine:1:1")
  study.reap()
  assert study.records()[1].state is State.RUNNING  # a sign of life just now
  with sqlite3.connect(where) as database:
    database.execute("update trial_heartbeats set heartbeat = '2001-01-01 00:00:00'")
  records = search(study, trials=3)
  assert [r.state for r in records] == [State.COMPLETE] * 3
  # Whoever comes back late has lost it.
  assert not study.finish(Record(**{**vars(lost), "state": State.COMPLETE, "reward": 9.0}))
  assert study.records()[1].reward == records[1].reward != 9.0


def test_a_child_that_kills_its_workers_is_given_up(tmp_path):
  study = Study(SPACE, f"journal:{tmp_path}/log")
  proposal = stand_ins.Random(SPACE).propose(0)
  study.queue(0, proposal, key=SPACE.key(proposal.tokens), losses=3)
  record = study.take("here:1:1")
  study._fail(record.id)
  algorithm = stand_ins.Random(SPACE)
  records = search(study, trials=3, algorithm=algorithm)
  assert records[0].state is State.STALE
  assert [r.reward is None for r in algorithm.told] == [True, False, False]


def test_a_study_of_another_space(tmp_path):
  where = f"{tmp_path}/study.db"
  Study(SPACE, where, identity={"code": "aaaa"})
  with pytest.raises(errors.UserError, match=r"space version 'v1', here it is 'v2'"):
    Study(stand_ins.Space(version="v2"), where, identity={"code": "aaaa"})
  with pytest.raises(errors.UserError, match=r"space 'toy', here it is 'other'"):
    Study(stand_ins.Space(name="other"), where, identity={"code": "aaaa"})
  with pytest.raises(errors.UserError, match=r"code 'aaaa', here it is 'bbbb'; a worker needs"):
    Study(SPACE, where, identity={"code": "bbbb"}, create=False)
  Study(SPACE, where, name="second", identity={"code": "bbbb"})
  with pytest.raises(errors.UserError, match=r"no study 'third'.*--mode=search first"):
    Study(SPACE, where, name="third", create=False)


def test_two_searches_in_one_study_are_refused():
  study = Study(SPACE)
  study.set("chief", {"worker": "elsewhere:7:7", "time": time.time()})
  with pytest.raises(errors.UserError, match="elsewhere:7:7 searches in this study.*mode=worker"):
    search(study)
  study.set("chief", {"worker": "elsewhere:7:7", "time": time.time() - storage.GRACE - 1})
  assert len(search(study)) == 20


def test_a_database_that_goes_away(tmp_path, monkeypatch):
  study = Study(SPACE, f"{tmp_path}/study.db")
  broken = storage.sqlalchemy_errors.OperationalError(
    "select", {}, Exception("server closed the connection")
  )
  method, calls = study.storage.raw.set_trial_state_values, []

  def flaky(*args, **kwargs):
    calls.append(args)
    if len(calls) % 3:
      raise broken
    return method(*args, **kwargs)

  monkeypatch.setattr(study.storage.raw, "set_trial_state_values", flaky)
  monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
  records = search(study, trials=4)
  assert study_lib.history(records) == study_lib.history(search(Study(SPACE), trials=4))
  study.storage.patience = 0.0
  with pytest.raises(errors.UserError, match="has not answered for 0 s.*server closed"):
    search(study, trials=5)


def test_a_place_that_is_none(tmp_path):
  with pytest.raises(errors.UserError, match="no database that can be opened"):
    Study(SPACE, "nonsense://user:secret@host/name")
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match="has not answered"):
    Study(SPACE, f"{tmp_path}/file/study.db")


def test_ranking_and_front():
  rows = [(0.5, 3.0), (0.7, 9.0), (0.7, 8.0), (0.7, 8.0), (0.6, 8.5), (0.2, 1.0)]
  records = [
    Record(
      n,
      stand_ins.base.Proposal((n,)),
      str(n),
      State.COMPLETE,
      reward=gain,
      values={"accuracy": gain, "cost": cost},
    )
    for n, (gain, cost) in enumerate(rows)
  ]
  assert [r.number for r in study_lib.ranking(records, "cost")] == [2, 3, 1, 4, 0, 5]
  assert [r.number for r in study_lib.ranking(records)] == [1, 2, 3, 4, 0, 5]
  assert [r.number for r in study_lib.front(records, "accuracy", "cost")] == [5, 0, 2]


def test_an_evaluator_may_ask_what_a_child_has_of_its_parent():
  seen = []

  class Inheriting(Counting):
    def inheriting(self, info):
      seen.append(dict(info))
      return self

  class Noting(stand_ins.Climber):
    def propose(self, number):
      return Proposal(super().propose(number).tokens, {"edges": {"a": number / 4}})

  study = Study(SPACE)
  search(study, trials=3, evaluate=Inheriting(), algorithm=Noting(SPACE))
  assert seen == [{"edges": {"a": number / 4}} for number in range(len(seen))] and seen
