"""A run's weights go to a folder of pictures: as a whole, and as a linear probe."""

import jax
import numpy as np
import pytest
from PIL import Image

from effnets import commands, configuration, data, training, workdirs
from tests.training import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns the workdir of two steps on the digits."""
  config = tiny.get_config("steps=2,save_every=2")
  config.augment.randaugment.layers = 0
  workdir = tmp_path_factory.mktemp("runs") / "digits"
  training.train(config, workdir)
  return workdir


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """Returns a folder of ten pictures each of three classes, without splits."""
  root, source = tmp_path_factory.mktemp("pictures"), data.open_source("digits", "train")
  for i in range(len(source)):
    folder = root / f"is_{source[i]['label']}"
    folder.mkdir(exist_ok=True)
    if source[i]["label"] < 3 and len(list(folder.iterdir())) < 10:
      Image.fromarray(source[i]["image"]).resize((40, 36)).save(folder / f"{i}.png")
  for folder in root.iterdir():
    if not any(folder.iterdir()):
      folder.rmdir()
  return root


def _tuned(run, pictures, workdir, *words):
  argument = ",".join(
    [f"folder={pictures}", f"weights=run:{run}", "epochs=3", "batch_size=8", *words]
  )
  config = configuration.load(f"configs/finetune.py:{argument}")
  config.tensorboard = False
  commands.train(config, str(workdir))
  return training.results.restore(workdirs.saved(workdir), workdir)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("linear_probe",)])
def test_a_folder_of_pictures(run, pictures, tmp_path, words):
  before = training.results.restore(workdirs.saved(run), run)
  tuned = _tuned(run, pictures, tmp_path / "tuned", *words)
  assert tuned.class_names == ("is_0", "is_1", "is_2")
  assert tuned.step == 3 * 18 // 8  # 15 % of ten are two, for validation and for the test
  old, new = jax.device_get(before.variables), jax.device_get(tuned.variables)
  assert new["params"]["classifier"]["bias"].shape == (3,)
  assert not np.array_equal(new["params"]["classifier"]["bias"], np.zeros(3))
  for collection in ("params", "batch_stats"):
    below = old[collection].keys() - {"classifier"}
    kept = {name for name in below if _same(old[collection][name], new[collection][name])}
    assert kept == (below if words else set()), collection


def _same(tree, other):
  pairs = zip(tiny.leaves(tree).values(), tiny.leaves(other).values(), strict=True)
  return all(np.array_equal(a, b) for a, b in pairs)
