"""`--mode=show` draws what a training would see, says what it is, and leaves the workdir usable."""

import jax
import numpy as np
import pytest
from PIL import Image

from effnets import augment, commands, configuration, data, errors, streams, workdirs

pytestmark = pytest.mark.usefixtures("process_state")


def _config(**augmentation):
  config = configuration.load("configs/efficientnet.py")
  config.seed = 3
  with config.unlocked(), config.ignore_type():
    config.augment.update(augmentation)
  return config


def _tiles(workdir, size, shown):
  """Returns the tiles of the sheet, reduced to the image size where they are enlarged."""
  picture = np.asarray(Image.open(workdir / "plots" / "augment.png"))
  assert picture.shape == (6 * (shown + 2) - 2, 9 * (shown + 2) - 2, 3)
  rows = [picture[i * (shown + 2) :][:shown] for i in range(6)]
  tiles = np.stack([[row[:, j * (shown + 2) :][:, :shown] for j in range(9)] for row in rows])
  step = shown // size
  return tiles[:, :, ::step, ::step]


def test_sheet_is_what_a_training_sees(tmp_path, capsys):
  config = _config(shift=3, randaugment={"layers": 1, "magnitude": 7, "operations": ("invert",)})
  commands.show(config, str(tmp_path))
  out = capsys.readouterr().out
  assert f"{tmp_path}/plots/augment.png" in out and "digits/train" in out
  assert "shift: 3" in out and "randaugment N=1 M=7" in out and "  invert\n" in out
  tiles = _tiles(tmp_path, 32, 96)
  source = data.open_source("digits", "train")
  for row, index in enumerate(np.linspace(0, len(source) - 1, 6).astype(int)):
    np.testing.assert_array_equal(tiles[row, 0], source[int(index)]["image"])
  key = streams.stream(jax.random.key(3), "augment")
  # Version j of row r stands at position 6 j + r of the stream.
  positions = streams.words(np.arange(48).reshape(8, 6).T.reshape(-1))
  policy = augment.create({"shift": 3, "randaugment": {"layers": 1, "operations": ("invert",)}})
  versions = jax.jit(policy)(
    np.repeat(tiles[:, 0], 8, axis=0), streams.example_keys(key, positions)
  )
  np.testing.assert_array_equal(tiles[:, 1:].reshape(48, 32, 32, 3), versions)
  # A training may begin in that folder.
  workdirs.claim(tmp_path, config)


def test_cutmix_and_the_learned_policy_are_told(tmp_path, capsys):
  config = _config(shift=0, autoaugment={"policy": "svhn", "fill": 0})
  config.task.cutmix = 1.0
  commands.show(config, str(tmp_path))
  lines = capsys.readouterr().out.splitlines()
  assert "cutmix: alpha 1, probability 1" in lines
  assert "  equalize p 0.9, then translate_y ±6 p 0.6" in lines
  assert sum(line.startswith("  ") for line in lines) == 25


def test_data_that_is_not_here(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
  config = _config(shift=0)
  config.data.source = "imagenet2012"
  config.data.image_size = 200
  commands.show(config, str(tmp_path / "run"))
  out = capsys.readouterr().out
  assert "sample photos and digits" in out and "No augmentation is switched on." in out
  assert "config.data.source='imagenet2012' is not prepared" in out
  tiles = _tiles(tmp_path / "run", 192, 192)
  # Random crops of photos differ from each other.
  assert len({tile.tobytes() for tile in tiles[0]}) == 9


def test_what_is_wrong_is_refused(tmp_path):
  config = _config()
  config.data.source = "folder:/nowhere"
  with pytest.raises(errors.UserError, match="/nowhere"):
    commands.show(config, str(tmp_path / "run"))
  config = _config(autoaugment={"policy": "cifr10"})
  with pytest.raises(errors.UserError, match=r"autoaugment\.policy='cifr10'.*Nearest: 'cifar10'"):
    commands.show(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("name", "expected"),
  [("imagenet2012", True), ("tfds:cifar10", True), ("digits", False), ("folder:cats", False)],
)
def test_which_data_may_be_elsewhere(name, expected):
  assert data.sources.is_tfds(name) == expected
