"""`--mode=export` of an encoder of texts: what the program takes, gives, and comes with."""

import json

import jax
import numpy as np
import pytest

from effnets import configuration, data, main, recipes, workdirs
from effnets.data import wordpiece
from effnets.training import checkpoints, evaluator, inputs, results, state
from effnets.weights import programs

pytestmark = pytest.mark.usefixtures("process_state")

NAMES = ("ids", "token_type_ids", "mask")


def _config():
  config = configuration.base()
  recipes.texts.toy_glue(config, steps=2)
  config.data.options.tasks = "rte,mnli,sts"
  config.model.update({"depth": 1, "width": 8, "heads": 2, "hidden": 8, "dtype": "bfloat16"})
  return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the workdir of a run that was stopped at once, and its task and variables."""
  folder, config = tmp_path_factory.mktemp("export") / "run", _config()
  source = data.open_source("toy_glue", "dev", options={"tasks": "rte,mnli,sts"})
  workdirs.claim(folder, config)
  workdirs.write_class_names(folder, source.class_names)
  task, placement = results.model(config, 6)
  variables = jax.tree.map(lambda leaf: leaf + np.float32(0.1), task.init(3))
  optimizer = inputs.optimizer(config, lambda step: 0.0, task)
  fresh = state.create(variables, optimizer, seed=0, average=False)
  with checkpoints.Checkpoints(folder / "checkpoints") as saver:
    saver.save(7, placement.put(fresh, placement.state(fresh)))
  return folder, variables


def _export(folder, kind, place, *more):
  words = [f"--workdir={folder}", "--mode=export", f"--config.export.format={kind}"]
  return main.run(["main", *words, f"--config.export.path={place}", *more])


def _by_hand(source, indices):
  """Returns what a program takes, from the texts' ids and the lengths of their segments."""
  made = {name: np.zeros((len(indices), source.length), np.int32) for name in NAMES}
  for row, index in enumerate(indices):
    example = source[int(index)]
    whole, first = example["lengths"]
    made["ids"][row] = example["ids"]
    made["mask"][row, :whole] = 1
    made["token_type_ids"][row, first:whole] = 1
  return made


KINDS = ["stablehlo", "onnx", pytest.param("savedmodel", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_becomes_a_program(run, tmp_path, capsys, kind):
  folder, variables = run
  place = tmp_path / kind
  assert _export(folder, kind, place) == 0
  out, err = capsys.readouterr()
  assert err == "" and "largest difference in 8 texts of toy_glue, dev: logits " in out
  about = json.loads((place / "export.json").read_text())
  assert list(about["inputs"]) == list(NAMES)
  assert about["inputs"]["ids"] == {"dtype": "int32", "shape": [None, 24]}
  assert about["outputs"]["sts"] == {"dtype": "float32", "shape": [None]}
  assert about["tasks"]["rte"] == {"texts": 2, "labels": ["entailment", "not_entailment"]}
  assert about["tasks"]["sts"] == {"texts": 2, "scale": 5.0}
  # With its vocabulary a text becomes what it was trained on.
  settings = about["tokenizer"]
  vocabulary = wordpiece.read_vocabulary(place / settings["vocabulary"])
  assert vocabulary == data.toy_glue.vocabulary() and settings["lower_case"]

  # The run's own evaluation in float32, on eight devices; probabilities and scale in NumPy.
  source = data.open_source("toy_glue", "dev", options={"tasks": "rte,mnli,sts"})
  config = _config()
  config.model.dtype = "float32"
  task, placement = results.model(config, 6)
  logits = evaluator.create(config, task, placement).all(variables, source)[0]["logits"]
  indices = np.arange(0, len(source), 37)
  expected = np.asarray(logits[indices], np.float64)
  call = programs.FORMATS[kind].read(place / programs.FORMATS[kind].file)
  actual = call(*_by_hand(source, indices).values())
  assert list(sorted(actual)) == ["logits", "mnli", "rte", "sts"]
  np.testing.assert_allclose(actual["logits"], expected, atol=1e-5)
  shares = np.exp(expected[:, 2:5])
  np.testing.assert_allclose(actual["mnli"], shares / shares.sum(1, keepdims=True), atol=1e-5)
  np.testing.assert_allclose(actual["sts"], 5 * expected[:, 5], atol=5e-5)
  # Padding is not seen.
  other = _by_hand(source, indices)
  other["ids"] = np.where(other["mask"], other["ids"], 1)
  np.testing.assert_allclose(call(*other.values())["rte"], actual["rte"], atol=1e-6)


def test_litert_is_for_images(run, tmp_path, capsys):
  assert _export(run[0], "tflite", tmp_path / "lite") == 2
  assert "encoders of texts go as stablehlo, onnx or savedmodel" in capsys.readouterr().err
  assert not (tmp_path / "lite").exists()


def test_without_data_the_check_runs_on_random_tokens(run, tmp_path, capsys):
  folder, _ = run
  pieces = "".join(f"{piece}\n" for piece in data.toy_glue.vocabulary())
  (tmp_path / "words.txt").write_text(pieces)
  gone = ["--config.data.source=glue:nowhere", "--config.data.options.length=24"]
  assert _export(folder, "stablehlo", tmp_path / "made", *gone) == 2
  assert "config.data.options.vocabulary is empty" in capsys.readouterr().err
  gone += [f"--config.data.options.vocabulary={tmp_path / 'words.txt'}"]
  assert _export(folder, "stablehlo", tmp_path / "made", *gone) == 0
  assert "8 texts of random tokens" in capsys.readouterr().out
  assert (tmp_path / "made" / "vocab.txt").read_text() == pieces
