"""What is read off a compiled program, against programs whose costs are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from effnets.parallel import programs, slices

CPU = slices.resolve("cpu:8")


def _lowered(scale=1.0):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, P("data")))
  w = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=NamedSharding(mesh, P()))
  return jax.jit(lambda x, w: scale * (x @ w).sum(0)).lower(x, w)


def test_a_product_costs_what_it_must(tmp_path):
  facts = programs.inspect(_lowered(), CPU, folder=tmp_path)
  assert facts.fits
  # Each device: 8 rows of 32 and all of 32 x 16, float32; the sum of 16 is reduced once.
  assert facts.arguments == 4 * (8 * 32 + 32 * 16)
  assert facts.collectives == {"all-reduce": (1, 4 * 16)}
  products = 2 * 8 * 32 * 16
  assert products <= facts.flops <= 1.2 * products
  assert facts.memory >= facts.arguments


def test_figures_are_kept_by_the_program(tmp_path, monkeypatch):
  first = programs.inspect(_lowered(), CPU, folder=tmp_path)
  monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: pytest.fail("compiled again"))
  assert programs.inspect(_lowered(), CPU, folder=tmp_path) == first
  for change in (lambda: monkeypatch.setenv("LIBTPU_INIT_ARGS", "--other"), None):
    lowered = _lowered() if change else _lowered(scale=2.0)
    if change:
      change()
    with pytest.raises(pytest.fail.Exception):
      programs.inspect(lowered, CPU, folder=tmp_path)


def test_no_room_is_an_answer_and_other_accidents_are_not(tmp_path, monkeypatch):
  def refuse(message):
    def compile_(self):
      raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)

  refuse("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 17.10G of 15.75G hbm. Exceeded")
  facts = programs.inspect(_lowered(), CPU, folder=tmp_path)
  assert not facts.fits and facts.reason == "Used 17.10G of 15.75G hbm"
  refuse("INTERNAL: something else")
  with pytest.raises(jax.errors.JaxRuntimeError):
    programs.inspect(_lowered(3.0), CPU, folder=tmp_path)


def test_what_the_compiler_cannot_print_keeps_its_other_figures(tmp_path, monkeypatch):
  def refuse(self):
    raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nmore")

  monkeypatch.setattr(jax.stages.Compiled, "as_text", refuse)
  facts = programs.inspect(_lowered(), CPU, folder=tmp_path)
  assert facts.fits and facts.flops > 0 and facts.memory > 0
  assert not facts.program and not facts.collectives


def test_messages_are_counted_with_their_bytes():
  text = """
  %a = f32[8,4]{1,0} all-reduce(f32[8,4]{1,0} %x), channel_id=1, to_apply=%sum
  %b = (f32[16]{0}, bf16[2,3]{1,0}) all-reduce(%y, %z), to_apply=%sum
  %c = (f32[4,2]{1,0}, f32[16,2]{1,0}) all-gather-start(%w), dimensions={0}
  %d = f32[16,2]{1,0} all-gather-done(%c)
  %e = (bf16[5]{0:T(128)}, bf16[5]{0}, u32[], u32[]) collective-permute-start(%v)
  %f = f32[8]{0} fusion(%a, %b), calls=%all-reduce.clone
  """
  assert programs.collectives(text) == {
    "all-reduce": (2, 8 * 4 * 4 + 16 * 4 + 2 * 3 * 2),
    "all-gather": (1, 16 * 2 * 4),
    "collective-permute": (1, 5 * 2),
  }


def test_the_fingerprint_leaves_out_where_lines_stand():
  one = 'HloModule m\n%a = f32[] add(%x, %y), metadata={op_name="f" source_line=3}\n'
  assert programs.fingerprint(one) == programs.fingerprint(one.replace("line=3", "line=4"))
  assert programs.fingerprint(one) != programs.fingerprint(one.replace("add", "multiply"))
