"""The measured numbers as a page of the documentation."""

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.floor import IN_PROCESS
from tests.benchmarks.measures import ECHO, Figure, Outcome
from tests.benchmarks.peers import OURS, PEERS

REMARKS = "## Targets that are missed"

INTRODUCTION = """\
# Benchmarks

Measured by `{command}`, which installs the other servers in environments of their own, trains the models, starts every
server as a real process with one worker, checks that all of them give the same predictions, and then lets them take
turns ({rounds} rounds of {seconds:g} s per cell; the median round is shown). The load comes from a separate process on
the same machine, over kept connections. Compare within a table; absolute numbers are this machine's.

- Machine: {machine}; load average before the run: {busy:.1f}
- Date: {date}
- Model: 20 numeric and 8 categorical columns (up to 200 categories), 4 % of the cells missing; a scikit-learn pipeline
  of imputer, scaler, encoder and estimator; scikit-learn {sklearn}, numpy {numpy}, pandas {pandas} for every server.
- Peers: {peers}. FastAPI stands for the server that most people write: pydantic, pandas and the pipeline
  (`tests/benchmarks/serve_fastapi.py`). MLServer reads no CSV, so it gets the same rows in its own JSON.
- `{echo}` is the floor: an application on bare uvicorn that reads the body and answers the same bytes as we do,
  without looking at either. `{in_process}` reads, scores and writes without a server, in one thread.
"""


def machine() -> str:
    """Processor, cores, memory, kernel and Python."""
    facts = dict(_pairs(Path("/proc/cpuinfo").read_text()))
    memory = dict(_pairs(Path("/proc/meminfo").read_text()))
    gib = int(memory["MemTotal"].split()[0]) / 1024**2
    cores = Path("/proc/cpuinfo").read_text().count("processor\t")
    model = facts.get("model name", platform.machine())
    return f"{cores} cores of {model}, {gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in text.splitlines())]


def page(
    outcomes: Sequence[Outcome],
    figures: Sequence[Figure],
    batch: str,
    command: str,
    rounds: int,
    seconds: float,
    busy: float,
    old: Path,
) -> str:
    """
    The whole page.

    Args:
        batch: the section about batch.
        busy: the machine's load average before anything was measured.
        old: the page as it was: its `REMARKS` were written by hand, and stay.
    """
    introduction = INTRODUCTION.format(
        command=command,
        rounds=rounds,
        seconds=seconds,
        machine=machine(),
        busy=busy,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        sklearn=version("scikit-learn"),
        numpy=version("numpy"),
        pandas=version("pandas"),
        peers=", ".join(peer.requirements[0].replace("==", " ") for peer in PEERS),
        echo=ECHO,
        in_process=IN_PROCESS,
    )
    parts = [introduction]
    models = dict.fromkeys(outcome.model for outcome in outcomes)
    parts += [
        f"## {model.capitalize()}\n\n{comparison_table([o for o in outcomes if o.model == model])}" for model in models
    ]
    if figures:
        parts.append(f"## {OURS.name} alone\n\n{figure_table(figures)}")
    parts.append(batch)
    if old.exists() and REMARKS in (text := old.read_text()):
        parts.append(text[text.index(REMARKS) :])
    return "\n\n".join(part.strip() for part in parts) + "\n"


def comparison_table(outcomes: Sequence[Outcome]) -> str:
    """One line per case and server, with what we are to each."""
    lines = [
        "| case | server | requests/s | rows/s | p50 ms | p99 ms | ours is |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    ours = {outcome.case: outcome.load for outcome in outcomes if outcome.server == OURS.name}
    for outcome in outcomes:
        load, case = outcome.load, outcome.case
        ratio = ours[case].per_second / load.per_second
        times = "" if outcome.server == OURS.name else f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"
        if outcome.server == ECHO and case.concurrency == 1:
            times += f" (p50 {ours[case].p50 / load.p50:.1f}x)"
        lines.append(
            f"| {case.name} | {outcome.server} | {load.per_second:,.1f} | {load.per_second * case.rows:,.0f} "
            f"| {load.p50 * 1e3:.2f} | {load.p99 * 1e3:.2f} | {times} |"
        )
    return "\n".join(lines)


def figure_table(figures: Sequence[Figure]) -> str:
    """One line per figure."""
    lines = ["| what | measured | target |", "|---|---:|---|"]
    for figure in figures:
        number = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.2f}"
        lines.append(f"| {figure.what} | {number} {figure.unit} | {figure.target} |")
    return "\n".join(lines)
