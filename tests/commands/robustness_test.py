"""`--mode=robustness` on small weights: its figures got in another way, and what is refused."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from effnets import configuration, data, errors, main, models, weights
from effnets.augment import corruptions
from effnets.commands import robustness_chart, robustness_report, robustness_settings
from effnets.commands import robustness_suites as suites
from effnets.data import draws
from effnets.evaluation import robustness as figures_lib
from effnets.weights import catalog
from tests.data import fakes

pytestmark = pytest.mark.usefixtures("process_state")

NAME = "tf_mobilenetv3_small_minimal_100"
COUNT = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Returns a folder with weights of ten classes, which answer differently to different digits."""
  folder = tmp_path_factory.mktemp("robustness")
  module = catalog.find(NAME).architecture.create(10)
  variables = _lively(models.init(module, 7, image_size=32))
  # Without its mean over digits: else one class is the answer to everything.
  mean = jax.jit(_logits(module, variables))(_digits()[0]).mean(0)
  classifier = variables["params"]["classifier"]
  classifier["bias"] = classifier["bias"] - np.asarray(mean)
  np.savez(folder / "ten.npz", **weights.to_timm(module, variables))
  return folder


def call(made, tmp_path, *settings, more=()):
  arguments = [f"--config.weights={NAME}:{made / 'ten.npz'}", "--config.data.image_size=32"]
  arguments += ["--config.eval_batch_size=16", f"--workdir={tmp_path / 'w'}", *more]
  arguments += [f"--config.robustness.{setting}" for setting in settings]
  return main.run(["main", "--mode=robustness", *arguments])


def figures(tmp_path):
  return json.loads((tmp_path / "w" / "robustness.json").read_text())


def _lively(variables):
  """Returns kernels that keep a signal's size: fresh ones let it fade, and all answers are one."""

  def scaled(leaf):
    leaf = np.asarray(leaf)
    if leaf.ndim < 2:
      return leaf
    return leaf * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])) / leaf.std())

  return jax.tree.map(scaled, variables)


def _logits(module, variables):
  module = module.clone(plain=True)

  def logits(pixels):
    normal = (pixels.astype(jnp.float32) / 255 - 0.5) / 0.5
    return module.apply(variables, normal, train=False)

  return logits


