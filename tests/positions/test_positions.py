"""Positions from masks, packed sequences, grids, clocks and slices: exact, or refused."""

from __future__ import annotations

import copy
import datetime as dt
import importlib
import pickle
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from helpers import modules
from hypothesis import given
from hypothesis import strategies as st

from rotary import positions
from rotary._lib.numbers import as_positions
from rotary.positions import Clock, from_mask, grid, ragged, timestamps, zigzag

LOWEST, HIGHEST = -(2**63), 2**63 - 1
UTC = dt.timezone.utc  # noqa: UP017  (the name that users write)
int64s = st.integers(LOWEST, HIGHEST)


def same(actual, expected, dtype=np.int64):
    """Assert that an array has these values, in this dtype."""
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, np.array(expected, dtype=dtype), strict=True)


def test_public_names():
    assert positions.__all__ == sorted(positions.__all__)
    assert set(positions.__all__) == {
        "Audio", "Clock", "DualChunk", "Image", "Mixed", "NearFar", "Text", "Video", "dual_chunk",
        "from_mask", "grid", "mixed", "ragged", "rerope", "self_extend", "steps", "timestamps",
        "zigzag",
    }  # fmt: skip


class TestFromMask:
    def test_padding_on_either_side(self):
        mask = np.array([[1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
        same(from_mask(mask), [[0, 1, 2, 0], [0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 0, 0]])

    def test_padding_between_tokens_is_not_counted(self):
        same(from_mask(np.array([1, 0, 0, 1, 1, 0, 1]), padding=-7), [0, -7, -7, 1, 2, -7, 3])

    @pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.int64, np.uint64])
    def test_every_integer_dtype(self, dtype):
        mask = np.array([[0, 1, 1]], dtype)
        before = mask.copy()
        same(from_mask(mask, padding=5), [[5, 0, 1]])
        np.testing.assert_array_equal(mask, before)

    def test_long_rows_do_not_overflow_the_dtype_of_the_mask(self):
        same(from_mask(np.ones(1000, np.int8)), np.arange(1000))

    def test_lists_equal_numpy_arrays(self):
        same(from_mask([[0, 1], [1, 1]]), [[0, 0], [0, 1]])
        same(from_mask([True, True]), [0, 1])

    @pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
    def test_empty(self, shape):
        same(from_mask(np.ones(shape, bool)), np.zeros(shape))

    @pytest.mark.parametrize("padding", [LOWEST, HIGHEST, np.int32(-1)])
    def test_padding_is_any_position(self, padding):
        same(from_mask(np.array([False, True]), padding=padding), [padding, 0])

    @given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
    def test_attended_tokens_have_consecutive_positions_from_zero(self, rows):
        mask = np.array(rows)
        actual = from_mask(mask, padding=-1)
        for row, attended in zip(actual, mask, strict=True):
            same(row[attended], np.arange(attended.sum()))
            assert (row[~attended] == -1).all()

    @pytest.mark.parametrize(
        "module",
        modules("torch", "jax.numpy", "array_api_strict", "dask.array", "mlx.core", "ndonnx"),
    )
    @pytest.mark.parametrize("kind", ["bool", "int32"])
    def test_other_libraries_get_their_own_arrays(self, module, kind):
        library = importlib.import_module(module)
        mask = np.array([[1, 1, 0], [0, 1, 1]], kind)
        theirs = library.asarray(mask) if hasattr(library, "asarray") else library.array(mask)
        actual = from_mask(theirs, padding=-1)
        assert type(actual) is type(theirs)
        values = actual.unwrap_numpy() if module == "ndonnx" else np.asarray(actual)
        same(values, [[0, 1, -1], [-1, 0, 1]], np.int32 if module == "jax.numpy" else np.int64)

    @pytest.mark.parametrize(
        "module", modules("torch", "jax.numpy", "array_api_strict", "mlx.core")
    )
    def test_other_libraries_are_read_on_the_host(self, module):
        library = importlib.import_module(module)
        make = getattr(library, "asarray", library.array if hasattr(library, "array") else None)
        with pytest.raises(ValueError, match="`mask` must contain 0 and 1 only, got 2 at index 3"):
            from_mask(make(np.array([0, 1, 1, 2], np.int32)))

    @pytest.mark.library("dask")
    def test_dask_computes_nothing(self):
        array = importlib.import_module("dask.array")

        def fail(block):
            raise AssertionError(block)

        mask = array.ones((2, 4), dtype=int, chunks=(1, 2)).map_blocks(
            fail, dtype=int, meta=np.ones(())
        )
        assert from_mask(mask).shape == (2, 4)
        chunked = array.from_array(np.array([[0, 1, 1, 1], [1, 1, 1, 0]]), chunks=(1, 2))
        same(from_mask(chunked).compute(), [[0, 0, 1, 2], [0, 1, 2, 0]])

    @pytest.mark.library("jax")
    def test_jax_under_jit_and_vmap(self):
        jax = importlib.import_module("jax")
        mask = jax.numpy.array([[0, 1, 2], [1, 1, 0]])  # not looked into: 2 is attended
        for traced in jax.jit(from_mask), jax.vmap(from_mask):
            same(np.asarray(traced(mask)), [[0, 0, 1], [0, 1, 0]], np.int32)

    @pytest.mark.library("jax")
    def test_padding_outside_int32_is_refused(self):
        jax = importlib.import_module("jax")

        with (
            jax.enable_x64(False),
            pytest.raises(ValueError, match="`padding` must be within int32"),
        ):
            from_mask(jax.numpy.ones((1, 2), bool), padding=2**40)

    @pytest.mark.library("jax")
    def test_jax_with_64_bits(self):
        jax = importlib.import_module("jax")
        with jax.enable_x64(True):
            assert from_mask(jax.numpy.array([True])).dtype == np.int64

    @pytest.mark.library("torch")
    def test_torch_transformed(self):
        torch = importlib.import_module("torch")
        mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
        same(torch.func.vmap(from_mask)(mask).numpy(), [[0, 0, 1], [0, 1, 0]])
        assert from_mask(mask.to("meta")).shape == (2, 3)

    @pytest.mark.library("torch")
    def test_fake_tensors_are_not_read(self):
        fakes = importlib.import_module("torch._subclasses.fake_tensor")
        torch = importlib.import_module("torch")
        with fakes.FakeTensorMode():
            assert from_mask(torch.full((2, 3), 7)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.ones(3), "`mask` must be an array of bool, .*float64"),
            (np.array([0.0, -np.inf], np.float32), "`mask` must be .*float32"),
            (np.ones(3, ml_dtypes.bfloat16), "`mask` must be .*bfloat16"),
            (np.ones(3, complex), "`mask` must be .*complex128"),
            (np.array(["1", "0"]), "`mask` must be .*U1"),
            (np.array([None]), "`mask` must be .*object"),
            ([0.5, 1.0], "`mask` must be .*float64"),
            (None, "`mask` must be .*NoneType"),
            (3, "`mask` must be .*int"),
            ("11", "`mask` must be .*str"),
            (np.ma.ones(3, int), "`mask` must be .*MaskedArray"),
            (np.ones((2, 3), int).view(np.matrix), "`mask` must be .*matrix"),
        ],
    )
    def test_wrong_kinds(self, mask, message):
        with pytest.raises(TypeError, match=message):
            from_mask(mask)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.array([0, 1, 2]), "`mask` must contain 0 and 1 only, got 2 at index 2"),
            (
                np.array([[0, 1], [-1, 1]]),
                r"`mask` must contain 0 and 1 only, got -1 at index \(1, 0\)",
            ),
            (np.array(True), r"`mask` must have shape \(B, S\) or \(S,\), got 0 axes"),
            (np.ones((1, 1, 3, 3), bool), "`mask` must have shape .* got 4 axes"),
            ([[1], [1, 1]], "`mask` must be an array"),
        ],
    )
    def test_wrong_values(self, mask, message):
        with pytest.raises(ValueError, match=message):
            from_mask(mask)

    @pytest.mark.parametrize("padding", [0.0, True, None, "0", [0, 0]])
    def test_padding_is_an_integer(self, padding):
        with pytest.raises(TypeError, match="`padding` must be an integer"):
            from_mask(np.ones(2, bool), padding=padding)

    @pytest.mark.parametrize("padding", [LOWEST - 1, HIGHEST + 1])
    def test_padding_is_within_int64(self, padding):
        with pytest.raises(ValueError, match=r"`padding` must .* within int64"):
            from_mask(np.ones(2, bool), padding=padding)


