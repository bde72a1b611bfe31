"""A package as one page for people: HTML with drawings in it, which needs no network and runs nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from model_repository.explanations import SYMBOLS, Algorithm, Explained, ExplanationOptions, Gathered
from model_repository.golden import TOLERANCE, rows_of
from model_repository.manifest import Manifest
from model_repository.markup import Html, tag
from model_repository.repository import Model
from model_repository.tables import Feature, FloatArray, Table

MOST_IMPACTS: Final = 30
MOST_STRENGTHS: Final = 10
_CSS: Final = Path(__file__).with_name("model_card.css").read_text(encoding="utf-8")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def model_card(model: Model) -> str:
    """The page; *model* is loaded and verified."""
    manifest = model.manifest
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{manifest.name}: model card"),
        tag("style", Html(_CSS)),
    ]
    body = [
        tag("h1", manifest.name),
        tag("p", f"Predicts {_target_words(manifest)} from {len(manifest.features)} columns.", class_="soft"),
        *_section("The model", _facts(model)),
        *_section("How well it predicts", _metrics(manifest)),
        *_section("What it looks at", _impacts(model)),
        *_section("One prediction explained", _example(model)),
        *_section("Its columns", _columns(manifest)),
    ]
    page = tag("html", tag("head", head), tag("body", tag("main", body)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _section(title: str, content: list[Html]) -> list[Html]:
    return [tag("h2", title), *content]


def _target_words(manifest: Manifest) -> str:
    target = manifest.target
    if target.type == "Anomaly":
        return "how unusual a row is"
    if target.class_labels is None:
        return f"the number {target.name}"
    labels = [str(label) for label in target.class_labels]
    if target.type == "Binary":
        return f"whether {target.name} is {labels[0]} or {labels[1]}"
    return f"which of {len(labels)} classes {target.name} is"


def _table(caption: str, heads: list[tuple[str, str]], rows: list[list[Html]]) -> Html:
    """*heads*: text and class of each column."""
    head = tag("thead", tag("tr", [tag("th", text, scope="col", class_=kind) for text, kind in heads]))
    return tag("table", tag("caption", caption), head, tag("tbody", [tag("tr", cells) for cells in rows]))


def _name(text: str) -> Html:
    return tag("th", text, scope="row", class_="name")


def _number(value: float) -> Html:
    return tag("td", f"{value:+.4g}" if value else "0", class_="number")


def _facts(model: Model) -> list[Html]:
    manifest, target = model.manifest, model.manifest.target
    facts = {"Target": f"{target.name}, {target.type}"}
    if target.class_labels:
        facts["Classes"] = ", ".join(map(str, target.class_labels))
    if target.type == "Binary":
        facts["Positive above"] = f"{target.threshold:g}"
    if manifest.exposure is not None:
        facts["Exposure"] = manifest.exposure
    served = "the compiled plan" if model.path == "compiled" else f"the original estimator: {model.reason}"
    facts |= {
        "Served by": served,
        "Parity": f"predicts {len(model.golden.values)} golden rows as the original estimator did: largest difference "
        f"{model.golden_difference:.2g}, allowed {TOLERANCE:g}",
        "Created": manifest.created,
        "Model id": manifest.model_id,
        "Package": f"{model.package_bytes:,} bytes, format {manifest.format_version}",
        "Made with": ", ".join(f"{library} {version}" for library, version in manifest.versions.items()),
    }
    rows = [tag("tr", tag("th", name, scope="row", class_="name"), tag("td", value)) for name, value in facts.items()]
    return [tag("table", tag("tbody", rows))]


def _metrics(manifest: Manifest) -> list[Html]:
    metrics = manifest.metrics
    if metrics is None:
        return [tag("p", "Unknown: the sample that the package was made of had no outcomes, or nobody compared.")]
    caption = (
        f"On the {metrics.rows} golden rows. They are rows of the sample, chosen to be varied, and the model may have "
        "been fitted on them: this says that it works, not how well it does on new rows."
    )
    rows = [[_name(name), tag("td", f"{value:.4g}", class_="number")] for name, value in metrics.values.items()]
    return [_table(caption, [("figure", "name"), ("value", "number")], rows)]


def _impacts(model: Model) -> list[Html]:
    impact = model.explainer.impact
    if impact is None:
        return [tag("p", "Unknown: the package was made with --no-reference.")]
    order = np.argsort(-impact, kind="stable")[:MOST_IMPACTS].tolist()
    rows = []
    for place in order:
        share = float(impact[place])
        drawing = _drawing(_bar(0.0, 100 * share, "up"))
        number = tag("td", f"{share:.3g}", class_="number")
        rows.append([_name(model.manifest.features[place].name), number, tag("td", drawing, class_="bar")])
    more = len(impact) - len(order)
    caption = "How far the predictions move when a column's values are shuffled among the rows; the largest is 1."
    note = [tag("p", f"{more} further columns matter less.", class_="soft")] if more else []
    return [_table(caption, [("column", "name"), ("impact", "number"), ("", "bar")], rows), *note]


def _example(model: Model) -> list[Html]:
    """The golden row with the highest prediction of the first class or number."""
    algorithms = model.explainer.algorithms
    if not algorithms:
        return [tag("p", model.explainer.problem("xemp") or "")]
    algorithm: Algorithm = "shap" if "shap" in algorithms else "xemp"
    rows = Table.from_rows(rows_of(model.golden, model.manifest.schema), model.manifest.schema)
    values = np.array(model.golden.values)
    place = int(values[:, 0].argmax())
    gathered = Gathered(model.explainer, ExplanationOptions(algorithm, MOST_STRENGTHS))
    gathered.add(rows.taken(np.array([place])), values[place : place + 1])
    explained = gathered.whole()
    raised = _raised(model, int(explained.classes[0, 0]))
    said = f"A golden row for which {raised} is {values[place, explained.classes[0, 0]]:.4g}."
    draw = _waterfall if algorithm == "shap" else _both_ways
    return [tag("p", said), draw(_Reasons.of(model.manifest.features, explained), raised)]


def _raised(model: Model, place: int) -> str:
    """What a positive strength raises."""
    target = model.manifest.target
    if target.class_labels is not None:
        return f"the probability of {target.class_labels[place]}"
    return "the anomaly score" if target.type == "Anomaly" else f"the prediction of {target.name}"


@dataclass(frozen=True)
class _Reasons:
    """The explanations of one row."""

    names: list[str]
    """Of the columns, with their values."""
    strengths: list[float]
    symbols: list[str]
    base: float
    rest: float

    @classmethod
    def of(cls, features: list[Feature], explained: Explained) -> "_Reasons":
        places = explained.features[0, 0]
        there = np.flatnonzero(places >= 0).tolist()
        cells = [_cell(features[places[slot]], explained, slot) for slot in there]
        symbols = explained.symbols
        return cls(
            names=[f"{features[places[slot]].name} = {cell}" for slot, cell in zip(there, cells, strict=True)],
            strengths=explained.strengths[0, 0, there].tolist(),
            symbols=["" if symbols is None else SYMBOLS[symbols[0, 0, slot]] for slot in there],
            base=explained.base_value,
            rest=0.0 if explained.remaining is None else float(explained.remaining[0]),
        )


def _cell(feature: Feature, explained: Explained, slot: int) -> str:
    value = float(explained.values[0, 0, slot])
    if not feature.is_numeric:
        return explained.texts[int(explained.features[0, 0, slot])][int(value)] if value >= 0 else "missing"
    if np.isnan(value):
        return "missing"
    return str(bool(value)).lower() if feature.type == "boolean" else f"{value:g}"


def _waterfall(reasons: _Reasons, raised: str) -> Html:
    """From the base value, reason by reason, to the margin."""
    steps = [("base value", reasons.base), *zip(reasons.names, reasons.strengths, strict=True)]
    steps.append(("all other columns", reasons.rest))
    ends: FloatArray = np.cumsum([value for _, value in steps])
    starts = np.concatenate([ends[:1], ends[:-1]])  # the base value is where the others start, and no step
    rows = [
        [_name(name), _number(value), tag("td", drawing, class_="bar")]
        for (name, value), drawing in zip(steps, _steps(starts, ends), strict=True)
    ]
    rows.append([_name("together: the margin"), _number(float(ends[-1])), tag("td", "", class_="bar")])
    caption = (
        f"SHAP values: from the base value, each column moves the margin to the right (it raises {raised}) or to the "
        "left. The margin is the scale on which the model adds up, such as log-odds."
    )
    return _table(caption, [("column and value", "name"), ("strength", "number"), ("", "bar")], rows)


def _both_ways(reasons: _Reasons, raised: str) -> Html:
    """Strengths that do not add up: each on its own."""
    zeros = np.zeros(len(reasons.strengths))
    drawings = _steps(zeros, np.array(reasons.strengths))
    columns = zip(reasons.names, reasons.strengths, reasons.symbols, drawings, strict=True)
    rows = [
        [_name(name), _number(value), tag("td", symbol, class_="mark"), tag("td", drawing, class_="bar")]
        for name, value, symbol, drawing in columns
    ]
    caption = f"Strengths by exemplars: to the right a column raises {raised}, to the left it lowers it."
    heads = [("column and value", "name"), ("strength", "number"), ("weight", "mark"), ("", "bar")]
    return _table(caption, heads, rows)


def _steps(starts: FloatArray, ends: FloatArray) -> Iterator[Html]:
    """A drawing of each step, all on one scale."""
    low = float(min(starts.min(initial=0.0), ends.min(initial=0.0)))
    high = float(max(starts.max(initial=0.0), ends.max(initial=0.0)))
    scale = 100 / (high - low or 1.0)
    axis = tag("line", x1=-low * scale, x2=-low * scale, y1=-2, y2=12, class_="axis")
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        kind = "up" if end > start else "down" if end < start else "rest"
        yield _drawing(axis, _bar((min(start, end) - low) * scale, abs(end - start) * scale, kind))


def _bar(start: float, width: float, kind: str) -> Html:
    return tag("rect", x=round(start, 2), width=round(max(width, 0.4), 2), y=1, height=8, class_=kind)


def _drawing(*shapes: Html) -> Html:
    """Its number stands beside it: a screen reader need not see it."""
    return tag("svg", *shapes, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


def _columns(manifest: Manifest) -> list[Html]:
    rows = [
        [
            _name(feature.name),
            tag("td", feature.type),
            tag("td", "may be missing" if feature.missing_allowed else "required"),
        ]
        for feature in manifest.features
    ]
    return [_table("What a request must have.", [("column", "name"), ("type", ""), ("missing values", "")], rows)]
