"""Makes the graphs of asv's pages readable: a logarithmic axis with units, and commits by hash and name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# What the axis of times shows: equal ratios have equal distances, and every tick has its unit.
LOGARITHMIC = """if (log_scale && !reference_scale && !x_coordinate_is_category) {
            var unit = $.asv.main_json.benchmarks[current_benchmark].unit;
            var digits = max / min < 4 ? [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8] : [1, 2, 5];
            options.yaxis.min = min / 1.2;
            options.yaxis.max = max * 1.2;
            options.yaxis.ticks = [];
            for (var power = Math.floor(Math.log10(min)) - 1; power <= Math.log10(max) + 1; ++power) {
                digits.forEach(digit => options.yaxis.ticks.push(digit * Math.pow(10, power)));
            }
            options.yaxis.transform = v => v > 0 ? Math.log(v) : null;
            options.yaxis.inverseTransform = Math.exp;
            options.yaxis.tickFormatter = v => $.asv.pretty_unit(v, unit);
        } else if (reference_scale) {"""
# What the axis of commits shows: the hashes of measured commits, if they do not lie too close together.
COMMITS = """options.xaxis.ticks = [];
                var measured = graphs.flatMap(graph => graph.data.map(point => point[0])).sort((a, b) => a - b);
                var apart = (measured[measured.length - 1] - measured[0]) / 10, last = -Infinity;
                measured.forEach(revision => {
                    if (revision - last >= apart && revision > last) {
                        options.xaxis.ticks.push([revision, $.asv.get_commit_hash(revision)]);
                        last = revision;
                    }
                });"""
# By file, what asv writes and what stands there instead.
REPLACEMENTS = {
    "graphdisplay.js": {
        "var log_scale = false;": "var log_scale = true;",
        "if (log_scale || reference_scale) {": LOGARITHMIC,
        'options.xaxis.tickFormatter = function (v, axis) { return ""; };': COMMITS,
        '" @ " + commit_hash);': '" @ " + commit_hash + " " + (COMMIT_NAMES[commit_hash] || ""));',
        "                zoom_y_axis = true;\n": (
            "                zoom_y_axis = true;\n"
            "                log_scale = false;\n"
            "                $('#log-scale').removeClass('active');\n"
        ),
    },
    "index.html": {
        '<a id="log-scale" class="btn btn-default btn-xs"': (
            '<a id="log-scale" class="btn btn-default btn-xs active"'
        ),
        "</head>": '<script src="scripts/commits.js"></script>\n</head>',
    },
}


def complete(pages: Path) -> None:
    """Change the scripts in `pages`, and write the names of commits."""
    for name, replacements in REPLACEMENTS.items():
        path = pages / name
        text = path.read_text(encoding="utf-8")
        for before, after in replacements.items():
            if text.count(before) != 1:
                msg = f"{name} of this version of asv does not have once: {before}"
                raise ValueError(msg)
            text = text.replace(before, after)
        path.write_text(text, encoding="utf-8")
    (pages / "scripts" / "commits.js").write_text(
        f"const COMMIT_NAMES = {json.dumps(names(pages), indent=1)};\n", encoding="utf-8"
    )


def names(pages: Path) -> dict[str, str]:
    """Return the first line of the message of each commit on the pages, by its hash as they show it."""
    index = json.loads((pages / "index.json").read_text(encoding="utf-8"))
    known = set(index["revision_to_hash"].values())
    command = ("git", "log", "--all", "--format=%H %s")
    listed = subprocess.run(command, cwd=HERE, capture_output=True, check=True, text=True).stdout
    found = dict(line.split(" ", 1) for line in listed.splitlines())
    return {commit[: index["hash_length"]]: found[commit] for commit in known & found.keys()}


if __name__ == "__main__":
    complete(Path(sys.argv[1]))