class TestRagged:
    @given(
        lengths=st.lists(st.integers(0, 9), max_size=6),
        data=st.data(),
        make=st.sampled_from([list, tuple, np.array]),
    )
    def test_concatenated_ranges(self, lengths, data, make):
        bounds = np.cumsum([0, *lengths])
        offsets = data.draw(
            st.one_of(
                st.integers(-(2**62), 2**62),
                st.lists(
                    st.integers(-(2**62), 2**62), min_size=len(lengths), max_size=len(lengths)
                ),
            )
        )
        each = offsets if isinstance(offsets, list) else [offsets] * len(lengths)
        expected = [o + i for o, n in zip(each, lengths, strict=True) for i in range(n)]
        offset = offsets if isinstance(offsets, int) else np.array(offsets, np.int64)
        same(ragged(make(bounds.tolist()), offset=offset), expected)

    @pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint32, np.uint64, ">i4"])
    def test_every_integer_dtype(self, dtype):
        same(ragged(np.array([0, 2, 3], dtype)), [0, 1, 0])

    def test_float_offsets_give_float64(self):
        same(ragged([0, 2, 3], offset=0.5), [0.5, 1.5, 0.5], np.float64)
        same(ragged([0, 2, 3], offset=[1, 0.25]), [1.0, 2.0, 0.25], np.float64)
        same(ragged([0, 2, 3], offset=np.float32(2)), [2.0, 3.0, 2.0], np.float64)

    def test_empty(self):
        same(ragged([0]), [])
        same(ragged([0], offset=[]), [], np.float64)
        same(ragged([0, 0, 0], offset=[HIGHEST, 1]), [])

    @pytest.mark.library("torch")
    def test_torch_and_ranges(self):
        torch = importlib.import_module("torch")
        same(ragged(torch.tensor([0, 2, 3], dtype=torch.int32)), [0, 1, 0])
        same(ragged(range(0, 6, 3)), [0, 1, 2])

    def test_the_ends_of_int64(self):
        same(ragged([0, 2], offset=HIGHEST - 1), [HIGHEST - 1, HIGHEST])
        same(ragged([0, 2, 2], offset=[LOWEST, HIGHEST]), [LOWEST, LOWEST + 1])
        with pytest.raises(
            ValueError, match=f"`offset` must .* within int64, got {HIGHEST + 1} as the"
        ):
            ragged([0, 1, 3], offset=[0, HIGHEST])
        with pytest.raises(ValueError, match="`offset` must"):
            ragged([0, 2000], offset=np.nextafter(2.0**63, 0))

    @pytest.mark.parametrize(
        ("cu_seqlens", "offset", "error", "message"),
        [
            ([0.0, 2.0], 0, TypeError, "`cu_seqlens` must be integers, got float64"),
            ([False, True], 0, TypeError, "`cu_seqlens` must be integers or floats, got bool"),
            (None, 0, TypeError, "`cu_seqlens` must be integers"),
            ("012", 0, TypeError, "`cu_seqlens` must be integers"),
            ([], 0, ValueError, r"`cu_seqlens` must have shape \(n \+ 1,\)"),
            (3, 0, ValueError, r"`cu_seqlens` must have shape \(n \+ 1,\), got \(\)"),
            ([[0, 2]], 0, ValueError, r"`cu_seqlens` must have shape .* got \(1, 2\)"),
            ([1, 2], 0, ValueError, "`cu_seqlens` must start at 0, got 1"),
            ([-1, 2], 0, ValueError, "`cu_seqlens` must start at 0, got -1"),
            ([0, 3, 2], 0, ValueError, "`cu_seqlens` must not decrease, got 2 after 3"),
            ([0, HIGHEST, LOWEST], 0, ValueError, "`cu_seqlens` must not decrease"),
            ([0, 2**63], 0, ValueError, "`cu_seqlens` must keep positions within int64"),
            (
                [0, 2, 3],
                [1],
                ValueError,
                r"`offset` must be one number, or .* \(2,\), got shape \(1,\)",
            ),
            (
                [0, 2, 3],
                [[1, 2]],
                ValueError,
                "`offset` must be one number, or one for each sequence",
            ),
            ([0, 2], None, TypeError, "`offset` must be integers or floats"),
            ([0, 2], True, TypeError, "`offset` must be integers or floats"),
            ([0, 2], "1", TypeError, "`offset` must be integers or floats"),
            ([0, 2], np.nan, ValueError, "`offset` must be finite"),
            ([0, 2], np.inf, ValueError, "`offset` must be finite"),
            ([0, 2], 2**63, ValueError, "`offset` must keep positions within int64"),
            ([0, 2], np.datetime64("2024"), TypeError, "positions.timestamps converts times"),
        ],
    )
    def test_refused(self, cu_seqlens, offset, error, message):
        with pytest.raises(error, match=message):
            ragged(cu_seqlens, offset=offset)


