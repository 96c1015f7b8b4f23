"""What CuPy will ask the compiler for on a machine with a GPU."""

from __future__ import annotations

import nvrtc
import pytest

from rotary.backends.cuda import parameters as cuda_struct

pytestmark = [pytest.mark.cuda, pytest.mark.unsanitized]


class ReadyToLoadError(Exception):
    """A program went as far as it can without a driver."""


@pytest.fixture
def made(monkeypatch, tmp_path):
    """The options of every program that CuPy compiles, which it keeps in a folder of the test's own.

    What it asks the GPU for is its architecture, and to load what it has compiled.
    """
    from cupy.cuda import compiler
    from cupy.cuda._compiler_cache import DiskKernelCacheBackend

    class Module(compiler.function.Module):
        def load(self, cubin):
            raise ReadyToLoadError(cubin)

    options_of = []
    original = compiler._NVRTCProgram.compile

    def recorded(program, options=(), log_stream=None):
        if "ROTARY_KERNEL" in program.src:  # not the empty file by which CuPy knows the compiler
            options_of.append(options)
        return original(program, options, log_stream)

    def architecture(arch):
        return f"-arch=sm_{arch}", "cubin"

    monkeypatch.setattr(compiler.function, "Module", Module)
    monkeypatch.setattr(compiler._NVRTCProgram, "compile", recorded)
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", architecture)
    monkeypatch.setattr(compiler, "_kernel_cache_backend", DiskKernelCacheBackend(str(tmp_path)))
    return options_of


def test_cupys_own_options_compile_the_source(made):
    from cupy._core import core
    from cupy.cuda import compiler

    name = cuda_struct.INSTANCES[0]
    options = core.assemble_cupy_compiler_options(cuda_struct.OPTIONS)
    for _ in range(2):
        with pytest.raises(ReadyToLoadError) as found:
            compiler._compile_module_with_cache(cuda_struct.program(name), options, arch="90")
        assert name.encode() in found.value.args[0]
    # The second time it comes from disk.
    (asked,) = made
    assert {*nvrtc.OPTIONS, *cuda_struct.OPTIONS} <= set(asked)
