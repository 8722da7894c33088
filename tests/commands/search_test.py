import dataclasses
import importlib
import json
import threading

import pytest
from absl.testing import flagsaver

from effnets import commands, configuration, errors, main
from effnets.pipelines import sweep
from effnets.search import report, running, settings, spaces, study
from effnets.search.algorithms import base

# The package's attribute of that name is the command.
progress_line = importlib.import_module("effnets.commands.search").progress_line


def landscape(tmp_path, trials=12, **changes):
  """A search that trains nothing, as the command takes it."""
  config = configuration.load(f"configs/search_mnasnet.py:trials={trials},algorithm=random")
  config.search.evaluator.name = "landscape"
  config.search.evaluator.options.name = "trade"
  config.search.cost = "latency"
  config.search.storage = f"journal:{tmp_path}/log"
  config.search.reward.update({"costs": ("latency",), "targets": (80.0,)})
  for key, value in changes.items():
    configuration.override(config, f"search.{key}", value)
  return config


def test_a_search_leaves_what_it_found(tmp_path, capsys):
  path = tmp_path / "run"
  commands.search(landscape(tmp_path), str(path))
  out = capsys.readouterr().out
  assert "search: trial 12/12, reward 0." in out
  for word in ("best 0.", "duplicates", "failures", "0:00:00 left", "report.html"):
    assert word in out
  best = json.loads((path / "best.json").read_text())
  assert best["trials"] == best["trained"] == 12 and len(best["top"]) == 5
  # Recomputed from the landscape's own rule: the soft reward of accuracy and latency.
  first = best["top"][0]
  accuracy, latency = first["values"]["accuracy"], first["values"]["latency"]
  assert first["reward"] == pytest.approx(accuracy * (latency / 80) ** -0.07)
  assert first["reward"] == max(row["reward"] for row in best["top"])
  costs = [row["values"]["latency"] for row in best["front"]]
  assert costs == sorted(costs)
  for picture in ("pareto", "rewards"):
    assert (path / f"plots/{picture}.png").read_bytes().startswith(b"\x89PNG")
  page = (path / "report.html").read_text()
  assert page.count("data:image/png;base64,") == 2 and "http" not in page


def test_the_same_command_goes_on(tmp_path, capsys):
  path = str(tmp_path / "run")
  commands.search(landscape(tmp_path, trials=5), path)
  commands.search(landscape(tmp_path, trials=12), path)
  more = json.loads((tmp_path / "run/best.json").read_text())
  whole = landscape(tmp_path, storage=f"journal:{tmp_path}/other")
  commands.search(whole, str(tmp_path / "whole"))
  assert json.loads((tmp_path / "whole/best.json").read_text())["history"] == more["history"]


def test_workers_do_what_a_search_without_any_queues(tmp_path, capsys, monkeypatch):
  path = str(tmp_path / "run")
  with pytest.raises(errors.UserError, match="no study 'search' to work for"):
    commands.worker(landscape(tmp_path), path)
  config = landscape(tmp_path, **{"proxy.workers": "0"})
  chief = threading.Thread(target=commands.search, args=(config, path))
  made = settings.create(config, path)
  settings.open_study(config, made, path, create=True).set("ended", False)
  chief.start()
  commands.worker(config, path)
  chief.join(timeout=60)
  assert not chief.is_alive()
  out = capsys.readouterr().out
  assert "12 trials were evaluated here" in out and "worker: trial 11, complete" in out


def test_a_worker_of_another_config_or_code(tmp_path, monkeypatch):
  path = str(tmp_path / "run")
  commands.search(landscape(tmp_path, trials=2), path)
  with pytest.raises(errors.UserError, match=r"has config '\w+', here it is '\w+'"):
    commands.worker(landscape(tmp_path, repeats="2"), path)
  code = {"sources of effnets": "another"}
  monkeypatch.setattr(settings.parallel.agreement, "code", lambda: code)
  with pytest.raises(errors.UserError, match=r"code '\w+', here it is 'another'; a worker needs"):
    commands.worker(landscape(tmp_path), path)


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("space.name", "mnas_tyni", r"config.search.space.*'mnas_tyni' is not a space.*'mnas_tiny'"),
    ("algorithm.name", "ppu", "config.search.algorithm.*'ppu'.*'ppo'"),
    ("reward.form", "sof", "'sof' is not a form of reward"),
    ("reward.targets", "(1.0, 2.0)", "should be as many"),
    ("evaluator.name", "proxi", "config.search.evaluator.name='proxi'.*'proxy'"),
    ("failure", "ignore", "config.search.failure='ignore'"),
    ("trials", "0", "config.search.trials=0 should be at least 1"),
  ],
)
def test_mistakes_are_told_before_anything_is_stored(tmp_path, key, value, message):
  config = configuration.load("configs/search_mnasnet.py")
  configuration.override(config, f"search.{key}", value)
  with pytest.raises(errors.UserError, match=message):
    commands.search(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_a_config_without_a_search(tmp_path):
  with pytest.raises(errors.UserError, match="no section `search`; take one such as"):
    commands.search(configuration.load("configs/mnasnet.py"), str(tmp_path))


def test_too_many_failures_leave_a_report(tmp_path, monkeypatch, capsys):
  config = landscape(tmp_path, max_failed="1")

  def broken(space, tokens, seed):
    raise running.FailedError("out of memory: 9 GB")

  made = dataclasses.replace(settings.create(config, tmp_path), evaluators=lambda: [broken])
  monkeypatch.setattr(settings, "create", lambda *_: made)
  with pytest.raises(errors.UserError, match=r"2 of 2 children have failed.*9 GB"):
    commands.search(config, str(tmp_path / "run"))
  assert "out of memory: 9 GB" in (tmp_path / "run/report.html").read_text()


def test_line_of_progress():
  record = study.Record(
    36, base.Proposal((0,)), "k", study.State.COMPLETE, reward=0.61234, values={}
  )
  progress = running.Progress(
    record=record,
    told=37,
    trials=100,
    best=record,
    summary={"entropy": 10.234, "version": 3.0},
    trained=30,
    duplicates=4,
    failures=1,
    infeasible=2,
    seconds_left=3912.4,
  )
  assert progress_line(progress) == (
    "search: trial 37/100, reward 0.6123, best 0.6123 (trial 36), entropy 10.23, 4 duplicates, "
    "2 infeasible, 1 failures, 1:05:12 left"
  )


def test_what_was_found_is_trained_by_the_retraining_config(tmp_path):
  space = spaces.create("mnas_tiny")
  rows = [space.tokens({}), space.tokens({"block1.kernel": 5})]
  records = [
    study.Record(
      n,
      base.Proposal(tokens),
      space.key(tokens),
      study.State.COMPLETE,
      reward=1.0 - n,
      values={"accuracy": 0.5, "madds": 1.0},
    )
    for n, tokens in enumerate(rows)
  ]
  report.write(tmp_path, space, records, title="t", gain="accuracy", cost="madds", top=5)
  path = tmp_path / "best.json"
  for text, tokens in ((f"{path}", rows[0]), (f"{path}:2", rows[1])):
    with flagsaver.flagsaver():
      words = ["main", "--config=configs/retrain.py", f"--config.arch={text}"]
      config, _, mode = main.parse(words)
    assert (config.model.name, config.model.tokens, mode) == ("searched", tokens, "train")
    assert config.arch == text
  config = configuration.load(f"configs/retrain.py:arch={path},top=2")
  members = sweep.members_of(config)
  assert [m.configs[0].model.tokens for m in members.values()] == rows