class TestGrid:
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    def test_cells_are_in_c_order(self, sizes):
        same(grid(*sizes), np.indices(sizes).reshape(len(sizes), -1))

    def test_start_and_step_stay_integers(self):
        same(grid(2, 2, start=5, step=-3), [[5, 5, 2, 2], [5, 2, 5, 2]])
        same(grid(2, 2, start=[5, 0], step=(0, 14)), [[5, 5, 5, 5], [0, 14, 0, 14]])
        same(grid(np.int32(2), start=np.array([7], np.uint8)), [[7, 8]])

    def test_any_float_gives_float64(self):
        same(grid(3, step=0.5), [[0.0, 0.5, 1.0]], np.float64)
        same(grid(2, 2, start=[1.0, 2]), [[1, 1, 2, 2], [2, 3, 2, 3]], np.float64)

    @given(size=st.integers(1, 50), start=int64s, step=st.integers(-(2**61), 2**61))
    def test_positions_are_exact_or_refused(self, size, start, step):
        expected = [start + step * i for i in range(size)]
        if LOWEST <= expected[-1] <= HIGHEST:
            same(grid(size, start=start, step=step), [expected])
        else:
            with pytest.raises(
                ValueError, match=r"`start` must .* within int64, got .* as the last"
            ):
                grid(size, start=start, step=step)

    def test_empty_grids_have_no_range_errors(self):
        assert grid(0, 3, start=HIGHEST).shape == (2, 0)

    @pytest.mark.parametrize(
        ("sizes", "options", "error", "message"),
        [
            ((), {}, ValueError, "`sizes` must have at least one number"),
            (((2, 3),), {}, TypeError, r"`sizes\[0\]` must be an integer"),
            ((2, 3.0), {}, TypeError, r"`sizes\[1\]` must be an integer, got 3.0"),
            ((True,), {}, TypeError, r"`sizes\[0\]` must be an integer"),
            ((2, -1), {}, ValueError, r"`sizes` must not be negative, got \(2, -1\)"),
            (
                (2, 3),
                {"start": [1]},
                ValueError,
                r"`start` must be one number, or .* \(2,\), got shape \(1,\)",
            ),
            ((2, 3), {"step": [[1, 2]]}, ValueError, "`step` must be one number, or one per axis"),
            ((2,), {"start": "0"}, TypeError, "`start` must be integers or floats"),
            ((2,), {"step": None}, TypeError, "`step` must be integers or floats"),
            ((2,), {"step": True}, TypeError, "`step` must be integers or floats"),
            ((2,), {"step": np.nan}, ValueError, "`step` must be finite"),
            ((2,), {"start": 2**63}, ValueError, "`start` must keep positions within int64"),
            ((5,), {"step": 4e18}, ValueError, "`start` must keep positions within int64"),
        ],
    )
    def test_refused(self, sizes, options, error, message):
        with pytest.raises(error, match=message):
            grid(*sizes, **options)


