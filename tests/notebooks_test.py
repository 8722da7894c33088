"""The notebooks run from top to bottom, with small settings, on what is here."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors

from effnets import models, weights

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "launch" / "colab"

# What a test can pay for, in place of the cell that is tagged `parameters`.
SMALL = {
  "first_steps": {"CONFIG": f"{ROOT}/tests/training/tiny.py", "STEPS": 4},
  "pretrained": {"WEIGHTS": "mobilenetv3_small_050:model.safetensors", "IMAGE_SIZE": 32},
  "plan": {"CONFIG": f"{ROOT}/tests/training/tiny.py", "TOPOLOGY": "cpu:4"},
  "augmentation": {"CONFIG": "configs/efficientnet.py:b7"},
}


def _cells(name):
  """Yields (code, tags) of the notebook's code cells."""
  for cell in json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]:
    if cell["cell_type"] == "code":
      yield "".join(cell["source"]), cell["metadata"].get("tags", ())


def _type(line, names):
  """Runs a line that a notebook hands to the shell."""
  filled = re.sub(r"\{(\w+)\}", lambda match: str(names[match[1]]), line)
  words = shlex.split(filled)
  assert words[:3] == ["python", "-m", "effnets.main"], line
  env = {**os.environ, "PYTHONPATH": str(ROOT)}
  done = subprocess.run([sys.executable, *words[1:]], env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def _write_weights(path):
  """Writes random weights under timm's names."""
  module = weights.catalog.find("mobilenetv3_small_050").architecture.create(1000)
  state = weights.to_timm(module, models.init(module, 0, image_size=32))
  safetensors.save_file({name: np.ascontiguousarray(v) for name, v in state.items()}, path)


def test_every_notebook_is_run():
  assert sorted(SMALL) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_it_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if name == "pretrained":
    _write_weights(tmp_path / "model.safetensors")
    SMALL[name]["EPOCHS"] = 0.5
  names = {"__name__": "notebook"}
  for code, tags in _cells(name):
    code = code.replace("\\\n", " ")  # lines for the shell may go on in the next one
    for line in re.findall(r"^!(.*)$", code, re.MULTILINE):
      _type(line, names)
    rest = re.sub(r"^[!%].*$", "", code, flags=re.MULTILINE)
    exec(compile(rest, f"{name}.ipynb", "exec"), names)
    if "parameters" in tags:
      assert set(SMALL[name]) <= set(names)
      names.update(SMALL[name])