def _digits():
  source = data.open_source("digits", "test")
  chosen = [source[i * 400 // COUNT] for i in range(COUNT)]
  return np.stack([e["image"] for e in chosen]), np.array([e["label"] for e in chosen])


@pytest.fixture(scope="module")
def network(made):
  """Returns (uint8 pictures -> logits, the digits that are looked at, their labels)."""
  loaded = weights.load(NAME, made / "ten.npz")
  return jax.jit(_logits(loaded.module, loaded.variables)), *_digits()


def test_corruptions_against_pictures_made_one_by_one(made, network, tmp_path, capsys):
  names = ("fog", "jpeg_compression")
  settings = [f"corruptions={','.join(names)}", "severities=(1,5)", f"examples={COUNT}", "seed=3"]
  assert call(made, tmp_path, "suites=corruptions", *settings) == 0
  out, err = capsys.readouterr()
  assert err == "" and "unnormalised" in out and "incomplete, not measured: gaussian_noise" in out
  logits, images, labels = network
  found = figures(tmp_path)
  assert found["weights"].startswith(NAME) and found["source"] == "digits/test, 40 of 400"
  assert found["clean"]["error"] == pytest.approx(np.mean(logits(images).argmax(-1) != labels))
  for name in names:
    assert list(found["corruptions"]["errors"][name]) == ["1", "5"]
    for severity in (1, 5):
      changed = [
        corruptions.corrupt(
          image, name, severity, draws.generator(3, f"corruption/{name}/{severity}", i)
        )
        for i, image in enumerate(images)
      ]
      error = np.mean(logits(np.stack(changed)).argmax(-1) != labels)
      assert found["corruptions"]["errors"][name][str(severity)] == pytest.approx(error)
  result = found["corruptions"]
  values = [list(by.values()) for by in result["errors"].values()]
  assert result["mean_error"] == pytest.approx(np.mean(values))
  assert result["mce"] is None and result["table"] == 32 and not result["complete"]
  assert result["missing"]["fog"] == [2, 3, 4] and result["missing"]["frost"] == [1, 2, 3, 4, 5]
  for picture in ("robustness.png", "corruptions.png"):
    pixels = np.asarray(Image.open(tmp_path / "w" / "plots" / picture).convert("RGB"))
    assert min(pixels.shape[:2]) > 150 and len(np.unique(pixels)) > 20


def test_sequences_against_frames_made_one_by_one(made, network, tmp_path, capsys):
  settings = ["sequences=rotate,shot_noise", "sequence_examples=5", "examples=40", "seed=1"]
  assert call(made, tmp_path, "suites=sequences", *settings) == 0
  assert "digits/test, 40 of 400, 5 of 40, perturbed" in capsys.readouterr().out
  logits, images, _ = network
  found = figures(tmp_path)["sequences"]
  assert found["sequences"] == {"rotate": 5, "shot_noise": 5}
  for name in ("rotate", "shot_noise"):
    flips, distances = [], []
    for number in range(5):
      rng = draws.generator(1, f"perturbation/{name}/1", number)
      frames = corruptions.sequence(images[number * COUNT // 5], name, rng)
      answers = np.asarray(logits(frames))
      for i in range(1, 31):
        before = 0 if name == "shot_noise" else i - 1
        flips.append(answers[i].argmax() != answers[before].argmax())
        old, new = (list(np.argsort(-answers[j], kind="stable")) for j in (before, i))
        distances.append(sum(abs(r - min(new.index(old[r]), 5)) for r in range(5)))
    assert found["flip_probability"][name] == pytest.approx(np.mean(flips))
    # Logits that are nearly equal may change places between two ways of convolving.
    assert found["top5_distance"][name] == pytest.approx(np.mean(distances), abs=0.03)
  assert found["missing"] == [
    n for n in corruptions.PERTURBATIONS if n not in ("rotate", "shot_noise")
  ]
  assert found["mfr"] is None


def test_films_against_frames_of_our_own(made, network, tmp_path, capsys):
  logits, images, _ = network
  folder, expected, distances = tmp_path / "films", {}, {}
  for name, films in (("rotate", 2), ("translate", 1), ("shot_noise_2", 1)):
    flips, moved = [], []
    for index in range(films):
      frames = corruptions.sequence(images[7 * index], name.removesuffix("_2"), draws_of(index))
      frames = np.repeat(frames, 2, 1)[:, :, :28]  # 64 x 28, to be made 32 x 32
      fakes.write_film(folder / "group" / name / "n1" / f"{index}.mp4", frames)
      seen = [Image.fromarray(f).resize((32, 32), Image.Resampling.BICUBIC) for f in frames]
      answers = np.asarray(logits(np.stack([np.asarray(s) for s in seen])))
      step = 0 if name == "shot_noise_2" else 2  # difficulty 2
      for t in range(step or 1, len(frames)):
        before = t - step if step else 0
        flips.append(answers[t].argmax() != answers[before].argmax())
        old, new = (list(np.argsort(-answers[i], kind="stable")) for i in (before, t))
        moved.append(sum(abs(r - min(new.index(old[r]), 5)) for r in range(5)))
    expected[name.removesuffix("_2")] = np.mean(flips)
    distances[name.removesuffix("_2")] = np.mean(moved)
  settings = ["suites=sequences", f"films={folder}", "sequences=rotate,translate,shot_noise,tilt"]
  assert call(made, tmp_path, *settings, "difficulty=2", more=["--config.data.source=none"]) == 0
  out, err = capsys.readouterr()
  assert err == "" and "incomplete, not measured: gaussian_noise, motion_blur, " in out
  found = figures(tmp_path)
  assert "clean" not in found
  found = found["sequences"]
  assert found["sequences"] == {"rotate": 2, "translate": 1, "shot_noise": 1}
  assert found["flip_probability"] == {k: pytest.approx(v) for k, v in expected.items()}
  # Logits that are nearly equal may change places between two ways of convolving.
  assert found["top5_distance"] == {k: pytest.approx(v, abs=0.03) for k, v in distances.items()}
  assert not found["complete"] and "tilt" in found["missing"] and not found["generated"]

  assert call(made, tmp_path, *settings[:2], "sequences=tilt,scale") == 2
  err = capsys.readouterr().err
  assert "there are no films of tilt, scale; expected PATH/PERTURBATION/CLASS/FILM" in err
  (folder / "tilt/n1").mkdir(parents=True)
  (folder / "tilt/n1/a.mp4").write_text("no film")
  assert call(made, tmp_path, *settings[:2], "sequences=tilt") == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("Error: ") and err.count("\n") == 1
  assert "tilt failed" in err and "a.mp4 (" in err


def draws_of(index):
  return draws.generator(1, "films", index)


def write_folder(path, labels, images):
  for index, (label, image) in enumerate(zip(labels, images, strict=True)):
    (path / f"c{label}").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path / f"c{label}" / f"{index}.png")


def test_attacks_against_a_step_of_our_own(made, network, tmp_path, capsys):
  logits, images, _ = network
  answers = np.asarray(logits(images).argmax(-1))
  # Every class has a folder; labels are the network's own answers, so that there is much to lose.
  labels = np.concatenate([np.setdiff1d(np.arange(10), answers), answers])[:COUNT]
  images = np.concatenate([images[: 10 - len(np.unique(answers))], images])[:COUNT]
  write_folder(tmp_path / "data", labels, images)
  settings = ["suites=attacks", "attacks=fgsm", "epsilons=(0,1,6)"]
  more = [f"--config.data.source=folder:{tmp_path / 'data'}", "--config.data.split.test=all"]
  assert call(made, tmp_path, *settings, more=[*more, "--config.data.crop_fraction=1"]) == 0
  assert "ε 6" in capsys.readouterr().out
  found = figures(tmp_path)["attacks"]["top1"]["fgsm"]

  def loss(pixels):
    return -jnp.sum(jax.nn.log_softmax(logits(pixels))[jnp.arange(COUNT), labels])

  sign = np.sign(jax.grad(loss)(images.astype(np.float32)))
  for epsilon in (0, 1, 6):
    moved = np.clip(images + epsilon * sign, 0, 255)
    top1 = float(np.mean(np.asarray(logits(moved)).argmax(-1) == labels))
    # A value whose gradient is a rounding error may go either way.
    assert found[f"{epsilon}.0"] == pytest.approx(top1, abs=1 / COUNT)
  assert found["0.0"] == pytest.approx(1 - figures(tmp_path)["clean"]["error"])
  assert found["0.0"] > 0.7 and found["6.0"] < found["0.0"] - 0.2


def test_folders_frost_photos_and_a_reference(made, network, tmp_path, capsys):
  logits, images, labels = network
  published = tmp_path / "published"
  write_folder(published / "fog/2", labels, images)
  write_folder(published / "weather/frost/1", labels, 255 - images)
  settings = ["suites=corruptions", "corruptions=fog,frost,snow", f"folder={published}"]
  assert call(made, tmp_path, *settings, f"stylized={published / 'fog/2'}") == 0
  out = capsys.readouterr().out
  assert "incomplete, not measured: " in out and "fog 1,3,4,5; " in out
  found = figures(tmp_path)
  result = found["corruptions"]
  assert "clean" not in found and not result["generated"] and not result["complete"]
  fog = np.mean(logits(images).argmax(-1) != labels)
  frost = np.mean(logits(255 - images).argmax(-1) != labels)
  assert result["errors"] == {
    "fog": {"2": pytest.approx(fog)},
    "frost": {"1": pytest.approx(frost)},
  }
  assert result["missing"]["snow"] == [1, 2, 3, 4, 5]
  assert found["stylized"]["error"] == pytest.approx(fog)

  reference = tmp_path / "reference.json"
  reference.write_text(json.dumps({"corruptions": {"errors": {"fog": {"2": 0.5, "3": 0.1}}}}))
  assert call(made, tmp_path, *settings, f"reference={reference}") == 0
  assert figures(tmp_path)["corruptions"]["mce"] == pytest.approx(fog / 0.5)
  assert "(incomplete), against config.robustness.reference" in capsys.readouterr().out

  (tmp_path / "frost").mkdir()
  Image.fromarray(np.full((200, 300, 3), 99, np.uint8)).save(tmp_path / "frost" / "a.png")
  settings = ["suites=corruptions", "corruptions=frost", "severities=(2,)", "examples=8"]
  assert call(made, tmp_path, *settings, f"frost={tmp_path / 'frost'}") == 0
  assert list(figures(tmp_path)["corruptions"]["errors"]) == ["frost"]


def test_photos_need_no_data(made, tmp_path, capsys):
  settings = ["suites=photos", "corruptions=pixelate,contrast", "severities=(1,)"]
  assert call(made, tmp_path, *settings) == 0
  assert "embedded photos: named otherwise" in capsys.readouterr().out
  changed = figures(tmp_path)["photos"]["changed"]
  # Of twelve tiles.
  assert all(value["1"] * 12 == pytest.approx(round(value["1"] * 12)) for value in changed.values())


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (["corruptions=fog,snoww"], ["robustness.corruptions='snoww'", "Nearest: 'snow'"]),
    (["suites=corruption"], ["robustness.suites='corruption'", "Nearest: 'corruptions'"]),
    (["sequences=rotat"], ["robustness.sequences='rotat'", "Nearest: 'rotate'"]),
    (["attacks=fgms"], ["robustness.attacks='fgms'", "Nearest: 'fgsm'"]),
    (["severities=(0,1)"], ["robustness.severities=(0, 1)", "some of 1 to 5"]),
    (["severities=()"], ["robustness.severities=()", "some of 1 to 5"]),
    (["epsilons=(4,0.0157)"], ["robustness.epsilons: epsilon=0.0157", "[0, 1]", "[-1, 1]"]),
    (["epsilons=(300,)"], ["robustness.epsilons: epsilon=300", "levels of [0, 255]"]),
    (["epsilons=('a',)"], ["robustness.epsilons=('a',)", "numbers"]),
    (["epsilons=()"], ["robustness.epsilons=()", "empty"]),
    (["folder=/no/where"], ["robustness.folder='/no/where'", "not a folder"]),
    (["frost=/no/where"], ["robustness.frost='/no/where'", "not a folder"]),
    (["films=/no/where"], ["robustness.films='/no/where'", "not a folder"]),
    (["sequences=spatter"], ["robustness.sequences='spatter'", "perturbation sequence"]),
    (["reference=/no/where"], ["robustness.reference='/no/where'", "FileNotFoundError"]),
    (["release=256"], ["robustness.release=256 should be 224 or 299"]),
    (["difficulty=4"], ["robustness.difficulty=4 should be from 1 to 3"]),
    (["attack_steps=0"], ["robustness.attack_steps=0 should be from 1 to 500"]),
    (["suites=corruptions", "corruptions=frost"], ["no pictures of frost", "photos for frost"]),
  ],
)
def test_mistakes(made, tmp_path, capsys, settings, words):
  assert call(made, tmp_path, *settings) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("Error: ") and err.count("\n") == 1
  for word in words:
    assert word in err, err
  assert not (tmp_path / "w").exists()


def test_folders_of_other_classes(made, tmp_path, capsys):
  write_folder(tmp_path / "c/fog/1", range(3), np.zeros((3, 32, 32, 3), np.uint8))
  settings = ["suites=corruptions", "corruptions=fog", f"folder={tmp_path / 'c'}"]
  assert call(made, tmp_path, *settings) == 2
  assert "fog 1 has 3 classes, the model 10" in capsys.readouterr().err
  settings = ["suites=photos", "corruptions=fog", "severities=(1,)"]
  assert call(made, tmp_path, *settings, f"imagenet_a={tmp_path / 'c/fog/1'}") == 2
  assert "has 3 classes and the model 10; they should be 200 and" in capsys.readouterr().err
  assert not (tmp_path / "w").exists()


class Answers(suites.Examiner):
  """Gives logits that were thought out instead of a network's."""

  def __init__(self, logits, examples, classes=1000, batch=7):
    self._logits, self._examples, self._batch = logits, examples, batch
    self.trained = type("Trained", (), {"task": type("Task", (), {"num_classes": classes})})

  def batches(self, source):
    for start in range(0, len(self._logits), self._batch):
      part = slice(start, start + self._batch)
      yield self._logits[part], {name: x[part] for name, x in self._examples.items()}


class Named:
  name, frames = "named", 4

  def __init__(self, num_classes=200):
    self.num_classes = num_classes


def test_imagenet_a_is_answered_among_its_200_classes():
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((30, 1000)).astype(np.float32)
  label = rng.integers(0, 200, 30)
  others = np.setdiff1d(np.arange(1000), figures_lib.IMAGENET_A)
  logits[np.arange(30), others[:30]] += 20  # likelier, but none of the answers
  logits[np.arange(20), np.array(figures_lib.IMAGENET_A)[label[:20]]] += 10
  examples = {"index": np.arange(30), "label": label}
  found = suites.imagenet_a(Answers(logits, examples), Named())
  answers = [
    max(range(200), key=lambda i, row=row: row[figures_lib.IMAGENET_A[i]]) for row in logits
  ]
  assert (
    found["error"] == pytest.approx(np.mean(np.array(answers) != label)) and found["error"] < 0.34
  )
  assert found["examples"] == 30 and 0 < found["aurra"] <= 1
  with pytest.raises(errors.UserError, match="has 7 classes and the model 1000"):
    suites.imagenet_a(Answers(logits, examples), Named(7))


def test_sequences_are_put_together_over_batches():
  """Five sequences of four frames; of the second a frame is missing."""
  logits = np.eye(6)[np.random.default_rng(0).integers(0, 6, 20)]
  index = np.delete(np.arange(20), 6)
  for batch in (1, 3, 7, 19):
    examiner = Answers(logits[index], {"index": index, "label": index}, batch=batch)
    found = suites.sequences(examiner, lambda name: Named(), ("rotate",), difficulty=1)
    whole = np.delete(logits.reshape(5, 4, 6), 1, 0)
    expected = np.mean(whole[:, 1:].argmax(-1) != whole[:, :-1].argmax(-1))
    assert found["flip_probability"]["rotate"] == pytest.approx(expected)
    assert found["sequences"]["rotate"] == 4


def test_alexnet_and_imagenets_classes_normalise():
  command = importlib.import_module("effnets.commands.robustness")
  settings = robustness_settings.read(configuration.base().robustness)
  errors_of = figures_lib.ALEXNET_ERRORS
  alexnet = Answers(None, None)
  found = command._aggregated(errors_of, alexnet, settings, {"error": 0.435})
  assert found["mce"] == pytest.approx(1) and found["relative_mce"] == pytest.approx(1)
  assert found["complete"] and found["reference"] == "AlexNet"
  assert found["mean_error"] == pytest.approx(0.788993067)
  # Only the 15 count; without a clean error there is no relative one.
  more = {**errors_of, "spatter": {1: 0.0}}
  assert command._aggregated(more, alexnet, settings, None) == {**found, "relative_mce": None}
  without = {name: by for name, by in errors_of.items() if name != "frost"}
  found = command._aggregated(without, alexnet, settings, None)
  assert found["mce"] == pytest.approx(1) and not found["complete"]
  ten = command._aggregated(errors_of, Answers(None, None, classes=10), settings, None)
  assert ten["mce"] is None and ten["corruption_errors"] is None


def test_names_in_settings():
  config = configuration.base().robustness
  config.corruptions, config.sequences = "all", "snow, snow,tilt"
  config.severities, config.attacks = [5, 1, 5], ""
  found = robustness_settings.read(config)
  assert found.corruptions == (*corruptions.CORRUPTIONS, *corruptions.EXTRA_CORRUPTIONS)
  assert found.sequences == ("snow", "tilt") and found.attacks == ("fgsm", "pgd")
  assert found.severities == (5, 1) and found.suites == ("corruptions", "sequences", "attacks")


def test_a_report_of_nothing_else(tmp_path):
  assert robustness_report.tables_of({}) == []
  assert robustness_chart.draw({}, tmp_path / "x.png", title="") is None
