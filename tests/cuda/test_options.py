"""What CuPy will ask the compiler for on a machine with a GPU."""

from __future__ import annotations

import nvrtc
import pytest

from rotary.backends import cuda_struct

pytestmark = [pytest.mark.cuda, pytest.mark.unsanitized]


@pytest.fixture
def asked(monkeypatch):
    """The options of every program that CuPy compiles; asking for the GPU's architecture would need one."""
    from cupy.cuda import compiler

    found = []
    original = compiler._NVRTCProgram.compile

    def recorded(program, options=(), log_stream=None):
        found.append(options)
        return original(program, options, log_stream)

    monkeypatch.setattr(compiler._NVRTCProgram, "compile", recorded)
    monkeypatch.setattr(
        compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: (f"-arch=sm_{arch}", "cubin")
    )
    return found


class ReadyToLoadError(Exception):
    """A program went as far as it can without a driver."""


def test_cupys_own_options_compile_the_source(asked, monkeypatch):
    from cupy._core import core
    from cupy.cuda import compiler

    class Module(compiler.function.Module):
        def load(self, cubin):
            raise ReadyToLoadError(cubin)

    monkeypatch.setattr(compiler.function, "Module", Module)
    name = cuda_struct.INSTANCES[0]
    options = core.assemble_cupy_compiler_options(cuda_struct.OPTIONS)
    with pytest.raises(ReadyToLoadError) as found:
        compiler._compile_module_with_cache(cuda_struct.program(name), options, arch="90")
    assert name.encode() in found.value.args[0]
    assert {*nvrtc.OPTIONS, *cuda_struct.OPTIONS} <= set(asked[-1])
