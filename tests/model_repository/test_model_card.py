"""The page about a package, as a browser shows it."""

import argparse
import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline

from model_repository import create_package, package_cli
from model_repository.markup import Html, shown, tag
from model_repository.metrics import metrics_of
from model_repository.model_card import model_card
from model_repository.predictions import Target
from model_repository.repository import load_model
from tests.conftest import Packaged, linear_inputs

NASTY = [
    "<script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 2">',
    "</title></style><b>bold</b>",
    "'; alert(1) //",
    "\u202egnirts\u0007 \ud7ff &amp; &lt;",
    "long" * 200,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], Page]]:
    """``opened(package)``: the page that the command writes, on a narrow screen; nothing else may be asked for."""
    with contextlib.ExitStack() as pages:
        noises: list[str] = []

        def make(package: Path) -> Page:
            browser: Browser = request.getfixturevalue("browser")  # only now: a test that needs it says so
            target = tmp_path / "report.html"
            parser = argparse.ArgumentParser()
            package_cli.add_arguments(parser)
            assert package_cli.run(parser.parse_args(["report", str(package), "-o", str(target)])) == 0
            page = browser.new_page(viewport={"width": 400, "height": 800})
            pages.callback(page.close)
            page.on("console", lambda message: noises.append(message.text))
            page.on("pageerror", lambda error: noises.append(str(error)))
            page.on("request", lambda one: None if one.url == target.as_uri() else noises.append(one.url))
            page.goto(target.as_uri())
            return page

        yield make
        assert noises == []


def rows_under(page: Page, heading: str) -> list[list[str]]:
    """The body of the table of a section, as people read it."""
    table = page.locator(f"h2:text-is('{heading}') ~ table").first
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tbody tr").all()]


def bars(page: Page, heading: str) -> list[Any]:
    """Left end and width of each bar of a section, in pixels."""
    table = page.locator(f"h2:text-is('{heading}') ~ table").first
    return [table_bar.bounding_box() for table_bar in table.locator("rect").all()]


@pytest.mark.needs("chromium")
def test_a_boosted_regression(opened: Any, regression: Packaged) -> None:
    """All sections; the waterfall's steps follow each other and end at the sum."""
    page = opened(regression.path)
    model = load_model(regression.path)
    assert page.title() == "regression: model card"
    assert page.get_by_role("heading", level=1).inner_text() == "regression"
    facts = dict(rows_under(page, "The model"))
    assert facts["Target"] == "spent, Regression"
    assert facts["Served by"] == "the compiled plan"
    assert re.search(r"predicts \d+ golden rows .* largest difference \S+, allowed 1e-09", facts["Parity"])
    assert [name for name, _ in rows_under(page, "How well it predicts")] == ["RMSE", "MAE", "R2"]

    impacts = rows_under(page, "What it looks at")
    assert impacts[0][1] == "1"
    assert {name for name, *_ in impacts} == {"age", "income", "city", "member"}
    widths = [box["width"] for box in bars(page, "What it looks at")]
    assert widths == sorted(widths, reverse=True)
    assert widths[1] / widths[0] == pytest.approx(float(impacts[1][1]), abs=0.02)

    steps = rows_under(page, "One prediction explained")
    assert (steps[0][0], steps[-2][0], steps[-1][0]) == ("base value", "all other columns", "together: the margin")
    total = sum(float(strength) for _, strength, _ in steps[:-1])
    assert total == pytest.approx(float(steps[-1][1]), rel=1e-3)
    assert float(steps[-1][1]) == pytest.approx(max(value for (value,) in model.golden.values), rel=1e-3)
    drawn = bars(page, "One prediction explained")[1:]
    for (_, strength, _), box, after in zip(steps[1:-2], drawn, drawn[1:], strict=False):
        end = box["x"] + (box["width"] if float(strength) > 0 else 0)
        near = after["x"] if float(steps[1 + drawn.index(after)][1]) > 0 else after["x"] + after["width"]
        assert near == pytest.approx(end, abs=1.5)


@pytest.mark.needs("chromium")
@pytest.mark.parametrize(
    ("name", "figures", "reasons"),
    [
        ("binary", ["log loss", "accuracy", "AUC"], "SHAP values"),
        ("multiclass", ["log loss", "accuracy"], "Strengths by exemplars"),
        ("anomaly", None, "SHAP values"),
    ],
)
def test_other_models(opened: Any, name: str, figures: list[str] | None, reasons: str, request: Any) -> None:
    page = opened(request.getfixturevalue(name).path)
    if figures is None:
        assert page.get_by_text("Unknown: the sample that the package was made of had no outcomes").is_visible()
    else:
        assert [figure for figure, _ in rows_under(page, "How well it predicts")] == figures
    assert page.locator("caption", has_text=reasons).is_visible()
    assert [row[0] for row in rows_under(page, "Its columns")] == ["age", "income", "city", "member"]


