import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_repository.errors import InvalidParameter
from model_repository.predictions import ScoringOptions, Target
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
        (b"excludeAdjustedPredictions=FALSE", BINARY, ScoringOptions()),
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


@pytest.mark.parametrize(
    "query", [b"maxExplanations=1", b"maxExplanations=all", b"maxCodes=3", b"explanationAlgorithm=shap"]
)
def test_explanations_are_not_available(query):
    with pytest.raises(InvalidParameter, match="not available because the model package carries none"):
        options_from(query, BINARY)


def test_the_old_route_has_them_on_by_default():
    with pytest.raises(InvalidParameter, match="carries none"):
        options_from(b"", BINARY, explanations=3)
    assert options_from(b"maxExplanations=0", BINARY, explanations=3) == ScoringOptions()


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
