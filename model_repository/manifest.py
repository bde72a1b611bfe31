"""
What a package says of itself: ``manifest.json``, read like any hostile input.

Rules for change: a field may be added with a default without a new `FORMAT_VERSION`; anything that an older server
would misread raises the version, and this module keeps reading the old one.
"""

import json
from typing import Annotated, Any, Final, Literal

import msgspec

from model_repository.errors import InvalidPackage
from model_repository.predictions import Target
from model_repository.tables import Feature, Schema
from model_repository.timeseries.spec import TimeSeries, check_spec

FORMAT_VERSION: Final = 1
TIMESERIES_FORMAT_VERSION: Final = 2
"""Of time series alone: an older server would take their derived features for columns of a request."""
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 16
MANIFEST_NAME: Final = "manifest.json"
_TOO_DEEP: Final = f"{MANIFEST_NAME}: nested deeper than {MAX_DEPTH}"

ModelId = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{24}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Serializer = Literal["skops", "joblib"]


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the archive."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Sha256


class EstimatorMember(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the original estimator is and how to read it."""

    member: str
    serializer: Serializer
    expects: Literal["dataframe", "array"] = "dataframe"
    """What the estimator was fitted on."""


class PlanMember(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the compiled plan is: ``member`` is its JSON, ``arrays`` the numbers it refers to."""

    member: str
    arrays: str


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """How well some rows are predicted."""

    rows: int
    values: dict[str, float]
    """By name: see `metrics.metrics_of`."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The whole manifest; unknown fields are ignored, so that a newer writer can add some."""

    format_version: int
    model_id: ModelId
    name: str
    created: str
    target: Target
    features: list[Feature]
    versions: dict[str, str]
    """Libraries that made the package: ``python``, ``scikit-learn``, ``numpy``..."""
    members: list[Member]
    golden: str
    """Member with the golden rows."""
    estimator: EstimatorMember
    plan: PlanMember | None = None
    not_compiled: str | None = None
    """The step that prevented compilation, when there is no plan."""
    timeseries: TimeSeries | None = None
    """How the features are derived from the rows of a request, when they are not its columns."""
    reference: str | None = None
    """Member with the rows and figures that explanations need."""
    exposure: str | None = None
    """Regression of a rate: the numeric input column that a prediction is multiplied by to be the adjusted one."""
    metrics: Metrics | None = None
    """Of the golden rows, where the sample had their outcomes. For people: nothing depends on them."""

    @property
    def schema(self) -> Schema:
        """What the model takes."""
        return Schema(tuple(self.features))

    @property
    def inputs(self) -> list[Feature]:
        """The columns of a request."""
        return self.features if self.timeseries is None else self.timeseries.inputs


class GoldenRows(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Real raw rows with what the original estimator predicted for them."""

    columns: dict[str, list[float | str | bool | None]]
    """Per feature; ``null`` is missing."""
    values: list[list[float]]
    """Shape ``(n_rows, n_outputs)``, in the order of ``target.class_labels``."""
    labels: list[str | int | float | bool] | None = None
    """What ``estimator.predict`` answered; classification only."""


def manifest_from(raw: bytes) -> Manifest:
    """
    Parse and check a manifest of at most `MAX_MANIFEST_BYTES`.

    Raises:
        InvalidPackage: with the path of the field that is wrong.
    """
    _refuse_traps(raw)
    try:
        version = msgspec.json.decode(raw, type=_Version).format_version
        if version not in (FORMAT_VERSION, TIMESERIES_FORMAT_VERSION):
            raise InvalidPackage(
                f"package format {version} is not supported: this server reads formats {FORMAT_VERSION} and "
                f"{TIMESERIES_FORMAT_VERSION}"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError as exc:
        raise InvalidPackage(f"{MANIFEST_NAME}: {exc}") from exc
    _check(manifest)
    return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it stands in the archive: readable, stable order."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2)


class _Version(msgspec.Struct):
    format_version: int


def _refuse_traps(raw: bytes) -> None:
    """Duplicate keys and deep nesting, which decoders resolve silently or by a crash."""
    try:
        value = json.loads(raw, object_pairs_hook=_unique)
    except RecursionError as exc:
        raise InvalidPackage(_TOO_DEEP) from exc
    except ValueError as exc:
        raise InvalidPackage(f"{MANIFEST_NAME}: {exc}") from exc
    level: list[Any] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, (dict, list))]
    if level:
        raise InvalidPackage(_TOO_DEEP)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"key {name[:80]!r} stands twice")
        found[name] = value
    return found


def _check(manifest: Manifest) -> None:
    """What types alone cannot say."""
    names = [feature.name for feature in manifest.features]
    if not names:
        raise InvalidPackage(f"{MANIFEST_NAME}: no features")
    if len(set(names)) != len(names):
        raise InvalidPackage(f"{MANIFEST_NAME}: a feature name stands twice")
    target = manifest.target
    n_labels = len(target.class_labels or ())
    fits = {"Binary": n_labels == 2, "Multiclass": n_labels > 2}.get(target.type, target.class_labels is None)
    if not fits:
        raise InvalidPackage(f"{MANIFEST_NAME}: {n_labels} class labels do not fit a {target.type} target")
    _check_timeseries(manifest)
    listed = {member.name for member in manifest.members}
    needed = [manifest.golden, manifest.estimator.member]
    if manifest.timeseries is not None:
        needed.append(manifest.timeseries.member)
    if manifest.plan is not None:
        needed += [manifest.plan.member, manifest.plan.arrays]
    if manifest.reference is not None:
        needed.append(manifest.reference)
    if manifest.exposure is not None and target.type != "Regression":
        raise InvalidPackage(f"{MANIFEST_NAME}: an exposure column with a {target.type} target")
    for name in needed:
        if name not in listed:
            raise InvalidPackage(f"{MANIFEST_NAME}: member {name[:80]!r} is used but not listed")


def _check_timeseries(manifest: Manifest) -> None:
    spec = manifest.timeseries
    if (spec is None) != (manifest.format_version == FORMAT_VERSION):
        raise InvalidPackage(
            f"{MANIFEST_NAME}: timeseries belongs to format {TIMESERIES_FORMAT_VERSION}, and to no other"
        )
    if spec is None:
        return
    if manifest.target.type not in ("Regression", "Binary"):
        raise InvalidPackage(f"{MANIFEST_NAME}: a time series has a Regression or Binary target")
    try:
        check_spec(spec, manifest.target.name)
    except InvalidPackage as exc:
        raise InvalidPackage(f"{MANIFEST_NAME}: {exc}") from exc
    if manifest.schema.names != spec.derived_names():
        raise InvalidPackage(f"{MANIFEST_NAME}: the features are not those that timeseries derives")