class TestZigzag:
    @given(world=st.integers(1, 8), chunk=st.integers(0, 5))
    def test_the_ranks_have_all_tokens_once(self, world, chunk):
        length = 2 * world * chunk
        parts = [zigzag(length, rank=rank, world=world) for rank in range(world)]
        same(np.sort(np.concatenate(parts)), np.arange(length))
        for rank, part in enumerate(parts):
            assert part.shape == (length // world,)
            chunks = np.arange(length).reshape(2 * world, chunk)
            same(part, np.concatenate([chunks[rank], chunks[2 * world - 1 - rank]]))

    @given(world=st.integers(1, 8), chunk=st.integers(1, 5))
    def test_all_ranks_have_equal_causal_work(self, world, chunk):
        work = {int(zigzag(2 * world * chunk, rank=r, world=world).sum()) for r in range(world)}
        assert len(work) == 1

    @pytest.mark.parametrize(
        ("length", "rank", "world", "error", "message"),
        [
            (6, 0, 2, ValueError, "`length` must be a multiple of 2 \\* `world` = 4, got 6"),
            (-4, 0, 2, ValueError, "`length` must be a multiple"),
            (8, 2, 2, ValueError, "`rank` must be at least 0 and below `world` = 2, got 2"),
            (8, -1, 2, ValueError, "`rank` must be at least 0"),
            (8, 0, 0, ValueError, "`world` must be at least 1"),
            (2**64, 0, 2**63, ValueError, "`length` must keep positions within int64"),
            (8.0, 0, 2, TypeError, "`length` must be an integer"),
            (8, 0.0, 2, TypeError, "`rank` must be an integer"),
            (8, 0, "2", TypeError, "`world` must be an integer"),
            (8, False, 2, TypeError, "`rank` must be an integer"),
        ],
    )
    def test_refused(self, length, rank, world, error, message):
        with pytest.raises(error, match=message):
            zigzag(length, rank=rank, world=world)


LENGTHS = {
    "W": 604_800, "D": 86_400, "h": 3_600, "m": 60, "s": 1,
    "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9),
    "ps": Fraction(1, 10**12), "fs": Fraction(1, 10**15), "as": Fraction(1, 10**18),
}  # fmt: skip
units = st.sampled_from(sorted(LENGTHS))
counts = st.one_of(st.just(1), st.integers(1, 5000))
ticks = st.one_of(st.integers(LOWEST + 1, HIGHEST), st.integers(-(10**6), 10**6))


def check_against_fractions(call, exact):
    """Assert that a call gives these rational numbers, rounded at most once, or refuses them."""
    if all(e.denominator == 1 for e in exact):
        expected = np.array([int(e) for e in exact], object)
        possible, dtype = LOWEST <= min(expected) <= max(expected) <= HIGHEST, np.int64
    else:
        expected = np.array([float(e) for e in exact])
        possible, dtype = np.abs(expected).max() < 2.0**63, np.float64
    if possible:
        same(call(), expected, dtype)
    else:
        with pytest.raises(ValueError, match="`times` must keep positions within int64"):
            call()


class TestDates:
    @given(data=st.data(), kind=st.sampled_from("mM"), unit=units, count=counts)
    def test_against_rational_arithmetic(self, data, kind, unit, count):
        tick, tick_count = data.draw(units), data.draw(counts)
        start, start_count = data.draw(units), data.draw(counts)
        values = data.draw(st.lists(ticks, min_size=1, max_size=4))
        zero = data.draw(ticks)
        times = np.array(values, np.int64).astype(f"{kind}8[{tick_count}{tick}]")
        origin = np.array(zero, np.int64).astype(f"{kind}8[{start_count}{start}]")[()]
        exact = [
            (
                v * tick_count * Fraction(LENGTHS[tick])
                - zero * start_count * Fraction(LENGTHS[start])
            )
            / (count * Fraction(LENGTHS[unit]))
            for v in values
        ]
        name = f"{count}{unit}"
        check_against_fractions(lambda: timestamps(times, unit=name, origin=origin), exact)

    def test_nanoseconds_since_1970(self):
        times = np.array([1_700_000_000_123_456_789, 1_700_000_000_123_456_790], "M8[ns]")
        same(timestamps(times, unit="ns", origin="1970-01-01"), times.astype(np.int64))
        origin = np.datetime64("2023-11-14T22:13:20")
        same(timestamps(times, unit="ns", origin=origin), [123_456_789, 123_456_790])
        expected = [Fraction(int(t), 10**9) for t in times.astype(np.int64)]
        actual = timestamps(times, unit="s", origin="1970-01-01")
        same(actual, [float(e) for e in expected], np.float64)

    def test_the_ends_of_int64(self):
        times = np.array([LOWEST + 1, HIGHEST], "M8[ns]")
        zero = np.datetime64(0, "ns")
        same(timestamps(times, unit="ns", origin=zero), [LOWEST + 1, HIGHEST])
        same(timestamps(times[1:], unit="ns", origin=times[1]), [0])
        same(timestamps(times[:1], unit="ns", origin=np.datetime64(1, "ns")), [LOWEST])
        with pytest.raises(ValueError, match=f"`times` must .* int64, got {HIGHEST - LOWEST - 1}"):
            timestamps(times, unit="ns", origin=times[0])
        span = (HIGHEST - LOWEST - 1) / 1000
        same(timestamps(times, unit="us", origin=times[0]), [0.0, span], np.float64)

    def test_units_far_apart_do_not_overflow(self):
        times = np.array(["0001-01-01", "9999-12-31T23:59:59"], "M8[s]")
        origin = np.datetime64("2262-01-01T00:00:00.000000001", "ns")
        seconds = [
            Fraction(int(t)) - Fraction(int(origin.astype(np.int64)), 10**9)
            for t in times.astype(int)
        ]
        same(timestamps(times, unit="s", origin=origin), [float(s) for s in seconds], np.float64)

    def test_years_and_months_are_calendar_dates(self):
        same(
            timestamps(np.array(["2023", "2024"], "M8[Y]"), unit="D", origin="2023-01-01"), [0, 365]
        )
        same(timestamps(np.array(["2024-03"], "M8[M]"), unit="D", origin="2024-01-01"), [60])
        same(timestamps(np.array([0], "M8[10Y]"), unit="D", origin=np.datetime64("1970")), [0])
        with pytest.raises(ValueError, match="`times` must be within int64 days"):
            timestamps(np.array([2**60], "M8[Y]"), unit="D", origin="2024-01-01")

    def test_whole_numbers_decide_the_dtype(self):
        fine = np.array(["2024-01-01T00:00:01", "2024-01-01T00:01"], "M8[ns]")
        same(timestamps(fine, unit="s", origin="2024-01-01"), [1, 60])
        same(timestamps(fine, unit="m", origin="2024-01-01"), [1 / 60, 1.0], np.float64)

    @pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
    def test_shapes(self, shape):
        times = np.full(shape, np.datetime64("2024-01-02"))
        same(timestamps(times, unit="h", origin="2024-01-01"), np.full(shape, 24))
        assert timestamps(times[()], unit="7h", origin="2024-01-01").shape == shape

    @pytest.mark.parametrize("times", [[], np.zeros((0, 3), "M8[ns]"), np.zeros(0, "M8")])
    def test_empty(self, times):
        same(timestamps(times, unit="s", origin="2024-01-01"), np.zeros(np.shape(times)))

    def test_dates_of_python(self):
        times = [dt.datetime(2024, 1, 1, 0, 0, 1), dt.datetime(2024, 1, 1, 0, 0, 2, 500_000)]  # noqa: DTZ001  (naive times are the case)
        same(timestamps(times, unit="ms", origin=dt.date(2024, 1, 1)), [1000, 2500])
        same(timestamps(tuple(times), unit="s", origin=times[0]), [0.0, 1.5], np.float64)
        same(timestamps([dt.date(2024, 1, 3)], unit="D", origin="2024-01-01"), [2])
        same(timestamps(times[0], unit="s", origin="2024-01-01"), 1)
        nested = [[times[0]], [dt.date(2024, 1, 1)]]
        same(timestamps(nested, unit="s", origin="2024-01-01"), [[1], [0]])

    def test_zones_are_read_as_utc(self):
        paris = dt.timezone(dt.timedelta(hours=1))
        times = [
            dt.datetime(2024, 1, 1, 12, tzinfo=UTC),
            dt.datetime(2024, 1, 1, 12, tzinfo=paris),
            dt.datetime(2024, 1, 1, 12),  # noqa: DTZ001  (naive times are the case)
        ]
        same(timestamps(times, unit="m", origin="2024-01-01T12:00Z"), [0, -60, 0])
        same(timestamps(np.array(times), unit="m", origin=times[1]), [60, 0, 60])
        same(timestamps(dt.datetime.min.replace(tzinfo=paris), unit="h", origin="0001-01-01"), -1)

    def test_mixed_units_in_a_list_do_not_overflow(self):
        times = [np.datetime64("0001-01-01", "s"), np.datetime64(1, "ns"), dt.date(1970, 1, 1)]
        days = (dt.date(1, 1, 1) - dt.date(1970, 1, 1)).days
        expected = [float(days), float(Fraction(1, 86_400 * 10**9)), 0.0]
        same(timestamps(times, unit="D", origin="1970-01-01"), expected, np.float64)

    def test_objects_with_the_methods_of_pandas(self):
        class Timestamp(dt.datetime):
            def to_datetime64(self):
                return np.datetime64("2024-01-01T00:00:00.000000007", "ns")

        class Timedelta(dt.timedelta):
            def to_timedelta64(self):
                return np.timedelta64(11, "ns")

        class Series:
            def __array__(self, dtype=None, copy=None):
                return np.array(["2024-01-01T00:00:00.000000005"], "M8[ns]")

        stamp = Timestamp(2024, 1, 1, tzinfo=UTC)
        same(timestamps([stamp, stamp], unit="ns", origin="2024-01-01"), [7, 7])
        same(timestamps(Series(), unit="ns", origin=stamp), [-2])
        same(timestamps([Timedelta(0)], unit="ns", origin=dt.timedelta(0)), [11])

    def test_durations(self):
        times = np.array([0, 40, 90], "m8[ms]")
        same(
            timestamps(times, unit="40ms", origin=np.timedelta64(0, "s")), [0, 1, 2.25], np.float64
        )
        same(timestamps([dt.timedelta(seconds=3)], unit="s", origin=dt.timedelta(seconds=1)), [2])
        with pytest.raises(ValueError, match="`times` must be in a unit of fixed length"):
            timestamps(np.array([1], "m8[M]"), unit="s", origin=np.timedelta64(0, "s"))
        with pytest.raises(ValueError, match="`origin` must be in a unit of fixed length"):
            timestamps(times, unit="s", origin=np.timedelta64(1, "Y"))

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            (np.datetime64("NaT", "s"), "`times` must not be missing, got NaT$"),
            (np.array(["2024-01-01", "NaT"], "M8[D]"), "got NaT at index 1"),
            (np.array([["NaT"]], "M8[ns]"), r"got NaT at index \(0, 0\)"),
            ([np.datetime64("2024-01-01"), np.datetime64("NaT", "D")], "got NaT at index 1"),
        ],
    )
    def test_missing(self, times, message):
        with pytest.raises(ValueError, match=message):
            timestamps(times, unit="s", origin="2024-01-01")

    @pytest.mark.parametrize(
        ("times", "origin"),
        [
            (np.array([1, 2]), "2024-01-01"),
            (np.array(["2024-01-01"], "M8[D]"), 0),
            (np.array(["2024-01-01"], "M8[D]"), np.timedelta64(0, "s")),
            (np.array([1], "m8[s]"), "2024-01-01"),
            (np.array([1], "m8[s]"), 0),
            ([dt.date(2024, 1, 1), dt.timedelta(1)], "2024-01-01"),
        ],
    )
    def test_kinds_do_not_mix(self, times, origin):
        with pytest.raises(TypeError, match="`origin` must be of the same kind as `times`,"):
            timestamps(times, unit="s", origin=origin)

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            (
                [dt.date(2024, 1, 1), None],
                "`times` must be of one kind, got both dates and NoneType",
            ),
            ([dt.date(2024, 1, 1), 3], "`times` must be of one kind, got both dates and int"),
            (np.array(["2024-01-01"]), "`times` must be dates, durations or numbers, got <U10"),
            ("2024-01-01", "`times` must be dates, durations or numbers"),
            ([True], "`times` must be dates, durations or numbers, got bool"),
            ([1j], "`times` must be integers or floats, got complex128"),
            (None, "`times` must be integers or floats, got NoneType"),
            (np.ma.array([1, 2]), "`times` must be a plain array, got MaskedArray"),
        ],
    )
    def test_wrong_kinds(self, times, message):
        with pytest.raises(TypeError, match=message):
            timestamps(times, unit="s", origin=0)


