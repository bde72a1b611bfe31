from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.errors import InvalidParameter
from model_repository.predictions import ExplanationOptions, ScoringOptions, Target
from prediction_api.options import EXCLUSIVE, PARAMETERS, options_from

REGRESSION = Target(name="price", type="Regression", usual_range=(0.0, 1.0))
BINARY = Target(name="bad", type="Binary", class_labels=["yes", "no"])
MULTICLASS = Target(name="pet", type="Multiclass", class_labels=["cat", "lion", 3])

SAMPLES = {
    "passthroughColumns": "a",
    "passthroughColumnsSet": "all",
    "decimalsNumber": "3",
    "maxExplanations": "0",
    "maxCodes": "0",
    "maxNgramExplanations": "all",
    "thresholdLow": "0.2",
    "thresholdHigh": "1e-3",
    "excludeAdjustedPredictions": "no",
    "explanationNumTopClasses": "2",
    "explanationClassNames": "cat",
    "predictionWarningEnabled": "false",
}


@pytest.mark.parametrize(
    ("query", "target", "options"),
    [
        (b"", BINARY, ScoringOptions()),
        (b"passthroughColumns=a&passthroughColumns=b&passthroughColumns=a", BINARY, ScoringOptions(keep=("a", "b"))),
        (b"passthroughColumns=%C3%A9t%C3%A9+2%2C&", BINARY, ScoringOptions(keep=("été 2,",))),
        ("passthroughColumns=été".encode(), BINARY, ScoringOptions(keep=("été",))),
        (b"passthroughColumnsSet=all", BINARY, ScoringOptions(keep="all")),
        (b"decimalsNumber=0", BINARY, ScoringOptions(decimals=0)),
        (b"decimalsNumber=15", BINARY, ScoringOptions(decimals=15)),
        (b"maxExplanations=0", BINARY, ScoringOptions()),
        (b"maxNgramExplanations=all&thresholdLow=0.678&thresholdHigh=0.345", BINARY, ScoringOptions()),
        (b"excludeAdjustedPredictions=FALSE", BINARY, ScoringOptions(adjusted=True)),
        (b"excludeAdjustedPredictions=1", BINARY, ScoringOptions()),
        (b"predictionWarningEnabled=1", REGRESSION, ScoringOptions(warn_outliers=True)),
        (b"predictionWarningEnabled=N", BINARY, ScoringOptions()),
        (b"explanationClassNames=lion&explanationClassNames=3", MULTICLASS, ScoringOptions()),
        (b"explanationNumTopClasses=3", MULTICLASS, ScoringOptions()),
    ],
)
def test_options_from(query, target, options):
    assert options_from(query, target) == options


