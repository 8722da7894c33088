"""The compiler is asked for wide vectors where there are any, and never against a given wish."""

import os

import pytest

from effnets.parallel import host


@pytest.fixture()
def cpuinfo(tmp_path, monkeypatch):
  monkeypatch.delenv("XLA_FLAGS")
  path = tmp_path / "cpuinfo"
  path.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f amx_tile\n", encoding="utf-8")
  return path


def test_wide_vectors_are_asked_for_where_there_are_any(cpuinfo):
  assert host.prefer_wide_vectors(cpuinfo=cpuinfo)
  assert os.environ["XLA_FLAGS"] == "--xla_cpu_prefer_vector_width=512"


@pytest.mark.parametrize("flags", ["fpu sse2 avx2", "fpu avx512fp16"])
def test_other_processors_keep_the_default(cpuinfo, flags):
  cpuinfo.write_text(f"flags\t\t: {flags}\n", encoding="utf-8")
  assert not host.prefer_wide_vectors(cpuinfo=cpuinfo)
  assert not host.prefer_wide_vectors(cpuinfo=cpuinfo.with_name("none"))
  assert "XLA_FLAGS" not in os.environ


def test_flags_that_are_set_stay(cpuinfo, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
  assert not host.prefer_wide_vectors(cpuinfo=cpuinfo)
  assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"


def test_programs_of_several_virtual_devices_follow_one_another(monkeypatch):
  set_ = {}
  monkeypatch.setattr(host.jax.config, "update", lambda name, value: set_.update({name: value}))
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")
  assert not host.order_programs() and not set_
  monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
  assert host.order_programs() and set_ == {"jax_cpu_enable_async_dispatch": False}
