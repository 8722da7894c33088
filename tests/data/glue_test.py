"""GLUE's files, the toy language in them, and how tasks share a training."""

import collections

import numpy as np
import pytest

from effnets import data, errors, streams
from effnets.data import glue, proportions, texts, toy_glue
from effnets.data.toy_glue import SIZES

# Sheet 3.2.
PAPER = {
  "cola": (0.020300, 3, 25_653, 0.863449),
  "mnli": (0.358128, 1, 392_702, 0.995054),
  "mrpc": (0.018096, 3, 22_008, 0.897173),
  "qnli": (0.136418, 1, 108_436, 1.372679),
  "qqp": (0.338220, 1, 363_869, 1.014206),
  "sst": (0.095442, 2, 134_698, 0.773125),
  "sts": (0.025349, 2, 22_996, 1.202754),
  "rte": (0.008047, 4, 9_960, 0.881561),
}


def test_the_papers_copies_and_weights():
  sizes = proportions.PAPER_SIZES
  found, shares = proportions.copies(sizes), proportions.shares(sizes)
  for name, (share, count, pool, weight) in PAPER.items():
    assert shares[name] == pytest.approx(share, abs=5e-7)
    assert (found[name][0], found[name][0] * sizes[name]) == (count, pool)
    assert found[name][1] == pytest.approx(weight, abs=5e-7)
  pool = sum(sizes[name] * found[name][0] for name in sizes)
  assert pool == 1_080_322 and -(-pool // 128) * 6 == 50_646


def test_weights_are_one_on_average():
  sizes = {"a": 1000, "b": 10}
  found = proportions.weights(sizes)
  assert sum(sizes[n] * found[n] for n in sizes) / 1010 == pytest.approx(1)
  assert found["b"] / found["a"] == pytest.approx(100**0.25)
  assert proportions.weights(sizes, -1.0) == {"a": 1.0, "b": 1.0}


def _toy(split="train", **options):
  return data.open_source("toy_glue", split, options=options)


def test_a_stream_in_proportion():
  source = _toy(tasks="rte,mnli,sst", both_orders=False)
  stream = data.ordered(source, seed=3)
  shares = proportions.shares({name: SIZES[name][0] for name in ("rte", "mnli", "sst")})
  seen = collections.Counter()
  places = range(512, 512 + 4096)
  for position in places:
    example = stream[position]
    assert (example["position"] == [0, position]).all() and example["weight"] == 1
    seen[source.tasks[int(example["task"])].name] += 1
  for name, share in shares.items():
    # Blocks are exact but for rounding; two ends are cut, where a draw decides.
    assert seen[name] / 4096 == pytest.approx(share, abs=0.02)
  again = data.ordered(source, seed=3)
  assert (again[777]["ids"] == stream[777]["ids"]).all()
  # Within its share every example comes equally often.
  rte = collections.Counter(
    stream[p]["ids"].tobytes() for p in range(8192) if stream[p]["task"] == 0
  )
  assert len(rte) == SIZES["rte"][0] and max(rte.values()) - min(rte.values()) <= 1


def test_a_pool_of_copies():
  source = _toy(tasks="rte,mnli", sampling="copies", both_orders=False)
  small, large = (SIZES[name][0] for name in ("rte", "mnli"))
  count, weight = proportions.copies({"rte": small, "mnli": large})["rte"]
  assert len(source) == large + count * small and count > 1
  assert source[0]["weight"] == np.float32(weight)
  assert (source[0]["ids"] == source[small]["ids"]).all() and source[small]["task"] == 0
  paper = _toy(tasks="rte,mnli", sampling="copies", sizes="paper")
  assert paper.counts == (4, 1) and paper.weights[0] == pytest.approx(0.881561, abs=5e-7)
  assert _toy(tasks="rte", sampling="copies").counts == (1,)


def test_every_file_reads_back_and_splits_are_disjoint():
  for name, sizes in toy_glue.SIZES.items():
    task = glue.TASKS[name]
    splits = [glue.read(task, split, toy_glue.files().get) for split in ("train", "dev", "test")]
    assert tuple(map(len, splits)) == sizes
    seen = [{(e.first, e.second) for e in split} for split in splits]
    assert tuple(map(len, seen)) == sizes and len(set.union(*seen)) == sum(sizes)
    if task.labels:
      counts = collections.Counter(e.label for e in splits[0])
      assert set(counts) == set(range(len(task.labels)))
      assert min(counts.values()) > 0.3 * sizes[0] * 2 / len(task.labels)
    else:
      assert all(0 <= e.value <= 5 for e in splits[0])


def test_the_language_never_changes():
  text = "".join(f"{name}\n{toy_glue.files()[name]}" for name in sorted(toy_glue.files()))
  assert streams.name_hash(text) == TOY_HASH
  tokenizer = toy_glue.tokenizer()
  for task in toy_glue.SIZES:
    for example in glue.read(glue.TASKS[task], "train", toy_glue.files().get):
      for part in filter(None, (example.first, example.second)):
        assert tokenizer.unknown not in tokenizer.ids(part)


TOY_HASH = 3568828341


def test_nothing_of_the_toy_is_cut():
  for split in glue.SPLITS[:3]:
    source = _toy(split, tasks=",".join(toy_glue.SIZES))
    assert max(int(source[i]["cut"]) for i in range(len(source))) == 0


def test_examples(tmp_path):
  toy_glue.write(tmp_path)
  options = {"vocabulary": str(tmp_path / "vocab.txt"), "tasks": "sts,mnli", "length": 16}
  source = data.open_source(f"glue:{tmp_path}", "train", options=options)
  assert source.num_classes == 4 and source.class_names[0] == "sts:value"
  half = SIZES["sts"][0]
  assert len(source) == 2 * half + SIZES["mnli"][0]
  first, swapped = source.example(0), source.example(half)
  assert (first.first, first.second) == (swapped.second, swapped.first)
  assert (swapped.row, swapped.value) == (half, first.value)
  example = source[0]
  assert example["value"] == np.float32(first.value / 5) and example["label"] == 0
  ids = source.tokenizer.ids(first.first)
  assert example["ids"][0] == source.tokenizer.start and len(example["ids"]) == 16
  total, segment = example["lengths"]
  assert (example["ids"] != source.tokenizer.pad).sum() == total == 16
  assert example["ids"][segment - 1] == source.tokenizer.separator == example["ids"][total - 1]
  assert example["cut"] == len(ids) + len(source.tokenizer.ids(first.second)) - 13 > 0
  dev = data.open_source(f"glue:{tmp_path}", "dev_mismatched", options=options)
  assert [t.name for t in dev.tasks] == ["mnli"] and len(dev) == 200
  assert len(data.open_source(f"glue:{tmp_path}", "diagnostic", options=options)) == 200
  # Batches of such sources: nothing in them is an image.
  batch = next(data.eval_batches(dev, 256))
  assert batch["mask"].sum() == 200 and batch["ids"].shape == (256, 16)
  assert not {"image", "targets"} & batch.keys()
  shapes = data.eval_shapes(dev, 256)
  assert {n: (v.shape, v.dtype) for n, v in shapes.items()} == {
    n: (v.shape, v.dtype) for n, v in batch.items()
  }


def test_hidden_answers_and_submissions(tmp_path):
  toy_glue.write(tmp_path)
  known = glue.read(glue.TASKS["rte"], "test", glue.folder(tmp_path))
  (tmp_path / "answers" / "RTE.tsv").unlink()
  hidden = glue.read(glue.TASKS["rte"], "test", glue.folder(tmp_path))
  assert {e.label for e in known} == {0, 1} and {e.label for e in hidden} == {-1}
  outputs = [np.eye(2)[e.label] for e in known]
  text = glue.submission(glue.TASKS["rte"], [e.index for e in known], outputs)
  assert text == toy_glue.files()["answers/RTE.tsv"]
  sts = glue.submission(glue.TASKS["sts"], ["7", "8", "9"], [[0.5], [1.2], [-0.1]])
  assert sts == "index\tprediction\n7\t2.500\n8\t5.000\n9\t0.000\n"


MNLI = "\t".join(toy_glue._HEADERS["mnli"][0].split())


@pytest.mark.parametrize(
  "name,text,words",
  [
    ("sst", "sentence\tlabels\nfine\t1\n", "f.tsv, line 1: there is no column 'label'; expected"),
    (
      "sst",
      "sentence\tlabel\nfine\t1\nbad\t2\n",
      "f.tsv, line 3: the label '2' is none of '0', '1",
    ),
    ("sst", "sentence\tlabel\nfine\t1\nbad\n", "f.tsv, line 3: 1 columns, expected at least 2"),
    ("cola", "x\t1\t\tfine\nx\tgood\t\tfine\n", "f.tsv, line 2: the label 'good' is none of"),
    ("sts", "sentence1\tsentence2\tscore\na\tb\thigh\n", "line 2: 'high' is no number, as 'score'"),
    ("mnli", f"{MNLI}\n" + "x\t" * 11 + "-\n", "line 2: the label '-' is none of 'contradiction'"),
    ("rte", "", "f.tsv is empty|there is no column"),
    ("rte", "index\tsentence1\tsentence2\tlabel\n", "f.tsv has no examples"),
  ],
)
def test_wrong_files(name, text, words):
  with pytest.raises(errors.UserError, match=words):
    glue.parse(glue.TASKS[name], "train", text, name="f.tsv")


def test_quotes_line_ends_and_a_mark_of_order_are_no_matter():
  head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
  text = head + '1\t2\t3\t"open\tb\u2028c\r\n0\t2\t3\td\t"e"\r\n'
  one, two = glue.parse(glue.TASKS["mrpc"], "train", text, name="f.tsv")
  assert (one.first, one.second, one.label) == ('"open', "b\u2028c", 1)
  assert (two.first, two.second, two.row) == ("d", '"e"', 1)


def test_questions_with_too_few_columns_are_left_out():
  text = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta\n1\t2\t3\ta\tb\t1\n"
  (kept,) = glue.parse(glue.TASKS["qqp"], "train", text, name="f.tsv")
  assert (kept.first, kept.row) == ("a", 1)


def test_a_task_of_ones_own(tmp_path):
  toy_glue.write(tmp_path)
  (tmp_path / "trec").mkdir()
  (tmp_path / "trec" / "train.tsv").write_text("the badi?\tnum\nsome budo?\tloc\n")
  custom = {
    "trec": {"labels": ("num", "loc"), "texts": ("q",), "label": "kind", "columns": ("q", "kind")}
  }
  options = {"tasks": "trec,rte", "custom": custom, "vocabulary": str(tmp_path / "vocab.txt")}
  source = data.open_source(f"glue:{tmp_path}", "train", options=options)
  assert source.class_names[:2] == ("trec:num", "trec:loc") and source.example(1).label == 1
  with pytest.raises(errors.UserError, match="custom.trec.*'label_' is not a field"):
    glue.tasks(["trec"], {"trec": {**custom["trec"], "label_": 1}})


@pytest.mark.parametrize(
  "source,split,options,words",
  [
    ("toy_glue", "validation", {}, "split='validation' is not a split of toy_glue"),
    ("toy_glue", "train", {"tasks": "rtee"}, "tasks='rtee' is not a task. Nearest: 'rte'"),
    ("toy_glue", "train", {"tasks": "rte,rte"}, "names 'rte' twice"),
    ("toy_glue", "train", {"tasks": ""}, "tasks is empty"),
    ("toy_glue", "train", {"lenght": 3}, "'lenght' is not an option"),
    ("toy_glue", "train", {"length": 3}, "length=3 leaves no room"),
    ("toy_glue", "train", {"sampling": "all"}, "sampling='all' is not one of its values"),
    ("toy_glue", "train", {"exponent": 2.0}, "exponent=2.0 should be a number up to 1"),
    ("toy_glue", "diagnostic", {"tasks": "rte"}, "'diagnostic' is a split of mnli"),
    ("glue:nowhere", "train", {}, "there is no such folder"),
    ("glue:", "train", {}, "lacks a path"),
    ("glue:tests", "train", {}, "vocabulary is empty; give the vocab.txt"),
  ],
)
def test_wrong_options(source, split, options, words):
  with pytest.raises(errors.UserError, match=words):
    data.open_source(source, split, options=options)


def test_a_file_that_is_missing(tmp_path):
  toy_glue.write(tmp_path)
  (tmp_path / "RTE" / "train.tsv").unlink()
  options = {"tasks": "rte", "vocabulary": str(tmp_path / "vocab.txt")}
  with pytest.raises(errors.UserError, match="RTE/train.tsv is missing"):
    data.open_source(f"glue:{tmp_path}", "train", options=options)


def _targets(source, number, keep=slice(None)):
  task = source.tasks[number]
  digests = source.digests(number)[keep]
  logits = np.arange(len(digests) * task.units, dtype=np.float32).reshape(-1, task.units)
  return data.targets.Targets(task.name, task.labels, logits, digests, {"teacher": "here"})


def test_targets_are_found_by_their_texts(tmp_path):
  source = _toy(tasks="rte,sts,sst")
  stored = _targets(source, 1, slice(None, None, -1))
  data.targets.write(tmp_path, stored)
  read = data.targets.read(tmp_path)
  assert read.provenance == {"teacher": "here"}
  taught = source.taught({"sts": read})
  count = len(source.examples[1])
  start = SIZES["rte"][0]
  assert taught[start]["targets"].tolist() == [count - 1, 0] and taught[start]["taught"]
  assert taught[start + count - 1]["targets"][0] == 0
  assert not taught[0]["taught"] and "targets" in taught.inputs and "targets" not in source.inputs
  assert "targets" in data.ordered(taught, seed=0)[0]
  assert data.targets.read(tmp_path / "none") is None


def test_targets_that_miss_examples_or_are_damaged(tmp_path):
  source = _toy(tasks="rte,sts,sst")
  with pytest.raises(errors.UserError, match=r"for rte miss 5 of the 80 examples of toy_glue, tr"):
    source.taught({"rte": _targets(source, 0, slice(5, None))})
  with pytest.raises(errors.UserError, match="for sst are of 'rte' with labels"):
    source.taught({"sst": _targets(source, 0)})
  with pytest.raises(errors.UserError, match="'mnli' is not a task of the student"):
    source.taught({"mnli": _targets(source, 0)})
  data.targets.write(tmp_path, _targets(source, 0))
  other = _targets(source, 0, slice(1, None))
  np.savez(tmp_path / "targets.npz", logits=other.logits, digests=other.digests)
  with pytest.raises(errors.UserError, match="targets are damaged"):
    data.targets.read(tmp_path)


def test_names_of_outputs():
  assert len(texts.class_names(glue.tasks(glue.BAM))) == 16