@pytest.mark.parametrize(
    ("query", "target", "message"),
    [
        (b"wd=1", BINARY, "'wd': wd is not allowed key"),
        (b"PassthroughColumns=a", BINARY, "'PassthroughColumns': PassthroughColumns is not allowed key"),
        (b"passthroughColumns=a&passthroughColumns=", BINARY, "'passthroughColumns': blank value is not allowed"),
        (b"passthroughColumnsSet=ALL", BINARY, "'passthroughColumnsSet': value is not exactly 'all'"),
        (
            b"passthroughColumns=a&passthroughColumnsSet=all",
            BINARY,
            "'passthroughColumns' and 'passthroughColumnsSet' exclude each other: give one of them",
        ),
        (b"decimalsNumber=16", BINARY, "'decimalsNumber': value is not a whole number from 0 to 15"),
        (b"decimalsNumber=-1", BINARY, "'decimalsNumber': value is not a whole number from 0 to 15"),
        ("decimalsNumber=١".encode(), BINARY, "'decimalsNumber': value is not a whole number from 0 to 15"),
        (b"decimalsNumber=", BINARY, "'decimalsNumber': value is not a whole number from 0 to 15"),
        (b"decimalsNumber=1&decimalsNumber=2", BINARY, "'decimalsNumber': only one value is allowed"),
        (b"maxExplanations=x", BINARY, "'maxExplanations': value is neither a whole number, 0 or more, nor 'all'"),
        (
            b"maxExplanations=0&maxCodes=0",
            BINARY,
            "'maxExplanations' and 'maxCodes' exclude each other: give one of them",
        ),
        (b"explanationAlgorithm=lime", BINARY, "'explanationAlgorithm': value is not 'xemp' or 'shap'"),
        (b"thresholdLow=much", BINARY, "'thresholdLow': value is not a number"),
        (b"thresholdHigh=nan", BINARY, "'thresholdHigh': value is not a number"),
        (
            b"excludeAdjustedPredictions=maybe",
            BINARY,
            "'excludeAdjustedPredictions': value is not a boolean: true or false",
        ),
        (
            b"explanationNumTopClasses=1",
            BINARY,
            "'explanationNumTopClasses': only for multiclass models, this one is binary",
        ),
        (
            b"explanationNumTopClasses=4",
            MULTICLASS,
            "'explanationNumTopClasses': value is not a whole number from 1 to 3",
        ),
        (b"explanationClassNames=dog", MULTICLASS, "'explanationClassNames': the model has no class 'dog'"),
        (
            b"explanationClassNames=cat&explanationNumTopClasses=1",
            MULTICLASS,
            "'explanationNumTopClasses' and 'explanationClassNames' exclude each other: give one of them",
        ),
        (b"forecastPoint=soon", BINARY, "'forecastPoint': value is not an ISO 8601 date or time"),
        (
            b"forecastPoint=2024-01-31",
            BINARY,
            "'forecastPoint': only for time series models, this one is binary",
        ),
        (
            b"predictionsStartDate=2024-01-31",
            BINARY,
            "'predictionsStartDate' and 'predictionsEndDate' are only allowed together",
        ),
        (
            b"forecastPoint=2024-01-31&predictionsStartDate=2024-01-31&predictionsEndDate=2024-02-01",
            BINARY,
            "'forecastPoint' and 'predictionsStartDate' exclude each other: give one of them",
        ),
        (
            b"relaxKnownInAdvanceFeaturesCheck=false",
            REGRESSION,
            "'relaxKnownInAdvanceFeaturesCheck': only for time series models, this one is regression",
        ),
        (b"passthroughColumns=%FF", BINARY, "the query string is not percent-encoded UTF-8"),
    ],
)
def test_refused(query, target, message):
    with pytest.raises(InvalidParameter) as caught:
        options_from(query, target)
    assert str(caught.value) == message


XEMP = ExplanationOptions("xemp", 3)
SHAP = ExplanationOptions("shap", None)


@pytest.mark.parametrize(
    ("query", "default", "explain"),
    [
        pytest.param(b"maxExplanations=3", 0, XEMP, id="a number"),
        pytest.param(b"maxCodes=3", 0, XEMP, id="its old name"),
        pytest.param(b"maxExplanations=10", 0, replace(XEMP, count=10), id="most of xemp"),
        pytest.param(b"", 3, XEMP, id="the old route"),
        pytest.param(b"maxExplanations=0", 3, None, id="off on the old route"),
        pytest.param(b"maxCodes=2", 3, replace(XEMP, count=2), id="a number on the old route"),
        pytest.param(b"explanationAlgorithm=xemp", 0, None, id="xemp alone is off"),
        pytest.param(b"explanationAlgorithm=xemp&maxExplanations=0", 0, None, id="xemp and 0"),
        pytest.param(b"explanationAlgorithm=shap", 0, SHAP, id="shap alone is all"),
        pytest.param(b"explanationAlgorithm=shap&maxExplanations=0", 0, SHAP, id="shap and 0 is all"),
        pytest.param(b"explanationAlgorithm=shap", 3, replace(SHAP, count=3), id="shap on the old route"),
        pytest.param(b"maxExplanations=all", 0, SHAP, id="all is shap"),
        pytest.param(b"maxCodes=all&explanationAlgorithm=shap", 0, SHAP, id="all of shap"),
        pytest.param(b"explanationAlgorithm=shap&maxExplanations=500", 0, replace(SHAP, count=500), id="many of shap"),
        pytest.param(
            b"maxExplanations=3&thresholdLow=0.678&thresholdHigh=-1e-3", 0,
            replace(XEMP, threshold_low=0.678, threshold_high=-0.001), id="thresholds",
        ),
        pytest.param(b"maxExplanations=3&maxNgramExplanations=all", 0, XEMP, id="words are ignored"),
    ],
)  # fmt: skip
def test_explanations(query, default, explain):
    assert options_from(query, BINARY, explanations=default) == ScoringOptions(explain=explain)


