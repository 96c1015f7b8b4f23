"""What NVIDIA's compiler makes of every instance, for every generation of GPUs; none is there to run it."""

from __future__ import annotations

import re
from functools import cache

import nvrtc
import pytest
from emulation import Kernels, build, layout_text

from rotary.backends.cuda import parameters as cuda_struct
from rotary.backends.cuda.parameters import INSTANCES

pytestmark = [pytest.mark.cuda, pytest.mark.unsanitized]

ARCHITECTURES = (75, 80, 90, 100, 120)
VECTORS = [name for name in INSTANCES if "vectors" in name]
SAME_LAYOUTS = [
    name for name in VECTORS if "half_half" in name or "interleaved_interleaved" in name
]
# What kernels have to do without: shared memory, barriers, other threads' registers, atomic operations.
NEVER = re.compile(r"(LDS|STS|LDSM|BAR|SHFL|ATOM|ATOMG|ATOMS|RED|LDL|STL)(\.|$)")
STORED = {"float16": ".E.U16", "bfloat16": ".E.U16", "float32": ".E", "float64": ".E.64"}
REGISTERS = 65_536  # of a multiprocessor, and handed out to warps 256 at a time


@cache
def program(architecture, *options):
    """All instances and the layout of their parameter."""
    text = cuda_struct.program(*INSTANCES) + layout_text()
    return nvrtc.compiled(text, architecture, (*cuda_struct.OPTIONS, *options))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def cubin(request):
    return program(request.param)


@pytest.fixture(scope="module")
def kernels(cubin, tmp_path_factory):
    return nvrtc.kernels_of(cubin, tmp_path_factory.mktemp("cubin"))


def test_every_instance_compiles(kernels):
    assert sorted(kernels) == sorted(INSTANCES)


def test_no_register_is_spilled(kernels):
    for name, kernel in kernels.items():
        assert kernel.stack == 0, name
        assert not list(filter(NEVER.match, kernel.instructions)), name


def test_registers_are_enough_for_the_blocks_that_are_promised(kernels):
    for name, kernel in kernels.items():
        few = name.endswith("floats") or (name not in SAME_LAYOUTS and name in VECTORS)
        warps = (2 if few else 3) * 256 // 32
        of_a_warp = -(-kernel.registers * 32 // 256) * 256
        assert warps * of_a_warp <= REGISTERS, (name, kernel.registers)


def test_vectors_are_stored_whole(kernels):
    for name, kernel in kernels.items():
        # Turing says besides that all may see what is stored.
        stores = {
            code.removeprefix("STG").removesuffix(".SYS")
            for code in kernel.instructions
            if code.startswith("STG")
        }
        if name in SAME_LAYOUTS:
            assert stores == {".E.128"}, name
        elif name in VECTORS:
            assert stores <= {".E.128", ".E.64"}, name
        else:
            assert stores == {STORED[name.split("_")[1]]}, name


def test_vectors_are_loaded_whole(kernels):
    # Two vectors of each of two heads, and one of those that are only copied.
    for name in SAME_LAYOUTS:
        loads = [code for code in kernels[name].instructions if code.startswith("LDG")]
        assert sum(code.startswith("LDG.E.128") for code in loads) >= 5, name


def test_subnormal_floats_count_as_zero_and_doubles_do_not(kernels):
    """The emulation does likewise."""
    computed = re.compile(r"[FD](ADD|MUL|FMA)\b")
    for name, kernel in kernels.items():
        for code in filter(computed.match, kernel.instructions):
            assert (".FTZ" in code) == code.startswith("F"), name


def test_parameters_are_where_the_host_puts_them(cubin, kernels):
    assert {kernel.parameter for kernel in kernels.values()} == {cuda_struct.SIZE}
    wanted = layout()
    assert nvrtc.constant(cubin, "rotary_layout", len(wanted)) == wanted


def test_parameters_are_where_the_emulation_reads_them():
    assert Kernels(build()).layout() == layout()


def layout():
    """The struct as NumPy lays it out: its size, then offset and size of every field."""
    array, shape = cuda_struct.PARAMETERS.fields["arrays"][0].subdtype
    numbers = [cuda_struct.PARAMETERS.itemsize]
    for i in range(*shape):
        for name in cuda_struct.ARRAY_FIELDS:
            kind, offset = array.fields[name][:2]
            numbers += [i * array.itemsize + offset, kind.itemsize]
    for name in cuda_struct.FIELDS:
        kind, offset = cuda_struct.PARAMETERS.fields[name][:2]
        numbers += [offset, kind.itemsize]
    return numbers


def test_packed_numbers_are_where_fields_are():
    import numpy as np

    count = cuda_struct.ARRAYS * len(cuda_struct.ARRAY_FIELDS) + len(cuda_struct.FIELDS)
    given = np.frombuffer(cuda_struct.PACK.pack(*range(count)), cuda_struct.PARAMETERS)[0]
    found = [value for array in given["arrays"].tolist() for value in array]
    assert [*found, *given.tolist()[1:]] == list(range(count))


def test_nothing_is_fused_that_is_not_written_so(tmp_path):
    """Else the bits of the emulation would not be those of the GPU."""
    written = nvrtc.kernels_of(program(90, "-fmad=false"), tmp_path)
    for name, kernel in nvrtc.kernels_of(program(90), tmp_path).items():
        assert fused(kernel) == fused(written[name]), name


def fused(kernel):
    """How many fused products there are, by type."""
    return [sum(code.startswith(kind) for code in kernel.instructions) for kind in ("FFMA", "DFMA")]
