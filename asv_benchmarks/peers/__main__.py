"""`nox -s peers`: measures, prints the tables and writes the page. `--help` explains the other modes."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs" / "performance"
NUMBERS = "numbers.json"


def main() -> int:
    """Run the mode of the command line; return 1 if a contender failed, but not if it is missing."""
    arguments = parse()
    if arguments.mode == "gpu":
        from . import gpu

        return gpu.main(arguments.rounds or 31)
    folder: Path = arguments.to
    if arguments.mode == "page":
        if not (folder / NUMBERS).exists():
            print(f"{folder} has no {NUMBERS} yet: measure first", file=sys.stderr)
            return 2
        numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    else:
        numbers = measure(quick=arguments.mode == "quick", rounds=arguments.rounds)
        text = json.dumps(numbers, indent=1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NUMBERS).write_text(text + "\n", encoding="utf-8")
    from . import page, plots

    text = page.write(numbers)
    (folder / "index.md").write_text(text, encoding="utf-8")
    for path in plots.draw_all(numbers, folder):
        print(path)
    print(page.tables(numbers))
    return int(any("failed" in row for result in numbers["results"] for row in result["rows"]))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="nox -s peers --", description=__doc__)
    modes = ("full", "quick", "page", "gpu")
    explained = "quick: small arrays and few rounds, to see that it works; page: the page again, from its numbers; "
    explained += "gpu: the GPU libraries of this environment, printed only"
    parser.add_argument("mode", nargs="?", choices=modes, default="full", help=explained)
    parser.add_argument("--to", type=Path, default=DOCS, help="the folder that is written")
    parser.add_argument("--rounds", type=int, help="how many rounds (default 15, quick 3, gpu 31)")
    return parser.parse_args()


def measure(*, quick: bool, rounds: int | None) -> dict[str, Any]:
    """Measure everything and return the numbers of the page."""
    # These variables would select kernels of another CPU for NumPy's matrix products.
    for name in [name for name in os.environ if name.startswith("OPENBLAS_")]:
        del os.environ[name]
    from . import cases, errors, machine, startup
    from .process import GROUPS, Peer
    from .rounds import ROUNDS, Progress, merged
    from .rounds import measure as measure_rounds

    count = rounds or (3 if quick else ROUNDS)
    progress = Progress(sys.stdout)
    first_call = startup.measure(progress, cold=1 if quick else 3, warm=count)
    groups, wrong = [], {}
    everything = cases.all_cases(quick=quick)
    for number, names in enumerate(GROUPS):
        # Some cases are for named peers, which are in the first group.
        chosen = [case for case in everything if not number or case.peers is None]
        peers = [Peer(name) for name in names]
        try:
            seconds = 0.001 if quick else 0.004
            groups.append(measure_rounds(chosen, peers, progress, seconds=seconds, rounds=count))
            if not number:
                progress.now("errors", "by position")
                wrong = errors.measure(peers)
        finally:
            for peer in peers:
                peer.close()
    return {
        "mode": "quick" if quick else "full",
        "date": machine.today(),
        "rounds": count,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "first_call": first_call,
        "results": merged(groups),
        "errors": wrong,
    }


if __name__ == "__main__":
    sys.exit(main())
