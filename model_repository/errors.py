"""
Everything that can go wrong on purpose, in one tree.

ServingError
├── RequestError                 the client's request cannot be answered as it stands
│   ├── MalformedBody       400  not CSV, not JSON, wrong encoding, ragged, empty
│   ├── MissingColumns      400  the table lacks features of the model
│   ├── UnknownPassthroughColumns 400
│   ├── UnscorableValue     422  a well-formed cell that the model cannot take
│   ├── UnscorableTable     422  the estimator refused the rows without saying which cell
│   ├── UnforecastableTable 422  the rows do not hold what the forecast that is asked for needs
│   ├── InvalidParameter    422  a query parameter, or two that exclude each other
│   ├── ExplanationsUnavailable 422  the package lacks what the explanations need, or the model does
│   ├── InvalidDeploymentId 422  a name that no deployment can have
│   ├── InvalidConfig       422  a config.yml that cannot be read
│   ├── Unauthorized        401  the management token is missing or wrong
│   ├── Forbidden           403  nobody may do this here, or not from there
│   ├── NotAcceptable       406
│   ├── LengthRequired      411
│   ├── BodyTooLarge        413
│   ├── RequestLineTooLong  414
│   └── UnsupportedMediaType 415
├── ModelNotFound           404
├── ModelUnavailable        503  loading, draining, or its package cannot be served
├── ScoringFailed           500  the estimator itself raised
├── PackageError            422  a package that cannot be read, trusted or reproduced
│   ├── InvalidPackage           not our format, damaged, or dangerous
│   ├── UntrustedPackage         needs a pickle or a type that is not on the allow-list
│   ├── PackageMismatch          its golden rows do not replay
│   ├── UnsignedPackage          not signed by a trusted key
│   ├── TrialFailed              trying it out ended the process that tried
│   └── CannotPackage            an estimator or a sample that no package can be made of
├── StoreError              500  the repository on disk cannot be changed
│   ├── StoreReadOnly       409  a read-only mount, or one that belongs to somebody else
│   ├── TooManyDeployments  409
│   ├── StoreBusy           503  as many uploads as can be taken at once
│   └── StoreFull           507
├── InvalidKey                   a file that should hold a key for signing holds none
└── SettingsError                the server cannot start like this

Rules: the message is for the person who sent the request and names the thing and what was expected; a class carries
a *hint* of an HTTP status and knows nothing else of HTTP; foreign exceptions are translated where they enter.
"""

from collections.abc import Sequence
from typing import ClassVar


class ServingError(Exception):
    """Root of everything raised on purpose; its text may be shown to a client."""

    status_hint: ClassVar[int] = 500


class RequestError(ServingError):
    """The request is at fault, not the server."""

    status_hint = 400


class MalformedBody(RequestError):
    """The body is not what its content type says, or holds no rows."""


class MissingColumns(RequestError):
    """The table lacks columns that the model was fitted on."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(f"missing columns: {', '.join(missing)}")
        self.missing = tuple(missing)


class UnknownPassthroughColumns(RequestError):
    """A column to pass through is not in the table."""

    def __init__(self, unknown: Sequence[str]) -> None:
        super().__init__(
            "passthroughColumns do not match columns, columns expected but not found: "
            f"[{', '.join(repr(name) for name in unknown)}]"
        )
        self.unknown = tuple(unknown)


class UnscorableValue(RequestError):
    """A cell that was read, but that the model cannot take; *row* counts from 0 as ``rowId`` does."""

    status_hint = 422

    def __init__(self, column: str, row: int | None, problem: str) -> None:
        where = f"column {column!r}" if row is None else f"row {row}, column {column!r}"
        super().__init__(f"{where}: {problem}")
        self.column = column
        self.row = row
        self.problem = problem


class UnscorableTable(RequestError):
    """The estimator refused the values of the rows; the message is its own."""

    status_hint = 422


class UnforecastableTable(RequestError):
    """Too little history, no rows to forecast, or no such forecast point; names what is needed and found."""

    status_hint = 422


class InvalidParameter(RequestError):
    """A query parameter is unknown, malformed, or excluded by another."""

    status_hint = 422


class ExplanationsUnavailable(RequestError):
    """This model cannot be explained in the way that was asked for; the message says what would help."""

    status_hint = 422


class Unauthorized(RequestError):
    """Only who knows the management token may do this."""

    status_hint = 401


class Forbidden(RequestError):
    """It is switched off, or the request comes from a page of somebody else's."""

    status_hint = 403


class InvalidDeploymentId(RequestError):
    """The id is not one that a deployment can have."""

    status_hint = 422


class InvalidConfig(RequestError):
    """A deployment's configuration cannot be read, or holds a value that it cannot hold."""

    status_hint = 422


class NotAcceptable(RequestError):
    """The client accepts neither JSON nor CSV."""

    status_hint = 406


class LengthRequired(RequestError):
    """The request announces no body."""

    status_hint = 411


class BodyTooLarge(RequestError):
    """The body is larger than the limit, on the wire or decompressed."""

    status_hint = 413


class RequestLineTooLong(RequestError):
    """The request line is longer than the limit."""

    status_hint = 414


class UnsupportedMediaType(RequestError):
    """The content type or encoding is not one that can be read."""

    status_hint = 415


class ModelNotFound(ServingError):
    """No model of that id."""

    status_hint = 404


class ModelUnavailable(ServingError):
    """The model exists but cannot answer now."""

    status_hint = 503


class ScoringFailed(ServingError):
    """The estimator raised something that is not about a value."""


class PackageError(ServingError):
    """A package that cannot be served; the message says why."""

    status_hint = 422


class InvalidPackage(PackageError):
    """Not a package, a damaged one, or one built to do harm."""


class UntrustedPackage(PackageError):
    """Reading it would run code that nobody allowed."""


class PackageMismatch(PackageError):
    """It loads, but does not give the predictions that it was packaged with."""


class UnsignedPackage(PackageError):
    """It bears no signature of a key that is trusted."""


class TrialFailed(PackageError):
    """The process that tried it out crashed, or used more time or memory than it may."""


class CannotPackage(PackageError):
    """The estimator or its sample cannot be made into a package; the message says what to change."""


class StoreError(ServingError):
    """The directory of the repository failed; nothing was changed."""


class StoreReadOnly(StoreError):
    """The directory of the repository may not be written."""

    status_hint = 409


class TooManyDeployments(StoreError):
    """The repository holds as many deployments as it may."""

    status_hint = 409


class StoreBusy(StoreError):
    """Too many uploads at once."""

    status_hint = 503


class StoreFull(StoreError):
    """No space left for what was sent."""

    status_hint = 507


class InvalidKey(ServingError):
    """Not a key, or not of the kind that signs packages."""


class SettingsError(ServingError):
    """A setting is wrong; the message names the variable, its value and what is allowed."""
