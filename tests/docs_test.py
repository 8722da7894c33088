"""What the documents say can be typed can be typed: commands parse, configs load, code runs."""

import importlib.util
import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from absl.testing import flagsaver

from effnets import configuration, main, workdirs
from effnets.search import spaces

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted(
  [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/*/README.md")]
)
CONFIGS = sorted(configuration.shipped().values())
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:\S*python3? )[^`]+)`")


def _blocks(document, language):
  return [t for lang, t in _FENCE.findall(document.read_text("utf-8")) if lang == language]


def _commands():
  for document in DOCUMENTS:
    text = document.read_text("utf-8")
    lines = "\n".join(_blocks(document, "")).replace("\\\n", " ").splitlines()
    for line in [*lines, *_INLINE.findall(_FENCE.sub("", text))]:
      for part in line.split("&&"):
        words = shlex.split(part)
        if words and re.search(r"\bpython3?$", words[0]):
          yield f"{document.relative_to(ROOT)}: {part.strip()}", words[1:]


COMMANDS = dict(_commands())


def _best(folder, words, word):
  """Returns a search's best.json, of the space that goes with the config, with its rank."""
  made = spaces.create("spinenet_tiny" if any(":spinenet" in w for w in words) else "mnas_tiny")
  tokens = made.sample(np.random.default_rng(0))
  about = {"space": made.name, "space_options": "{}", "space_version": made.version}
  top = [{"tokens": list(tokens), "reward": 1.0, "values": {}}] * 3
  path = folder / "best.json"
  path.write_text(json.dumps({"space": about, "top": top}))
  rank = word.rpartition(":")[2]
  return f"{path}:{rank}" if rank.isdigit() else path


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_typed(command, tmp_path, monkeypatch):
  words = COMMANDS[command]
  if words[:2] == ["-m", "effnets.main"]:
    if "--help" in words:
      return
    if not any(word.startswith(("--config=", "--config.weights=")) for word in words):
      # Its config is that of the run, which an earlier command has made.
      monkeypatch.chdir(tmp_path)
      (folder,) = (word.removeprefix("--workdir=") for word in words if "--workdir=" in word)
      config = configuration.base()
      config.train.steps = 1
      workdirs.claim(folder, config)
    for word in words:
      if word.startswith("--config.arch="):
        # An earlier command has left it.
        words = [w.replace(word, f"--config.arch={_best(tmp_path, words, word)}") for w in words]
    with flagsaver.flagsaver():
      config, workdir, mode = main.parse(["main", *words[2:]])
    assert workdir and mode in main.MODES
    configuration.check(config)
  elif words[0] == "-m":
    assert importlib.util.find_spec(words[1]) is not None
  elif words[0] != "-c":
    assert (ROOT / words[0]).is_file()


def test_the_readme_begins_with_the_two_commands():
  first, second = _blocks(ROOT / "README.md", "")[0].splitlines()
  assert first == (
    "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/python -m effnets.main "
    "--config=configs/noisy_student.py --workdir=runs/noisy_student"
  )
  assert second == (
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"
  )
  assert second in (ROOT / ".ci/run").read_text().splitlines()


@pytest.mark.parametrize("document", [*DOCUMENTS, *CONFIGS], ids=lambda path: path.name)
def test_configs_that_are_mentioned_load(document):
  text = document.read_text("utf-8")
  for mention in set(re.findall(r"`(configs/\w+\.py(?::[^`\s]+)?)`", text)):
    configuration.check(configuration.load(mention))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
  for link in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
    if not link.startswith("http"):
      assert (document.parent / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if _blocks(d, "python")])
def test_code_runs(document):
  for block in _blocks(document, "python"):
    exec(compile(block, str(document), "exec"), {"__name__": "example"})


def test_costs_in_the_readme_are_those_of_the_stored_plans():
  rows = re.findall(
    r"^\| \[(\w+)\]\(experiments/(\w+)/[\w.]+\)[^|]* \| (\S+) \| ([\d.]+) of (\d+) GiB "
    r"\| ([\d,.]+) \| ([\d,]+) \|$",
    (ROOT / "README.md").read_text("utf-8"),
    re.MULTILINE,
  )
  assert len(rows) >= 3
  for model, paper, topology, held, capacity, hours, chip_hours in rows:
    stored = json.loads((ROOT / "experiments" / paper / "plan.json").read_text("utf-8"))
    shown = [
      (
        f"{plan['memory_per_chip']['total'] / 2**30:.1f}",
        f"{plan['memory_per_chip']['capacity'] / 2**30:.0f}",
        f"{plan['recipe']['hours']:,.1f}",
        f"{plan['recipe']['chip_hours']:,.0f}",
      )
      for made in stored
      for plan in made["plans"]
      if plan["fits"] and (plan["model"], plan["topology"]) == (model, topology)
    ]
    assert (held, capacity, hours, chip_hours) in shown, (model, topology, shown)
