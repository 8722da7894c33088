"""Folders of films, whole and damaged, and Charades' files."""

import numpy as np
import pytest
from PIL import Image

from effnets import data, errors, prepare
from effnets.data import charades, clips, sources, video, videos

pytest.importorskip("cv2")


def frames(count, shade, size=(32, 48)):
  made = np.zeros((count, *size, 3), np.uint8)
  for i in range(count):
    made[i, :, : 4 * i + 4] = shade
  return made


def fill(root, splits=("training", "validation")):
  """Writes two classes of three films each, one of them a folder of pictures."""
  for split in splits:
    for name, shade in (("jump", 200), ("run", 90)):
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in (0, 1):
        video.write(folder / f"{i}.mp4", frames(8 + i, shade), rate=8.0, key="test")
      (folder / "pictures").mkdir()
      for i, frame in enumerate(frames(6, shade)):
        Image.fromarray(frame).save(folder / "pictures" / f"{i:03d}.png")
  return root


def opened(root, split="train", **options):
  return data.open_source(f"videos:{root}", split, options=options)


def test_films_of_a_folder(tmp_path):
  source = opened(fill(tmp_path))
  assert source.class_names == ("jump", "run") and len(source) == 6
  assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
  film = source[1]["film"]
  assert (film.frames, film.rate) == (9, 8.0)
  # Strided, repeated, from the middle; codecs lose a little.
  whole = frames(9, 200).astype(int)
  for chosen in ([0, 1, 2], [2, 5, 8], [3, 3, 7], [6]):
    found = film.read(chosen).astype(int)
    assert np.abs(found - whole[chosen]).mean() < 8
    edge = np.argmax(found[:, 16, :, 0] < 100, axis=1)
    np.testing.assert_allclose(edge, 4 * np.array(chosen) + 4, atol=1)
  pictures = source[2]["film"]
  np.testing.assert_array_equal(pictures.read([1, 4]), frames(6, 200)[[1, 4]])
  assert len(opened(tmp_path, "validation")) == 6


