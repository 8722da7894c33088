"""Config arguments, the workdir's claim, and what they refuse."""

import pytest

from effnets import configuration, errors


def test_arguments_are_words_and_typed_values():
  parsed = configuration.arguments(
    "b7,seed=3,rate=0.5,on=false", words=["b7", "imagenet"], seed=0, rate=1.0, on=True, other="x"
  )
  assert parsed.words == ("b7",)
  assert (parsed.seed, parsed.rate, parsed.on, parsed.other) == (3, 0.5, False, "x")


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("imagnet", r"argument='imagnet' is not a word.*Nearest: 'imagenet'"),
    ("sed=1", r"argument='sed' is not a key.*Nearest: 'seed'"),
    ("seed=x", r"seed='x' is not of type int"),
  ],
)
def test_wrong_arguments(arg, message):
  with pytest.raises(errors.UserError, match=message):
    configuration.arguments(arg, words=["imagenet"], seed=0)


def test_a_step_draws_labelled_and_unlabelled_examples():
  config = configuration.base()
  config.batch_size = 128
  assert configuration.step_batch(config) == (128, 0)
  config.data.unlabelled.update({"source": "x", "ratio": 5.0})
  assert configuration.step_batch(config) == (128, 640)
  config.data.unlabelled.ratio = 0.3
  assert configuration.step_batch(config) == (128, 39)


@pytest.mark.parametrize(
  ("batch", "ratio", "count"), [(30, 0.1, 3), (128, 5.0, 640), (10, 0.25, 3), (32, 0.0, 0)]
)
def test_unlabelled_examples_are_rounded_up(batch, ratio, count):
  config = configuration.base()
  config.batch_size = batch
  config.data.unlabelled.update({"source": "digits", "ratio": ratio})
  assert configuration.step_batch(config) == (batch, count)
