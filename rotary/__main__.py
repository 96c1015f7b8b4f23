"""Checks and measures the kernels of this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rotary.cli import bench as _bench
from rotary.cli import selftest as _selftest
from rotary.cli.devices import INSTALL, Device, Gpu, Host, no_gpu

SELFTEST = (
    "Compare the kernels of this machine, GPU and CPU, with exact arithmetic. The exit status is 1 if a result is "
    "wrong, or if --gpu is given and there is no GPU."
)
BENCH = (
    "Measure rotations on the GPU, and a copy of the same number of bytes. The exit status is 1 if there is no GPU, "
    "or if a result is wrong."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rotary", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    selftest = commands.add_parser("selftest", description=SELFTEST, help="check the kernels")
    device = selftest.add_mutually_exclusive_group()
    device.add_argument("--cpu", action="store_true", help="check the CPU only")
    device.add_argument("--gpu", action="store_true", help="check the GPU only")
    bench = commands.add_parser("bench", description=BENCH, help="measure the kernels")
    bench.add_argument("--cpu", action="store_true", help="measure the CPU instead")
    bench.add_argument(
        "--rounds", type=_count, default=_bench.ROUNDS, help="rounds to measure (%(default)s)"
    )
    given = parser.parse_args(arguments)
    missing = None if given.cpu else no_gpu()
    if given.command == "bench":
        return _run_bench(missing, cpu=given.cpu, rounds=given.rounds)
    devices: list[Device] = [] if given.gpu else [Host()]
    if not given.cpu and missing is None:
        devices.append(Gpu())
    return _selftest.main(devices, missing)


def _run_bench(missing: str | None, *, cpu: bool, rounds: int) -> int:
    if missing is not None:
        sys.stdout.write(
            f"GPU: not measured. {missing}: {INSTALL}. `bench --cpu` measures the CPU.\n"
        )
        return 1
    return _bench.main(Host() if cpu else Gpu(), rounds=rounds)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        msg = f"must be at least 1, got {count}"
        raise argparse.ArgumentTypeError(msg)
    return count


if __name__ == "__main__":
    sys.exit(main())