def test_broken_films_are_named(tmp_path):
  fill(tmp_path, ("train",))
  jump = tmp_path / "train" / "jump"
  (jump / "0.mp4").write_bytes(b"nothing of a film")
  Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(jump / "pictures" / "003.png")
  (jump / "pictures" / "005.png").write_bytes(b"no picture")
  (jump / "empty").mkdir()
  source = opened(tmp_path)
  names = [path.rsplit("/", 1)[1] for path in source.paths[:4]]
  assert names == ["0.mp4", "1.mp4", "empty", "pictures"]
  with pytest.raises(sources.Unreadable, match="0.mp4 .no (video|frames)"):
    source[0]
  with pytest.raises(sources.Unreadable, match="empty .no pictures"):
    source[2]
  mixed = source[3]["film"]
  with pytest.raises(sources.Unreadable, match="frames differ in size: 20x20 and 48x32"):
    mixed.read([2, 3])
  with pytest.raises(sources.Unreadable, match="005.png"):
    mixed.read([5])
  assert len(mixed.read([0, 1])) == 2
  cut = (jump / "1.mp4").read_bytes()
  (jump / "1.mp4").write_bytes(cut[: len(cut) // 2])
  with pytest.raises(sources.Unreadable, match="1.mp4"):
    source[1]["film"].read([0, 8])


def test_flow_is_made_and_found(tmp_path, capsys):
  root, target = fill(tmp_path / "films"), tmp_path / "flow"
  (root / "training" / "run" / "0.mp4").write_bytes(b"broken")
  assert prepare.main([f"flow:videos:{root}", str(target)]) == 0
  told = capsys.readouterr().out
  assert "train: 5 films" in told and "1 left out, unreadable" in told and "0.mp4" in told
  source = opened(root, flow=str(target))
  flow = source[2]["film"].flow([0, 5])
  assert flow.shape == (2, 32, 48, 2)
  direct = clips.dis(source[2]["film"].read(range(6)))
  np.testing.assert_allclose(source[2]["film"].flow(range(6)), np.clip(direct, -20, 20), atol=0.08)
  # One is missing, one is of another film.
  (target / "training" / "jump" / "0.mp4.npz").unlink()
  with pytest.raises(sources.Unreadable, match="0.mp4 .its flow is missing"):
    source[0]["film"].flow([0])
  one = target / "training" / "jump" / "1.mp4.npz"
  one.write_bytes((target / "training" / "jump" / "pictures.npz").read_bytes())
  with pytest.raises(sources.Unreadable, match="is of 6 frames, not 9"):
    opened(root, flow=str(target))[1]["film"].flow([0])
  one.write_bytes(b"broken")
  with pytest.raises(sources.Unreadable, match="1.mp4.npz"):
    opened(root, flow=str(target))[1]["film"].flow([0])


def test_wrong_folders(tmp_path):
  with pytest.raises(errors.UserError, match="there is no folder .*none"):
    opened(tmp_path / "none")
  with pytest.raises(errors.UserError, match="config.data.split='train' is not a folder in"):
    opened(tmp_path)
  (tmp_path / "train" / "a").mkdir(parents=True)
  with pytest.raises(errors.UserError, match="no films in .*expected CLASS/FILM"):
    opened(tmp_path)
  fill(tmp_path, ("validation",))
  with pytest.raises(errors.UserError, match=r"options.flow=.* of none of 6 films.*prepare flow:"):
    opened(tmp_path, "validation", flow=str(tmp_path))
  with pytest.raises(errors.UserError, match="'flows' is not an option"):
    opened(tmp_path, flows="x")
  assert prepare.main(["flow:digits", str(tmp_path)]) == 2
  assert videos.has_split(str(tmp_path), "validation")


_HEAD = "id,subject,scene,actions,length\n"


def test_charades(tmp_path):
  rows = 'AAA,x,"Kitchen, small",c092 1.90 2.20;c147 0.00 12.60,30\nBBB,y,Hall,,31\n'
  rows += "CCC,z,Hall,c000 0 9,3\n"
  (tmp_path / "Charades_v1_train.csv").write_text(_HEAD + rows)
  (tmp_path / "Charades_v1_480").mkdir()
  with pytest.raises(errors.UserError, match="none of the 3 films .*AAA.mp4"):
    data.open_source(f"charades:{tmp_path}", "train")
  for name in ("AAA", "BBB"):
    video.write(tmp_path / "Charades_v1_480" / f"{name}.mp4", frames(8, 99), rate=8.0, key="test")
  source = data.open_source(f"charades:{tmp_path}", "train")
  assert source.num_classes == 157 and len(source) == 3
  assert np.flatnonzero(source[0]["targets"]).tolist() == [92, 147]
  assert source[0]["actions"] == ((92, 1.9, 2.2), (147, 0.0, 12.6))
  assert not source[1]["targets"].any() and source[1]["label"] == -1
  with pytest.raises(sources.Unreadable, match="CCC.mp4 .there is no such file"):
    source[2]
  with pytest.raises(errors.UserError, match="there is no .*Charades_v1_test.csv"):
    data.open_source(f"charades:{tmp_path}", "validation")


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("id,scene\nA,B\n", "lacks the column 'actions'"),
    (_HEAD, "lists no films"),
    (_HEAD + "A,s,k,c092 1.0,3\n", "line 2: the action 'c092 1.0' should be such as"),
    (_HEAD + "A,s,k,,3\nB,s,k,c157 1 2,3\n", "line 3: the action 'c157 1 2'.*c000 to c156"),
  ],
)
def test_wrong_lists(tmp_path, text, words):
  path = tmp_path / "list.csv"
  path.write_text(text)
  with pytest.raises(errors.UserError, match=words):
    charades.read(path)