class TestOriginAndUnit:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("2024-01-01", "2024-01-01"),
            ("2024-01-01T06", "2024-01-01T06"),
            ("2024-01-01 06:30", "2024-01-01T06:30"),
            ("2024-01-01T06:30:15.250", "2024-01-01T06:30:15.250"),
            ("2024-01-01T06:30:15.000000001", "2024-01-01T06:30:15.000000001"),
            ("2024-01-01T06:30Z", "2024-01-01T06:30"),
            ("2024-01-01T06:30+02:00", "2024-01-01T04:30"),
            ("2024-01-01T06:30-0930", "2024-01-01T16:00"),
            ("2024-01-01T06:30:15.5+01", "2024-01-01T05:30:15.5"),
            ("0001-01-01", "0001-01-01"),
        ],
    )
    def test_strings(self, text, expected):
        assert Clock(unit="s", origin=text).origin == np.datetime64(expected)

    @pytest.mark.parametrize(
        "text",
        ["", "now", "today", "NaT", "2024", "2024-01", "20240101", "2024-13-01", "2024-02-30",
         "2024-01-01-05", "2024-01-01T25:00", "yesterday", "1700000000", "2024-01-01.5",
         "0001-01-01T00:00:00.000000001", "2024-01-01T00:00:00.1234567890123456789"],
    )  # fmt: skip
    def test_strings_that_are_not_dates_are_refused(self, text):
        with pytest.raises(ValueError, match="`origin` must be a date such as"):
            timestamps(np.zeros(1, "M8[s]"), unit="s", origin=text)

    @pytest.mark.parametrize("origin", [None, True, b"2024-01-01", object(), 1j, np.bool_(0)])
    def test_origins_of_the_wrong_kind(self, origin):
        with pytest.raises(TypeError, match="`origin` must be"):
            Clock(unit="s", origin=origin)

    @pytest.mark.parametrize(
        ("origin", "message"),
        [
            (np.datetime64("NaT", "s"), "got NaT"),
            (np.timedelta64("NaT", "s"), "got NaT"),
            (np.nan, "must be finite"),
            (np.inf, "must be finite"),
            (2**63, "within int64"),
            (2**70, "within int64"),
            ([0, 1], r"got shape \(2,\)"),
            (np.array(["2024-01-01"], "M8[D]"), r"got shape \(1,\)"),
        ],
    )
    def test_origins_of_the_wrong_value(self, origin, message):
        with pytest.raises(ValueError, match=f"`origin` .*{message}"):
            Clock(unit="s", origin=origin)

    def test_unit_and_origin_are_required(self):
        with pytest.raises(TypeError, match="origin"):
            timestamps([1], unit="s")
        with pytest.raises(TypeError, match="unit"):
            timestamps([1], origin=0)

    @pytest.mark.parametrize("unit", ["Y", "M", "3M", "sec", "min", "S", "H", "", "0s", "-1s",
                                      "0.5s", "1 s", "s ", "μs", "10", "generic", "2024-01-01"])  # fmt: skip
    def test_unknown_units(self, unit):
        with pytest.raises(ValueError, match="`unit` must be one of W, D, h, m, s") as caught:
            timestamps([1], unit=unit, origin=0)
        assert ("no fixed length" in str(caught.value)) == (unit in {"Y", "M", "3M"})

    @pytest.mark.parametrize("unit", [None, 1, np.timedelta64(1, "s"), b"s", ("s", 1)])
    def test_units_are_strings(self, unit):
        with pytest.raises(TypeError, match="`unit` must be a string"):
            timestamps([1], unit=unit, origin=0)

    def test_equal_clocks_are_equal(self):
        clocks = [
            Clock(unit="ms", origin="2024-01-01"),
            Clock(unit="1ms", origin=np.datetime64("2024-01-01T00:00:00.000000000", "ns")),
            Clock(
                unit="ms",
                origin=dt.datetime(2024, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
            ),
        ]
        assert len(set(clocks)) == 1
        assert len({repr(clock) for clock in clocks}) == 1
        assert clocks[0] != Clock(unit="us", origin="2024-01-01")
        assert Clock(unit="s", origin=3) == Clock(unit="s", origin=3.0)

    def test_clocks_are_values(self):
        clock = Clock(unit="s", origin="2024-01-01")
        assert pickle.loads(pickle.dumps(clock)) == copy.deepcopy(clock) == clock
        with pytest.raises(AttributeError):
            clock.unit = "ms"
        same(clock(np.array(["2024-01-01T01"], "M8[h]")), [3600])

    def test_origins_that_no_longer_unit_holds_keep_their_unit(self):
        far = np.array(HIGHEST).astype("M8[7s]")[()]
        assert Clock(unit="s", origin=far).origin == far
        same(timestamps(far, unit="s", origin=far), 0)


class TestNumbers:
    @given(st.lists(int64s, min_size=1, max_size=4), int64s)
    def test_integers(self, values, origin):
        exact = [Fraction(v - origin) for v in values]
        times = np.array(values, np.int64)
        check_against_fractions(lambda: timestamps(times, unit="ns", origin=origin), exact)

    @given(
        st.lists(
            st.one_of(st.floats(-(2.0**62), 2.0**62), st.integers(-(2**62), 2**62).map(float)),
            min_size=1, max_size=4,
        ),
        st.one_of(st.floats(-(2.0**62), 2.0**62), st.integers(-(2**62), 2**62)),
    )  # fmt: skip
    def test_floats(self, values, origin):
        exact = [Fraction(v) - Fraction(origin) for v in values]
        check_against_fractions(
            lambda: timestamps(np.array(values), unit="s", origin=origin), exact
        )

    @given(
        st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=4),
        st.floats(-(2.0**51), 2.0**51),
    )
    def test_integers_from_a_float_origin(self, values, origin):
        exact = [Fraction(v) - Fraction(origin) for v in values]
        check_against_fractions(lambda: timestamps(values, unit="s", origin=origin), exact)

    def test_unix_time(self):
        seconds = 1_700_000_000 + np.arange(4)
        for times in seconds, seconds.astype(float), seconds.tolist():
            for origin in 1_700_000_000, 1.7e9, np.int64(1_700_000_000):
                same(timestamps(times, unit="s", origin=origin), np.arange(4))
        quarters = 1.7e9 + np.arange(3) / 4
        same(timestamps(quarters, unit="s", origin=1_700_000_000), [0.0, 0.25, 0.5], np.float64)
        same(timestamps(quarters[::2] + 0.5, unit="s", origin=1.7e9), [0.5, 1.0], np.float64)
        same(timestamps(1.7e9 + np.array([0.25, 1.25]), unit="s", origin=1_700_000_000.25), [0, 1])

    def test_rounded_differences_stay_float64(self):
        same(timestamps([2.0**52], unit="s", origin=0.25), [2.0**52], np.float64)

    def test_sequences_of_both_kinds_are_exact(self):
        same(timestamps([1, 2.5], unit="s", origin=0), [1, 2.5], np.float64)
        with pytest.raises(ValueError, match="`times` must be exact in float64"):
            timestamps([2**60 + 1, 0.5], unit="s", origin=0)

    @pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint64, ml_dtypes.int4])
    def test_integer_dtypes(self, dtype):
        same(timestamps(np.array([1, 5], dtype), unit="D", origin=3), [-2, 2])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.longdouble])
    def test_float_dtypes(self, dtype):
        same(timestamps(np.array([0.5, 1.0], dtype), unit="s", origin=1), [-0.5, 0.0], np.float64)

    @pytest.mark.library("torch")
    def test_torch(self):
        torch = importlib.import_module("torch")
        same(timestamps(torch.tensor([3, 4]), unit="s", origin=3), [0, 1])

    def test_positions_stay_below_two_to_the_63(self):
        with pytest.raises(ValueError, match="`times` must keep positions within int64"):
            timestamps(np.array([2.0**62, 0.5]), unit="s", origin=-(2.0**62))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_refused(self, value):
        for dtype in np.float64, np.float32:
            with pytest.raises(ValueError, match=r"`times` must be finite .* at index 1"):
                timestamps(np.array([0, value], dtype), unit="s", origin=0)


