"""
Write a table of the past, a request, and how to fit a model:  python examples/sea.py FOLDER

The data came with statsmodels: how warm the sea off Peru was in each month from 1950 to 2010, in degrees Celsius, as
the National Oceanic and Atmospheric Administration measured it. The model learns from the years before 2010, and is
asked for the first half of 2010: an El Nino was just ending.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

SETTINGS = """\
target: degrees
datetime_column: month
time_step: 1 month
feature_derivation_window: [-23, 0]
forecast_window: [1, 6]
date_parts: [month]
prediction_interval: 80
"""
HISTORY = 24  # months
AHEAD = 6
NOW = "2010-01-01"


def measurements() -> pd.DataFrame:
    """A row for every month."""
    found = find_spec("statsmodels")  # importing it takes a second, and only a file of it is wanted
    if found is None or not found.submodule_search_locations:
        raise SystemExit("this needs the data of statsmodels: pip install statsmodels")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "elnino" / "elnino.csv"
    degrees = pd.read_csv(path, index_col="YEAR").to_numpy()  # a year per row
    months = pd.date_range("1950-01-01", periods=degrees.size, freq="MS").strftime("%Y-%m-%d")
    return pd.DataFrame({"month": months, "degrees": degrees.ravel()})


def write(folder: Path) -> None:
    """``past.csv`` and ``ts.yml`` to make a package of, ``ask.csv`` to send, ``measured.csv`` to compare with."""
    folder.mkdir(parents=True, exist_ok=True)
    table = measurements()
    now = int((table["month"] < NOW).sum())
    table[:now].to_csv(folder / "past.csv", index=False)
    ahead = table[now : now + AHEAD]
    pd.concat([table[now - HISTORY : now], ahead.assign(degrees=None)]).to_csv(folder / "ask.csv", index=False)
    ahead.to_csv(folder / "measured.csv", index=False)
    (folder / "ts.yml").write_text(SETTINGS)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
