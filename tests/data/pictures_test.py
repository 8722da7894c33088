"""`pictures:PATH`: everything below a folder, without labels or classes."""

import numpy as np
import pytest
from PIL import Image

from effnets import errors
from effnets.data import sources


def test_all_pictures_below_a_folder(tmp_path):
  for level, name in enumerate(("a.png", "deep/b.png", "deep/er/c.png")):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((3, 5, 3), level, np.uint8)).save(tmp_path / name)
  (tmp_path / "deep" / "notes.txt").write_text("no picture")
  source = sources.open_source(f"pictures:{tmp_path}", "train")
  found = [source[i] for i in range(len(source))]
  assert [int(example["image"][0, 0, 0]) for example in found] == [0, 1, 2]
  assert {int(example["label"]) for example in found} == {-1}
  assert (source.num_classes, source.class_names, source.image_size) == (0, (), None)


@pytest.mark.parametrize(
  ("name", "split", "options", "message"),
  [
    ("pictures:", "train", {}, r"'pictures:' lacks a path"),
    ("pictures:/no/where", "train", {}, r"'/no/where' does not exist; give a picture or a folder"),
    ("pictures:.", "test", {}, r"config.data.split='test' is not a split of pictures"),
    ("pictures:.", "all", {"hold_out": 1}, r"options='hold_out': a folder of pictures takes no"),
  ],
)
def test_mistakes(name, split, options, message):
  with pytest.raises(errors.UserError, match=message):
    sources.open_source(name, split, options=options)