class TestResolution:
    @pytest.mark.parametrize(
        "times",
        [
            1.7e9 + np.arange(10),  # all the same in float32, or 128 apart
            1.7e9 + np.arange(1000),
            1.7e9 + 100.0 * np.arange(2),
            1.7e9 + 0.02 * np.arange(5000),
            1e6 + 0.01 * np.arange(100),
            np.array([1.7e9]),
            np.array(1.7e9),
            [0.0, 1.0, 1.7e9],
            [0.0, 0.0, 1.7e9, 1.7e9 + 60],
            (1.7e9 + np.arange(100))[::-1],
            [np.arange(3.0), 1.7e9 + np.arange(3.0)],
        ],
    )
    def test_refused(self, times):
        with pytest.raises(ValueError, match=r"`times` must have a dtype .* got float32 near 1"):
            timestamps(np.array(times, np.float32), unit="s", origin=0)

    @pytest.mark.parametrize(
        "times",
        [
            np.arange(0, 20_000, 0.01),  # five hours of speech frames
            16_000_000 + np.arange(100.0),  # whole, and exactly held
            1.7e9 + 86_400 * np.arange(50),  # daily: coarse, but far apart
            [5.0, 5.0, 5.0],
            [5.0, 5.0, 9.0],
            [3.0],
            [1e6],
            7.0,
            [1e-6, 1e-3, 1.0, 1e3, 1e6],
            [[0.0, 1.0], [0.0, 1.0]],
            [0.0, 0.0],
        ],
    )
    def test_fine_enough_times_are_accepted(self, times):
        short = np.array(times, np.float32)
        actual = timestamps(short, unit="s", origin=0)
        np.testing.assert_array_equal(actual, short.astype(np.float64))

    @pytest.mark.parametrize(
        ("dtype", "longest"), [(ml_dtypes.bfloat16, 256), (np.float16, 2048), (np.float32, 2**24)]
    )
    def test_counts_are_accepted_up_to_the_largest_exact_integer(self, dtype, longest):
        counts = np.arange(longest - 20, longest + 1)
        same(timestamps(counts.astype(dtype), unit="s", origin=0), counts)
        with pytest.raises(ValueError, match="adjacent numbers are 2 units apart"):
            timestamps(np.arange(longest, longest + 20).astype(dtype), unit="s", origin=0)

    def test_the_largest_values(self):
        with pytest.raises(ValueError, match="near 65504, whose adjacent numbers are 32 units"):
            timestamps(np.array([65504], np.float16), unit="s", origin=0)

    def test_float64_is_never_too_coarse(self):
        times = np.array([1.7e18, 1.7e18 + 256])
        same(timestamps(times, unit="ns", origin=1_700_000_000_000_000_000), [0, 256])


