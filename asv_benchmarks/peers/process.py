"""A separate process for each library, because runtimes in one process slow each other down.

Threads of some runtimes wait in a busy loop, which slows other processes down too. Therefore peers are measured in
groups. Only the processes of one group run at a time, and rotary is in each group.
"""

from __future__ import annotations

import importlib
import multiprocessing
import traceback
from multiprocessing.connection import Connection
from typing import Any

from .cases import Array, Case
from .contenders import Contender, MissingError, without_hopeless

# Modules, in the order of the page.
PEERS = {
    "rotary": "with_rotary",
    "rotary on torch": "on_torch",
    "rotary on JAX": "on_jax",
    "onnxruntime": "with_onnxruntime",
    "torch": "with_torch",
    "jax": "with_jax",
    "mlx": "with_mlx",
    "numpy": "with_numpy",
    "vLLM": "with_vllm",
    "ggml": "with_ggml",
    "OpenVINO": "with_openvino",
    "TensorFlow": "with_tensorflow",
}
OWN = "rotary"
# Libraries whose threads wait in a busy loop.
ALONE = ("vLLM", "ggml", "OpenVINO", "TensorFlow")
GROUPS = (tuple(name for name in PEERS if name not in ALONE), *((OWN, name) for name in ALONE))
# The longest wait for an answer. Only compilation takes long.
PATIENCE = 300.0


class Bench:
    """The work in the process: the contenders of one case at a time."""

    def __init__(self, module: str) -> None:
        self.module = importlib.import_module(f".{module}", __package__)
        self.contenders: list[Contender] = []

    def prepare(self, case: Case) -> dict[str, str]:
        """Make the contenders, check their results, and return the reasons of the missing ones."""
        return self._prepare(case, None)

    def results(self, case: Case) -> tuple[dict[str, str], dict[str, list[Array]]]:
        """Do the same as `prepare`, and also return the results, for tests."""
        made: dict[str, list[Array]] = {}
        return self._prepare(case, made), made

    def _prepare(self, case: Case, made: dict[str, list[Array]] | None) -> dict[str, str]:
        self.contenders = []
        verb = "tables" if case.section == "tables" else "rotations"
        try:
            for each in getattr(self.module, verb)(case):
                arrays = each.check(case)
                self.contenders.append(each)
                if made is not None and arrays:
                    made[f"{each.name} {each.form}".strip()] = [array.copy() for array in arrays]
        except (ImportError, MissingError) as error:
            why = str(error) if isinstance(error, MissingError) else "not installed"
            there = {each.name for each in self.contenders}
            return {name: why for name in self.module.NAMES if name not in there}
        return {}

    def calibrate(self, seconds: float) -> list[tuple[str, str, float | None]]:
        """Warm up, choose the number of calls, and return the names, forms and errors of the remaining contenders."""
        for each in self.contenders:
            each.calibrate(seconds)
        self.contenders = without_hopeless(self.contenders)
        return [(each.name, each.form, each.error) for each in self.contenders]

    def turn(self) -> list[float]:
        """Return the seconds of one call of each contender."""
        return [each.turn() for each in self.contenders]

    def release(self) -> None:
        """Free the arrays."""
        self.contenders = []

    def cosines(self, positions: list[int]) -> dict[str, Array]:
        """Return the tables of these positions, (positions, 2, channel pairs)."""
        try:
            made: dict[str, Array] = self.module.cosines(positions)
        except ImportError:
            return {}
        return made


def serve(module: str, line: Connection) -> None:
    """Answer requests until the other side closes."""
    bench = Bench(module)
    while (message := line.recv()) is not None:
        verb, *arguments = message
        try:
            answer = (True, getattr(bench, verb)(*arguments))
        except Exception:  # noqa: BLE001  (the page shows any exception of a library)
            bench.release()
            answer = (False, traceback.format_exc())
        line.send(answer)


class FailedError(Exception):
    """The process of a contender raised an error or ended."""


class Peer:
    """The process of one library, seen from the parent."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(PEERS[name], theirs), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def module(self) -> Any:
        """The module of contenders; importing it imports no library."""
        return importlib.import_module(f".{PEERS[self.name]}", __package__)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its contenders."""
        names: tuple[str, ...] = self.module.NAMES
        return names

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Send a request and return the answer."""
        try:
            self.line.send((verb, *arguments))
            if not self.line.poll(PATIENCE):
                self.process.kill()
                msg = f"no answer within {PATIENCE:.0f} s"
                raise FailedError(msg)
            good, answer = self.line.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            msg = f"the process ended with code {self.process.exitcode}"
            raise FailedError(msg) from error
        if not good:
            raise FailedError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.line.send(None)
            self.process.join(5)
        self.process.kill()
        self.line.close()
