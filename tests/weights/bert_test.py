"""Imported encoders against Hugging Face's outputs, and what is said of files that do not fit.

tests/oracle/bert_tiny.npz is of transformers' BertModel in float64, with the weights of recipe.py.
"""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from effnets import configuration, data, errors, training, weights
from tests.oracle import recipe

ORACLE = pathlib.Path(__file__).parent.parent / "oracle" / "bert_tiny.npz"
with np.load(ORACLE) as stored:
  REFERENCE = {key: stored[key] for key in stored.files}
CONFIG = json.loads(str(REFERENCE["config"]))
NAMES = json.loads(str(REFERENCE["names"]))
# The same in the words of config.json.
LONG = {
  "model_type": "bert",
  "vocab_size": 1000,
  "hidden_size": 128,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 512,
  "max_position_embeddings": 128,
  "type_vocab_size": 2,
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-12,
  "hidden_dropout_prob": 0.1,
  "attention_probs_dropout_prob": 0.1,
  "initializer_range": 0.02,
}


def filled():
  return {name: recipe.tensor(name, tuple(shape)) for name, shape in NAMES}


def run(loaded, reference):
  inputs = (reference[key] for key in ("ids", "token_type_ids", "mask"))
  return jax.jit(loaded.module.apply, static_argnames="train")(
    loaded.variables, *inputs, train=False
  )


def test_hidden_states_and_pooled_output():
  loaded = weights.from_huggingface_bert(CONFIG, filled())
  assert loaded.report.complete and loaded.report.loaded == len(NAMES)
  leaves = jax.tree.leaves(loaded.variables)
  assert sum(leaf.size for leaf in leaves) == int(REFERENCE["params"])
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
  hidden, pooled = run(loaded, REFERENCE)
  real = REFERENCE["mask"].astype(bool)
  # The rounding of float32; tanh for erf, or another epsilon, is 1e-3.
  np.testing.assert_allclose(hidden[real], REFERENCE["last_hidden"][real], atol=2e-5)
  np.testing.assert_allclose(pooled, REFERENCE["pooled"], atol=2e-5)


def test_the_sheets_own_numbers():
  config = {**CONFIG, "vocab_size": 30, "hidden_size": 8, "intermediate_size": 16}
  config["max_position"] = 16
  shapes = {}
  for name, shape in NAMES:
    plain = name.removeprefix("bert.")
    rows = {"word": 30, "position": 16, "token_type": 2}
    if plain.endswith("_embeddings.weight"):
      (first,) = (n for kind, n in rows.items() if f"{kind}_embeddings.w" in plain)
      shapes[plain] = (first, 8)
    else:
      shapes[plain] = tuple({128: 8, 512: 16}[n] for n in shape)
  state = {}
  for n, name in enumerate(sorted(shapes)):
    i = np.arange(np.prod(shapes[name]), dtype=np.float64)
    state[name] = (0.2 * np.sin(i + 0.5 * n)).reshape(shapes[name])
    state[name] += name.endswith("LayerNorm.weight")
  assert len(state) == 39 and sum(value.size for value in state.values()) == 1672
  loaded = weights.from_huggingface_bert(config, state)
  ids, types = [[2, 5, 9, 3, 11, 12, 3, 0]], [[0, 0, 0, 0, 1, 1, 1, 0]]
  inputs = (np.array(x) for x in (ids, types, [[1] * 7 + [0]]))
  hidden, pooled = loaded.module.apply(loaded.variables, *inputs)
  first = "0.008883 1.072889 0.273224 -0.843834 -2.123892 -0.365913 0.417147 0.321755"
  sixth = "-1.306857 -0.413701 0.091178 1.777946 1.397356 1.096302 -0.784780 -1.067450"
  last = "0.563972 0.508097 -0.561851 -0.101420 0.660967 -0.257175 -0.758115 0.370897"
  for ours, text in ((hidden[0, 0], first), (hidden[0, 6], sixth), (pooled[0], last)):
    np.testing.assert_allclose(ours, np.array(text.split(), float), atol=1e-5)


def _same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
  assert one.module == other.module


def test_every_spelling_gives_the_same_weights():
  plain = weights.from_huggingface_bert(CONFIG, filled())
  state = {}
  for name, value in filled().items():
    name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
    state[name.replace("LayerNorm.bias", "LayerNorm.beta")] = value
  state["embeddings.position_ids"] = np.arange(128)[None]
  state["cls.predictions.transform.dense.weight"] = np.zeros((128, 128))
  state["cls.seq_relationship.bias"] = np.zeros(2)
  other = weights.from_huggingface_bert(LONG, state)
  _same(plain, other)
  assert other.report.replaced and not other.report.leftover
  rounded = weights.from_huggingface_bert(LONG, filled(), dtype="bfloat16")
  assert rounded.module.dtype == "bfloat16"


def _google(state):
  """Returns a state dict under the names and in the layouts of Google's code."""
  found = {}
  for name, value in state.items():
    parts = name.replace("encoder.layer.", "encoder.layer_")
    parts = parts.replace("LayerNorm.weight", "LayerNorm.gamma")
    parts = parts.replace("LayerNorm.bias", "LayerNorm.beta").split(".")
    if parts[-1] == "weight":
      parts = parts[:-1] if parts[-2].endswith("_embeddings") else [*parts[:-1], "kernel"]
      value = value if parts[-1].endswith("_embeddings") else value.T
    found["/".join(parts)] = value
  return found


