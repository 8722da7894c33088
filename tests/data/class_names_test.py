"""ImageNet's names against known labels, and files of names."""

import pytest

from effnets import errors
from effnets.data import class_names


def test_imagenet():
  names = class_names.imagenet()
  assert len(names) == len({name.lower() for name in names}) == 1000
  assert all(name == name.strip() and name.isprintable() for name in names)


@pytest.mark.parametrize(
  "label,name",
  [
    # Labels that everybody quotes, and pairs that share a word.
    (0, "tench"),
    (1, "goldfish"),
    (134, "crane (bird)"),
    (207, "golden retriever"),
    (281, "tabby"),
    (388, "giant panda"),
    (517, "crane (machine)"),
    (638, "maillot (tights)"),
    (639, "maillot (swimsuit)"),
    (817, "sports car"),
    (954, "banana"),
    (999, "toilet paper"),
  ],
)
def test_known_labels(label, name):
  assert class_names.imagenet()[label] == name


def test_reads_a_file(tmp_path):
  path = tmp_path / "names.txt"
  path.write_bytes("\ufeffcat\r\n hot dog \nÖlfaß\n\n".encode())
  assert class_names.read(path) == ("cat", "hot dog", "Ölfaß")


@pytest.mark.parametrize(
  "content,message",
  [
    (None, r"config.names='.*names.txt' cannot be read \(No such file.*one class name on a line"),
    (b"\xff\xfe\x00", "is no UTF-8 text"),
    (b"\n \n", "is empty; expected"),
    (b"a\n\nb\n", "line 2 is empty, which would shift"),
  ],
)
def test_messages(tmp_path, content, message):
  path = tmp_path / "names.txt"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(errors.UserError, match=message):
    class_names.read(path, key="config.names")