@pytest.mark.needs("chromium")
def test_it_is_read_aloud_and_fits_a_narrow_screen(opened: Any, binary: Packaged) -> None:
    """Every table has a caption or a heading, every row a header; drawings say nothing that is not written."""
    page = opened(binary.path)
    tree = page.locator("main").aria_snapshot()
    assert 'heading "One prediction explained" [level=2]' in tree
    assert re.search(r'rowheader "age = \S+"', tree)
    assert re.search(r'columnheader "strength"', tree)
    assert "img" not in tree
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.needs("chromium")
def test_hostile_names_are_text(opened: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sample = pd.DataFrame({name: random.normal(size=40) for name in NASTY})
    words = [NASTY[0], NASTY[1]]
    sample["t</caption>"] = np.where(sample[NASTY[0]] > 0, *words)
    estimator = LogisticRegression().fit(sample[NASTY].to_numpy(), sample["t</caption>"])
    estimator.feature_names_in_ = np.array(NASTY, dtype=object)
    path = tmp_path / "nasty.mlpkg"
    create_package(path, estimator, sample, target="t</caption>", name=NASTY[2])
    page = opened(path)
    assert page.evaluate("window.pwned") is None
    assert page.locator("script, img, b").count() == 0
    assert page.get_by_role("heading", level=1).inner_text() == NASTY[2]
    assert [row[0] for row in rows_under(page, "Its columns")][:2] == NASTY[:2]
    assert "\u202e" not in page.locator("main").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.needs("chromium")
def test_a_package_without_reference_rows(opened: Any, made: Callable[..., Packaged]) -> None:
    model = make_pipeline(linear_inputs(), KNeighborsClassifier())
    page = opened(made("bare", model, "bought", reference=False).path)
    assert page.get_by_text("the package was made with --no-reference").is_visible()
    assert page.get_by_text("the model's package has no reference rows").is_visible()
    assert dict(rows_under(page, "The model"))["Served by"].startswith("the original estimator: ")


def test_the_page_needs_nothing_and_runs_nothing(regression: Packaged) -> None:
    """Without a browser: no address, no script, and a policy that forbids both."""
    page = model_card(load_model(regression.path))
    assert not re.search(r"https?:|//[a-z]|@import|<link|<script|src=|url\(", page)
    assert "default-src &#x27;none&#x27;" in page


@pytest.mark.parametrize("missing", ["package", "directory"])
def test_what_cannot_be_reported(missing: str, regression: Packaged, tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "no.mlpkg" if missing == "package" else regression.path
    target = tmp_path / "r.html" if missing == "package" else tmp_path / "no" / "r.html"
    parser = argparse.ArgumentParser()
    package_cli.add_arguments(parser)
    assert package_cli.run(parser.parse_args(["report", str(source), "-o", str(target)])) == 2
    assert "no such" in capsys.readouterr().err.lower()
    assert not target.exists()


def test_markup_is_made_only_on_purpose() -> None:
    assert tag("p", "<b>&", Html("<i>x</i>"), class_='"x"', aria_hidden="true") == (
        '<p class="&quot;x&quot;" aria-hidden="true">&lt;b&gt;&amp;<i>x</i></p>'
    )
    assert shown("a\nb\x00\u202e" + "c" * 300) == "a b\ufffd\ufffd" + "c" * 195 + "…"


PRICE = Target(name="y", type="Regression")
YES = Target(name="y", type="Binary", class_labels=["yes", "no"])
CATS = Target(name="y", type="Multiclass", class_labels=[1, 2, 3])


@pytest.mark.parametrize(
    ("target", "outcomes", "predictions", "figures"),
    [
        pytest.param(PRICE, [1.0, 3.0], [[1.0], [2.0]], {"RMSE": 0.5**0.5, "MAE": 0.5, "R2": 0.5}, id="regression"),
        pytest.param(PRICE, [1.0, np.nan], [[2.0], [2.0]], {"RMSE": 1.0, "MAE": 1.0}, id="one outcome known"),
        pytest.param(PRICE, [np.nan], [[2.0]], {}, id="none known"),
        pytest.param(
            YES, ["yes", "no", "yes", "no", None, "?"], [[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.5, 0.5], [0, 1], [0, 1]],
            {"log loss": (2 * np.log(4 / 3) + np.log(4) + np.log(2)) / 4, "accuracy": 0.75, "AUC": 0.625}, id="binary",
        ),
        pytest.param(YES, ["no"], [[0.0, 1.0]], {"log loss": 0.0, "accuracy": 1.0}, id="one class"),
        pytest.param(
            CATS, [1, 3], [[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]], {"log loss": np.log(2), "accuracy": 0.5}, id="three classes"
        ),
        pytest.param(Target(name="y", type="Anomaly"), [1.0], [[1.0]], {}, id="anomaly"),
    ],
)  # fmt: skip
def test_figures(target: Target, outcomes: list[Any], predictions: Any, figures: dict[str, float]) -> None:
    assert metrics_of(outcomes, np.array(predictions, dtype=float), target) == pytest.approx(figures)


@pytest.mark.parametrize(("with_outcomes", "names"), [(True, ["RMSE", "MAE", "R2"]), (False, None)])
def test_a_package_says_how_well_it_predicts(with_outcomes: bool, names: list[str] | None, tmp_path: Path) -> None:
    """Where the sample has the outcomes."""
    sample = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [1.0, 2.5, 3.0]})
    estimator = LinearRegression().fit(sample[["x"]], sample["y"])
    manifest = create_package(tmp_path / "m.mlpkg", estimator, sample if with_outcomes else sample[["x"]], target="y")
    again = load_model(tmp_path / "m.mlpkg").manifest
    assert again == msgspec.structs.replace(manifest, members=again.members)
    assert (None if manifest.metrics is None else list(manifest.metrics.values)) == names
