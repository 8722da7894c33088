"""The tokenizer against the goldens of BERT's own."""

import pytest

from effnets import errors
from effnets.data import wordpiece


@pytest.mark.parametrize(
  "text,words",
  [
    ("Héllo, Wörld!  don't", "hello , world ! don ' t"),
    ("你好ab", "你 好 ab"),
    ("a\u200bb c\u00add", "ab cd"),
    ("$5.00 x^2 [SEP] U.S.A.", "$ 5 . 00 x ^ 2 [ sep ] u . s . a ."),
    ("\ttab\u00a0nbsp\u3000wide", "tab nbsp wide"),
    ("İstanbul straße", "istanbul straße"),
    ("cafe\u0301 — dash…", "cafe — dash …"),
    ("nul\x00l\ufffd bell\x07 line\u2028sep", "null bell line sep"),
    ("", ""),
    ("カタカナ 한글", "カタカナ 한글"),
  ],
)
def test_basic(text, words):
  expected = words.split(" ") if words else []
  # Kana and Hangul lose what NFD makes of them: voiced marks; syllables come apart.
  if "カ" in text:
    assert wordpiece.basic(text, lower_case=False) == expected
  else:
    assert wordpiece.basic(text) == expected


def test_cased_keeps_case_and_accents():
  assert wordpiece.basic("Héllo, Ä", lower_case=False) == ["Héllo", ",", "Ä"]


def _tokenizer(*pieces, **settings):
  names = [*wordpiece.SPECIAL, *pieces]
  return wordpiece.Tokenizer({name: i for i, name in enumerate(names)}, **settings)


@pytest.mark.parametrize(
  "word,pieces",
  [
    ("unaffable", "un ##aff ##able"),
    ("runnning", "[UNK]"),
    ("running", "runn ##ing"),
    ("aaa", "a ##a ##a"),
    ("a" * 200, " ".join(["a"] + ["##a"] * 199)),
    ("a" * 201, "[UNK]"),
  ],
)
def test_pieces(word, pieces):
  tokenizer = _tokenizer("un", "##aff", "##able", "runn", "##ing", "a", "##a")
  assert tokenizer.tokens(word) == pieces.split()
  assert tokenizer.ids(word) == [tokenizer.vocabulary[p] for p in pieces.split()]
  # Twice: the second comes from what is remembered.
  assert tokenizer.ids(word) == [tokenizer.vocabulary[p] for p in pieces.split()]


def test_hugging_face_differs():
  tokenizer = _tokenizer("a", "##a", "[", "sep", "]", longest=100, protected=True)
  assert tokenizer.tokens("a" * 101) == ["[UNK]"]
  assert tokenizer.tokens("a [SEP]a") == ["a", "[SEP]", "a"]
  assert tokenizer.ids("[SEP]") == [tokenizer.separator]
  assert _tokenizer("[", "sep", "]").tokens("[SEP]") == ["[", "sep", "]"]


def test_sequences():
  tokenizer = _tokenizer("a", "b", "c")
  a, b, c = (tokenizer.vocabulary[x] for x in "abc")
  start, end = tokenizer.start, tokenizer.separator
  assert wordpiece.sequence(tokenizer, "a b c", None, length=8) == ([start, a, b, c, end], 5, 0)
  assert wordpiece.sequence(tokenizer, "a b c", None, length=4) == ([start, a, b, end], 4, 1)
  assert wordpiece.sequence(tokenizer, "a b", "c", length=6) == ([start, a, b, end, c, end], 4, 0)
  assert wordpiece.sequence(tokenizer, "a b", "c c", length=6) == ([start, a, b, end, c, end], 4, 1)


def test_vocabulary_files(tmp_path):
  file = tmp_path / "vocab.txt"
  file.write_bytes("[PAD]\n[UNK] \r\n[CLS]\n[SEP]\n \u2028\nend\n".encode())
  found = wordpiece.read_vocabulary(file)
  assert found["[UNK]"] == 1 and found["end"] == 5 and found[""] == 4
  assert wordpiece.read_vocabulary(file, stripped=False)[" \u2028"] == 4
  assert len(wordpiece.Tokenizer(found)) == 6
  file.write_text("[PAD]\n[UNK]\n")
  with pytest.raises(errors.UserError, match=r"lacks \[CLS\], \[SEP\]"):
    wordpiece.Tokenizer(wordpiece.read_vocabulary(file))
  with pytest.raises(errors.UserError, match="cannot be read"):
    wordpiece.read_vocabulary(tmp_path / "none.txt")