def test_googles_layout_gives_bit_equal_weights():
  arrays = _google(filled())
  assert "bert/encoder/layer_1/attention/self/query/kernel" in arrays
  slots = {f"{name}/adam_m": value for name, value in arrays.items()}
  more = {"global_step": np.int64(3), "cls/predictions/output_bias": np.zeros(1000), **slots}
  loaded = weights.from_google_bert(CONFIG, {**arrays, **more})
  _same(loaded, weights.from_huggingface_bert(CONFIG, filled()))
  assert not loaded.report.leftover


@pytest.mark.slow
def test_a_folder_of_googles(tmp_path):
  tensorflow = pytest.importorskip("tensorflow")
  arrays = _google(filled())
  with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
    for name, value in arrays.items():
      tensorflow.compat.v1.get_variable(name, initializer=value)
    session.run(tensorflow.compat.v1.global_variables_initializer())
    tensorflow.compat.v1.train.Saver().save(session, str(tmp_path / "bert_model.ckpt"))
  (tmp_path / "bert_config.json").write_text(json.dumps(LONG))
  _same(weights.load_bert(tmp_path), weights.from_huggingface_bert(LONG, filled()))


def test_a_pooler_that_is_missing_starts_anew():
  state = {name: value for name, value in filled().items() if "pooler" not in name}
  loaded = weights.from_huggingface_bert(CONFIG, state, seed=1)
  assert loaded.report.missing == ("pooler.dense.bias", "pooler.dense.weight")
  assert np.abs(loaded.variables["params"]["pooler"]["kernel"]).max() > 0
  hidden, _ = run(loaded, REFERENCE)
  real = REFERENCE["mask"].astype(bool)
  np.testing.assert_allclose(hidden[real], REFERENCE["last_hidden"][real], atol=2e-5)


def _without(name):
  return {key: value for key, value in filled().items() if key != name}


@pytest.mark.parametrize(
  "config,state,words",
  [
    ({**LONG, "vocab_size": 999}, None, r"word_embeddings.weight has shape \(1000, 128\), .*\(999"),
    ({**LONG, "num_hidden_layers": 1}, None, "it has 2 layers, the config says 1"),
    ({**LONG, "num_attention_heads": 3}, None, "heads=3 does not divide"),
    ({**LONG, "hidden_act": "gelo"}, None, "hidden_act='gelo' is not an activation. Nearest: 'gel"),
    ({**LONG, "model_type": "roberta"}, None, "model_type='roberta'; only 'bert' is known"),
    ({**LONG, "hidden_size": "8"}, None, "hidden_size='8' should be a number"),
    ({"vocab_size": 3}, None, r"lacks hidden_size; it has vocab_size"),
    (LONG, {"fc.weight": np.zeros((3, 3))}, "another network: 0 of the 39 tensors needed"),
    (LONG, {}, "an empty one"),
    (
      LONG,
      _without("bert.encoder.layer.1.output.dense.bias"),
      "encoder.layer.1.output.dense.bias is missing",
    ),
  ],
)
def test_what_does_not_fit(config, state, words):
  with pytest.raises(errors.UserError, match=words):
    weights.from_huggingface_bert(config, filled() if state is None else state)


def test_a_vocabulary_of_another_checkpoint(tmp_path):
  with pytest.raises(errors.UserError, match="none of config.json, bert_config.json"):
    weights.load_bert(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(LONG))
  (tmp_path / "vocab.txt").write_text("".join(f"w{i}\n" for i in range(1001)))
  with pytest.raises(errors.UserError, match="has 1001 entries, the checkpoint beside it 1000"):
    weights.load_bert(tmp_path)


def test_a_config_starts_from_a_checkpoints_folder(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(LONG))
  (tmp_path / "vocab.txt").write_text(
    "".join(f"{piece}\n" for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(996))))
  )
  safetensors.numpy.save_file(filled(), tmp_path / "model.safetensors")
  config = configuration.load("configs/bam.py:glue,folder=nowhere")
  weights.configure(config, f"bert:{tmp_path}")
  assert (config.model.depth, config.model.positions, config.model.vocab_size) == (2, 128, 1000)
  assert config.data.options.vocabulary == str(tmp_path / "vocab.txt")
  assert config.model.dtype == "bfloat16" and config.model.dropout_rate == 0.1
  options = config.data.options.to_dict()
  source = data.texts.stand_in(config.data.source, options, vocab_size=1000)
  ready = training.prepare(config, stand_ins={config.data.source: source})
  assert len(source) == 1_080_322  # the sheet's pool
  variables = training.start.variables(config, ready.task)["params"]
  plain = weights.from_huggingface_bert(LONG, filled()).variables["params"]
  jax.tree.map(np.testing.assert_array_equal, variables["backbone"], plain)
  assert variables["task_specific_mnli"]["kernel"].shape == (128, 3)
  with pytest.raises(errors.UserError, match="is an encoder of texts, config.task.name='classif"):
    weights.configure(configuration.base(), f"bert:{tmp_path}")
  with pytest.raises(errors.UserError, match="lacks the checkpoint's folder; write 'bert:DIR'"):
    weights.parse("bert")
