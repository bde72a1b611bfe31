"""From the members of a package to a runtime; what a runtime needs is imported only when it is asked for."""

from typing import TYPE_CHECKING

from model_repository.errors import InvalidPackage
from model_repository.estimators import load_estimator
from model_repository.mlpkg import Package
from model_repository.plan import plan_from
from model_repository.runtimes.compiled import CompiledRuntime

if TYPE_CHECKING:
    from model_repository.runtimes.estimator import EstimatorRuntime


def compiled_runtime(package: Package) -> CompiledRuntime:
    """
    The runtime of the package's plan; imports neither scikit-learn nor pandas.

    Raises:
        InvalidPackage: no plan, or one that cannot be read.
    """
    manifest = package.manifest
    if manifest.plan is None:
        raise InvalidPackage("the package holds no plan")
    members = package.member(manifest.plan.member), package.member(manifest.plan.arrays)
    plan = plan_from(*members, manifest.schema, manifest.target)
    return CompiledRuntime(plan, manifest.schema, manifest.target)


def estimator_runtime(package: Package, *, pickle_allowed: bool) -> "EstimatorRuntime":
    """
    The runtime of the package's original estimator.

    Raises:
        UntrustedPackage: reading it would run code that nobody allowed.
        InvalidPackage: it cannot be read here.
    """
    from model_repository.runtimes.estimator import EstimatorRuntime, is_known_dtype

    manifest = package.manifest
    for feature in manifest.features:
        if not is_known_dtype(feature.dtype):
            raise InvalidPackage(f"feature {feature.name!r}: dtype {feature.dtype!r} is not known")
    member = manifest.estimator
    estimator = load_estimator(package.member(member.member), member.serializer, pickle_allowed=pickle_allowed)
    return EstimatorRuntime(estimator, manifest.schema, manifest.target, member.expects)
