"""
Compare this server with others, in one run:  make bench  or  python -m tests.benchmarks [--quick] [--write PAGE]

Leaves the other servers' environments and the trained models in .tools/bench for the next time.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Final

from tests.benchmarks.batch import batch_section
from tests.benchmarks.inputs import FOLDER, Bodies, subjects
from tests.benchmarks.many_models import figures_of_many
from tests.benchmarks.measures import Effort, Figure, Outcome, comparison, figures
from tests.benchmarks.peers import PEERS
from tests.benchmarks.report import comparison_table, figure_table, page

BATCH_ROWS: Final = 1_000_000


def main() -> None:
    """Measure, print, and write the page if asked to."""
    names = [peer.name for peer in PEERS]
    arguments = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    arguments.add_argument("--peers", nargs="*", choices=names, default=names, help="compare with these alone")
    arguments.add_argument("--quick", action="store_true", help="one short round: to see that it runs, not how fast")
    arguments.add_argument(
        "--write", type=Path, metavar="PAGE", help="write the results as a page of the documentation"
    )
    options = arguments.parse_args()

    busy = os.getloadavg()[0]
    effort = Effort(1, 0.5) if options.quick else Effort(3, 2.0)
    folder = FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    bodies = Bodies.fresh()
    outcomes: list[Outcome] = []
    own: list[Figure] = []
    models = subjects(folder)
    for subject in models:
        peers = [peer for peer in PEERS if peer.name in options.peers]
        outcomes += comparison(subject, bodies, peers, folder, effort)
        print(f"\n{subject.name}\n{comparison_table([o for o in outcomes if o.model == subject.name])}", flush=True)
    own += figures(models[0], bodies, folder, effort)
    own += figures_of_many(models[0], bodies)
    print(f"\n{figure_table(own)}")
    batch = batch_section(models, BATCH_ROWS // 100 if options.quick else BATCH_ROWS, effort.rounds)
    if options.write:
        command = "make bench" if options.write == Path("docs/benchmarks.md") else " ".join(sys.orig_argv[1:])
        options.write.write_text(
            page(outcomes, own, batch, command, effort.rounds, effort.seconds, busy, options.write)
        )


if __name__ == "__main__":
    main()
