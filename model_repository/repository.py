"""The one door to models: a package on disk becomes something that scores."""

import logging
import math
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from model_repository.errors import InvalidPackage, PackageMismatch, ServingError, UntrustedPackage
from model_repository.estimators import PICKLE_REFUSED
from model_repository.explanations import Explainer
from model_repository.explanations.reference import ReferenceData, reference_from
from model_repository.golden import TOLERANCE, golden_from, replay
from model_repository.manifest import GoldenRows, Manifest
from model_repository.mlpkg import Package
from model_repository.predictions import Runtime
from model_repository.runtimes.forecasting import Forecasting, forecasting_of
from model_repository.runtimes.loading import compiled_runtime, estimator_runtime
from model_repository.signing import TrustedKeys

SUFFIX: Final = ".mlpkg"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A package that was read, checked, and gave its golden predictions again."""

    manifest: Manifest
    runtime: Runtime
    path: Literal["compiled", "estimator"]
    """Which runtime serves."""
    reason: str | None
    """Why it is not the compiled one."""
    golden_difference: float
    """Largest difference to the golden predictions, relative above 1 and absolute below; NaN before `verify_model`."""
    package_bytes: int
    golden: GoldenRows
    verified: bool = True
    """Whether the golden rows were replayed through the runtime that serves."""
    forecasting: Forecasting | None = None
    """Of a time series: derives the features that the runtime takes."""
    reference: ReferenceData | None = None
    """What explanations need, if the package holds it."""

    @cached_property
    def explainer(self) -> Explainer:
        """Why its predictions are what they are; costs nothing before it is asked."""
        manifest = self.manifest
        return Explainer(
            self.runtime,
            manifest.schema,
            manifest.target,
            self.reference,
            time_series=manifest.timeseries is not None,
        )

    def replay(self) -> float:
        """
        Largest difference to the golden rows, and of a time series to the golden forecast.

        Raises:
            ServingError: they cannot be scored at all.
        """
        difference = replay(self.runtime, self.golden, self.manifest.schema)
        return difference if self.forecasting is None else max(difference, self.forecasting.replay())


def find_single_package(path: str | Path) -> Path | None:
    """
    The package to serve alone: *path* itself, or the only package in the root of the directory *path*.

    ``None`` means a repository of many models. A file without any suffix is taken too: mounted into a container it has
    the name of the directory that it replaces.
    """
    path = Path(path)
    if path.is_file():
        return path if path.suffix in (SUFFIX, "") else None
    if not path.is_dir():
        return None
    packages = [entry for entry in path.iterdir() if entry.suffix == SUFFIX and not entry.is_dir()]
    return packages[0] if len(packages) == 1 else None


def load_model(
    path: str | Path,
    *,
    pickle_allowed: bool = False,
    verify: bool = True,
    trusted_keys: TrustedKeys | None = None,
) -> Model:
    """
    Read a package and replay its golden rows through the runtime that will serve them.

    The compiled plan serves if it says the same as the estimator did; else the estimator serves, and must.

    Args:
        path: of the package.
        pickle_allowed: whether an estimator may be read from a pickle, which runs code.
        verify: with ``False`` an estimator is read but not run (its native threads would not survive a fork); the model
            is then not `Model.verified`, and `verify_model` must follow. A compiled plan is always replayed at once.
        trusted_keys: if given, one of them must have signed the package.

    Raises:
        InvalidPackage: damaged, dangerous, or not a package.
        UnsignedPackage: no trusted key signed it; nothing of it was read then but the manifest's bytes.
        UntrustedPackage: reading it would run code that nobody allowed.
        PackageMismatch: it does not predict what it was packaged with.
        OSError: the file cannot be opened.
    """
    check = trusted_keys.check if trusted_keys is not None else None
    with Package.open(path, check_signature=check) as package:
        model = model_from(package, pickle_allowed=pickle_allowed)
    return verify_model(model) if verify else model


def model_from(package: Package, *, pickle_allowed: bool = False) -> Model:
    """
    The model of an open package, as `load_model` gives it with ``verify=False``.

    Raises:
        InvalidPackage: damaged or dangerous.
        UntrustedPackage: reading it would run code that nobody allowed.
        PackageMismatch: it is of another version of scikit-learn and cannot be read here.
    """
    manifest = package.manifest
    if manifest.estimator.serializer == "joblib" and not pickle_allowed:  # also where a plan would serve alone
        raise UntrustedPackage(PICKLE_REFUSED)
    golden = golden_from(package.member(manifest.golden), manifest)
    reference = reference_from(package.member(manifest.reference), manifest) if manifest.reference else None
    compiled = _compiled_model(package, golden)
    if isinstance(compiled, Model):
        return replace(compiled, reference=reference)
    try:
        runtime = estimator_runtime(package, pickle_allowed=pickle_allowed)
    except InvalidPackage as exc:
        if other := _other_version(manifest):
            raise PackageMismatch(f"{exc}; {other}") from exc
        raise
    forecasting = forecasting_of(package, runtime)
    return Model(
        manifest, runtime, "estimator", compiled, math.nan, package.size, golden, False, forecasting, reference
    )


def verify_model(model: Model) -> Model:
    """
    The model with its golden rows replayed, if they were not already.

    Raises:
        PackageMismatch: they give other predictions, or cannot be scored.
    """
    if model.verified:
        return model
    manifest = model.manifest
    other = _other_version(manifest)
    because = f"; {other}" if other else ""
    try:
        difference = model.replay()
    except ServingError as exc:
        raise PackageMismatch(f"the golden rows of {manifest.name!r} cannot be scored: {exc}{because}") from exc
    if difference > TOLERANCE:
        raise PackageMismatch(
            f"{manifest.name!r} differs by {difference:.3g} from the predictions that it was packaged with (at most "
            f"{TOLERANCE:g}){because}"
        )
    if other:
        logger.warning("%s: %s; its golden rows replay", manifest.name, other)
    return replace(model, golden_difference=difference, verified=True)


def _compiled_model(package: Package, golden: GoldenRows) -> Model | str:
    """The model behind its plan, or why the plan cannot serve."""
    manifest = package.manifest
    if manifest.plan is None:
        return manifest.not_compiled or "the package holds no plan"
    used = [manifest.plan.member, manifest.plan.arrays]
    if manifest.timeseries is not None:
        used.append(manifest.timeseries.member)
    for name in used:
        package.member(
            name
        )  # a damaged package is refused; only a plan that is intact but not understood is passed over
    try:
        runtime = compiled_runtime(package)
        model = Model(
            manifest, runtime, "compiled", None, math.nan, package.size, golden, True, forecasting_of(package, runtime)
        )
        difference = model.replay()
    except ServingError as exc:
        reason = f"the compiled plan cannot serve: {exc}"
    else:
        if difference <= TOLERANCE:
            return replace(model, golden_difference=difference)
        reason = f"the compiled plan differs by {difference:.3g} from the golden predictions"
    logger.warning("%s: %s; the original estimator serves", manifest.name, reason)
    return reason


def _other_version(manifest: Manifest) -> str | None:
    """What to say if the package was made with another minor version of scikit-learn than this one."""
    made = manifest.versions.get("scikit-learn", "an unknown version")
    here = metadata.version("scikit-learn")
    if made.split(".")[:2] == here.split(".")[:2]:
        return None
    return f"the package was made with scikit-learn {made}, this server has {here}"