class TestAsPositions:
    @pytest.mark.parametrize("value", [0, 7, -7, LOWEST, HIGHEST])
    def test_integers(self, value):
        same(as_positions(value), value)
        same(as_positions([value]), [value])
        same(as_positions(np.array([value], np.int64)), [value])

    @pytest.mark.parametrize("value", [0.0, -0.5, 1e18, 5e-324, np.nextafter(2.0**63, 0)])
    def test_floats(self, value):
        same(as_positions(value), value, np.float64)
        same(as_positions((value, value)), [value, value], np.float64)

    @pytest.mark.parametrize("code", "bBhHiIlLqQefdg")
    def test_every_dtype_of_numpy(self, code):
        array = np.array([[1, 2], [3, 100]], code)
        dtype = np.float64 if code in "efdg" else np.int64
        same(as_positions(array), [[1, 2], [3, 100]], dtype)
        same(as_positions(array.astype(array.dtype.newbyteorder())), array, dtype)

    @pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4", "uint4"])
    def test_dtypes_of_ml_dtypes(self, name):
        array = np.array([1, 2], getattr(ml_dtypes, name))
        same(as_positions(array), [1, 2], np.float64 if "float" in name else np.int64)

    def test_float32_is_exact(self):
        same(as_positions(np.float32(0.1)), float(np.float32(0.1)), np.float64)

    def test_arrays_are_not_copied(self):
        for array in np.arange(5), np.arange(5.0), np.arange(10)[::2]:
            assert as_positions(array) is array

    @pytest.mark.parametrize(
        "value",
        [range(0), range(5), range(3, -9, -2), range(HIGHEST - 1, HIGHEST + 1), range(LOWEST, LOWEST + 2),
         range(5, 2**70, 2**71), range(LOWEST, HIGHEST + 1, 2**62),
         range(0, 2**60 + 1, 2**59), range(LOWEST, HIGHEST, 2**63 + 1), range(2**70, 0)],
    )  # fmt: skip
    def test_ranges(self, value):
        same(as_positions(value), list(value))

    @given(
        st.lists(st.one_of(int64s, st.floats(allow_nan=False, allow_infinity=False)), max_size=4)
    )
    def test_lists_are_exact_or_refused(self, values):
        try:
            actual = as_positions(values)
        except ValueError:
            assert any(isinstance(v, float) for v in values)
            assert any(abs(v) >= 2**53 for v in values)
        else:
            assert all(f == v for f, v in zip(actual.tolist(), values, strict=True))

    @pytest.mark.parametrize("shape", [(0,), (2, 0)])
    def test_empty(self, shape):
        for dtype in np.int64, np.uint64, np.float32, ml_dtypes.bfloat16:
            assert as_positions(np.zeros(shape, dtype)).shape == shape

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (True, "got bool"),
            (np.True_, "got bool"),
            ([True, False], "got bool"),
            (1j, "got complex128"),
            (np.zeros(2, np.complex64), "got complex64"),
            ("1", "got <U1"),
            (b"1", "got |S1"),
            (None, "got NoneType"),
            (object(), "got object"),
            (np.array([1, 2], object)[:0], "got object"),
            ([None, 1], "got NoneType"),
            (np.zeros(2, "V8"), "got |V8"),
            (np.zeros(2, [("a", "f8")]), "got "),
            ({1, 2}, "got set"),
            (np.ma.array([1]), "must be a plain array, got MaskedArray"),
            (np.ones((1, 1)).view(np.matrix), "must be a plain array, got matrix"),
            (np.zeros(1, "M8[s]"), "timestamps converts times to positions"),
            (np.zeros(1, "m8[s]"), "timestamps converts times to positions"),
            ([dt.date(2024, 1, 1)], "got date; rotary.positions.timestamps"),
        ],
    )
    def test_wrong_kinds(self, value, message):
        with pytest.raises(TypeError, match=f"`offset` .*{message}"):
            as_positions(value, name="offset")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (2**63, "within int64, got 9223372036854775808"),
            (LOWEST - 1, "within int64"),
            (2**80, "within int64"),
            ([2**63], "within int64"),
            ([2**80, 1], f"within int64, got {2**80}"),
            (np.uint64(2**63), "within int64"),
            (np.array([0, 2**64 - 1], np.uint64), "within int64"),
            (range(HIGHEST, HIGHEST + 2), "within int64"),
            ([-1, 2**63], "within int64, got 9223372036854775808"),
            (np.nan, "must be finite and below 2\\*\\*63 in magnitude, got nan$"),
            ([0.0, np.inf], "got inf at index 1"),
            (np.array([[0, 1], [-np.inf, 0]], np.float32), r"got -inf at index \(1, 0\)"),
            (np.array([np.nan], ml_dtypes.bfloat16), "got nan at index 0"),
            (2.0**63, "below 2\\*\\*63"),
            (-(2.0**63), "below 2\\*\\*63"),
            (
                [2**53 + 1, 0.5],
                "exact in float64, got a value that float64 rounds to .* at index 0",
            ),
            (((2**53 + 1,), (0.5,)), r"exact in float64, .* at index \(0, 0\)"),
            ([[1], [1, 2]], "lists of different lengths"),
        ],
    )
    def test_wrong_values(self, value, message):
        with pytest.raises(ValueError, match=f"`positions` .*{message}"):
            as_positions(value)

    @pytest.mark.skipif(
        np.finfo(np.longdouble).nmant <= 52, reason="long double is float64 on this platform"
    )
    def test_long_doubles_that_float64_rounds_are_refused(self):
        for value in np.longdouble(1) / 3, np.longdouble(2) ** 60 + 1:
            with pytest.raises(ValueError, match="`positions` must be exact in float64"):
                as_positions(np.array([0, value]))
        with pytest.raises(ValueError, match="below 2"):
            as_positions(np.longdouble(2) ** 5000)