@pytest.mark.parametrize(
    ("query", "changes"),
    [
        (b"", {}),
        (b"&explanationNumTopClasses=2", {"top_classes": 2}),
        (b"&explanationClassNames=3&explanationClassNames=cat&explanationClassNames=3", {"classes": (2, 0)}),
    ],
)
def test_explained_classes(query, changes):
    assert options_from(b"maxExplanations=3" + query, MULTICLASS).explain == replace(XEMP, **changes)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            b"maxExplanations=11",
            "'maxExplanations': value is not a whole number from 0 to 10; more only with explanationAlgorithm=shap",
        ),
        (
            b"maxCodes=100&explanationAlgorithm=xemp",
            "'maxCodes': value is not a whole number from 0 to 10; more only with explanationAlgorithm=shap",
        ),
        (
            b"maxExplanations=all&explanationAlgorithm=xemp",
            "'maxExplanations': 'all' is only for explanationAlgorithm=shap",
        ),
        (b"maxExplanations=-1", "'maxExplanations': value is neither a whole number, 0 or more, nor 'all'"),
        (b"maxExplanations=2.5", "'maxExplanations': value is neither a whole number, 0 or more, nor 'all'"),
        (b"maxExplanations=ALL", "'maxExplanations': value is neither a whole number, 0 or more, nor 'all'"),
        (b"maxNgramExplanations=x", "'maxNgramExplanations': value is neither a whole number, 0 or more, nor 'all'"),
        (b"explanationAlgorithm=", "'explanationAlgorithm': value is not 'xemp' or 'shap'"),
        (b"explanationAlgorithm=SHAP", "'explanationAlgorithm': value is not 'xemp' or 'shap'"),
    ],
)
def test_explanations_that_are_refused(query, message):
    with pytest.raises(InvalidParameter) as caught:
        options_from(query, BINARY, explanations=3)
    assert str(caught.value) == message


@pytest.mark.parametrize("target", [BINARY, MULTICLASS, Target(name="odd", type="Anomaly")], ids=lambda one: one.type)
def test_warnings_need_a_usual_range(target):
    with pytest.raises(InvalidParameter, match="'predictionWarningEnabled': only for regression models"):
        options_from(b"predictionWarningEnabled=true", target)


@pytest.mark.parametrize("word", ["true", "True", "1", "YES", "y"])
def test_true(word):
    assert options_from(f"predictionWarningEnabled={word}".encode(), REGRESSION).warn_outliers


@pytest.mark.parametrize(
    "moment",
    [
        "2024-01-31",
        "2024-01-31T12:00:00",
        "2024-01-31T12:00:00Z",
        "2024-01-31T12:00:00.123456",
        "2024-01-31T12:00:00+00:00",
        "2024-01-31T12:00:00%2B00:00",
        "2024-01-31%2012:00",
        "1900-01-01T00:00:00.000000Z",
        "2262-04-11T23:47:16.854775+00:00",
    ],
)
def test_moments(moment):
    with pytest.raises(InvalidParameter, match="only for time series models"):
        options_from(f"forecastPoint={moment}".encode(), BINARY)


@pytest.mark.parametrize("pair", EXCLUSIVE, ids=" ".join)
def test_rows_of_the_tables_are_known(pair):
    assert set(pair) <= set(PARAMETERS)


@given(st.lists(st.sampled_from(sorted(SAMPLES)), max_size=6))
def test_any_mix_is_read_or_refused(names):
    query = "&".join(f"{name}={SAMPLES[name]}" for name in names)
    try:
        options = options_from(query.encode(), MULTICLASS)
    except InvalidParameter as exc:
        assert any(name in str(exc) for name in names)
    else:
        assert options.keep in ((), ("a",), "all")


@given(st.binary(max_size=200))
def test_any_query_is_read_or_refused(query):
    try:
        options_from(query, BINARY)
    except InvalidParameter as exc:
        assert str(exc)
