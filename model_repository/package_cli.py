"""``prediction-api package``: make, look at, verify, show and sign packages."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from model_repository.errors import PackageError, ServingError
from model_repository.estimators import PICKLE_REFUSED
from model_repository.golden import TOLERANCE, golden_from, replay
from model_repository.manifest import GoldenRows, Manifest, manifest_bytes
from model_repository.mlpkg import Package, replacing, write_signed
from model_repository.predictions import Runtime, Target
from model_repository.runtimes.forecasting import forecast_difference
from model_repository.runtimes.loading import compiled_runtime, estimator_runtime
from model_repository.signing import TrustedKeys, key_id, new_key_pair, read_private_key, signature_bytes
from model_repository.timeseries.calendar import Calendar
from model_repository.timeseries.spec import TimeSeries

if TYPE_CHECKING:
    import pandas as pd

EXIT_OK: Final = 0
EXIT_REFUSED: Final = 1
"""The package or the estimator is not what it should be."""
EXIT_USAGE: Final = 2
"""The command cannot be carried out as it was given."""


class _Unreadable(Exception):
    """A file that the command names cannot be read; the message names it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands on the parser of ``package``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    create = commands.add_parser(
        "create",
        help="make a package of a fitted estimator",
        description="Make a package of a fitted estimator that was written by joblib.dump or pickle. Reading such a "
        "file runs whatever code it holds: give only files that you made yourself.",
    )
    create.add_argument("model", type=Path, metavar="MODEL.joblib", help="the fitted estimator")
    create.add_argument(
        "--sample",
        type=Path,
        required=True,
        metavar="ROWS",
        help="training rows as the estimator saw them: CSV or Parquet",
    )
    create.add_argument(
        "--target", required=True, metavar="NAME", help="what is predicted; may be a column of the sample"
    )
    create.add_argument("--positive-class", metavar="LABEL", help="of a binary classifier (default: the rarer class)")
    create.add_argument("--threshold", type=float, default=0.5, metavar="T", help="positive above this (default: 0.5)")
    create.add_argument("--name", help="of the model (default: the name of the output file)")
    create.add_argument(
        "--serializer",
        choices=["skops", "joblib"],
        default="skops",
        help="how the estimator is stored; joblib is a pickle, which a server loads only when its operator allows it",
    )
    create.add_argument(
        "--no-reference",
        action="store_true",
        help="leave out the rows of the sample that explanations of predictions need",
    )
    create.add_argument(
        "--exposure",
        metavar="COLUMN",
        help="of a regression that predicts a rate: the column by which it is multiplied to be the adjusted prediction",
    )
    create.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mlpkg")
    create.set_defaults(package_command=_create)

    series = commands.add_parser(
        "create-time-series",
        help="fit a model that forecasts, and make a package of it",
        description="Derive features from the past of one or many series, try a model on the end of it, fit it on all "
        "of it, and make a package. What the columns are and what is forecast stands in the configuration.",
    )
    series.add_argument(
        "table", type=Path, metavar="TRAIN", help="the past: CSV or Parquet, one row per series and step"
    )
    series.add_argument("--config", type=Path, required=True, metavar="TS.yml", help="see the page on time series")
    series.add_argument("--name", help="of the model (default: the name of the output file)")
    series.add_argument(
        "--no-reference",
        action="store_true",
        help="leave out the rows of derived features that explanations of forecasts need",
    )
    series.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.mlpkg")
    series.set_defaults(package_command=_create_time_series)

    inspect = commands.add_parser("inspect", help="say what a package holds; loads nothing of it")
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print the manifest as it is")
    inspect.set_defaults(package_command=_inspect)

    verify = commands.add_parser(
        "verify", help="check every member, then compare what it predicts with what it was packaged with"
    )
    verify.add_argument("file", type=Path, metavar="FILE")
    verify.add_argument(
        "--allow-pickle", action="store_true", help="load an estimator that is stored as a pickle, which runs its code"
    )
    verify.add_argument(
        "--key", type=Path, metavar="PUBLIC.pem", help="first check that a private key of this file signed the package"
    )
    verify.set_defaults(package_command=_verify)

    report = commands.add_parser("report", help="write a page that shows the model to people")
    report.add_argument("file", type=Path, metavar="FILE")
    report.add_argument(
        "--allow-pickle", action="store_true", help="load an estimator that is stored as a pickle, which runs its code"
    )
    report.add_argument("-o", "--output", type=Path, required=True, metavar="REPORT.html")
    report.set_defaults(package_command=_report)

    sign = commands.add_parser("sign", help="sign a package, in place of any signature that it has")
    sign.add_argument("file", type=Path, metavar="FILE")
    sign.add_argument("--key", type=Path, required=True, metavar="PRIVATE.pem", help="an Ed25519 key, as keygen makes")
    sign.set_defaults(package_command=_sign)

    keygen = commands.add_parser("keygen", help="make a key pair to sign packages with")
    keygen.add_argument("--private", type=Path, required=True, metavar="PRIVATE.pem", help="to keep secret")
    keygen.add_argument("--public", type=Path, required=True, metavar="PUBLIC.pem", help="to give to servers")
    keygen.set_defaults(package_command=_keygen)


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed command; 0 is success, 1 a package or estimator that is refused, 2 a wrong command."""
    command: Callable[[argparse.Namespace], int] = args.package_command
    try:
        return command(args)
    except ServingError as exc:
        return _fail(EXIT_REFUSED, str(exc))
    except _Unreadable as exc:
        return _fail(EXIT_USAGE, str(exc))
    except OSError as exc:
        return _fail(EXIT_USAGE, f"{exc.filename or ''}: {exc.strerror or exc}")


def _create(args: argparse.Namespace) -> int:
    from model_repository.packaging import create_package

    estimator, sample = _estimator_from(args.model), _sample_from(args.sample)
    with _feature_progress() as progress:
        manifest = create_package(
            args.output,
            estimator,
            sample,
            target=args.target,
            name=args.name,
            positive_class=args.positive_class,
            threshold=args.threshold,
            serializer=args.serializer,
            reference=not args.no_reference,
            exposure=args.exposure,
            progress=progress,
        )
    _print(f"{args.output}: {_headline(manifest)}, {_path_line(manifest)}")
    return EXIT_OK


def _create_time_series(args: argparse.Namespace) -> int:
    from model_repository.timeseries_packaging import fit_time_series_package
    from model_repository.timeseries_settings import settings_from

    settings = settings_from(args.config.read_bytes(), str(args.config))
    texts = [settings.datetime_column, settings.series_column]
    rows = _sample_from(args.table, {name: "str" for name in texts if name is not None})
    with _feature_progress() as progress:
        manifest = fit_time_series_package(
            args.output, rows, settings, name=args.name, reference=not args.no_reference, progress=progress
        )
    _print(f"{args.output}: {_headline(manifest)}, {_path_line(manifest)}")
    return EXIT_OK


@contextlib.contextmanager
def _feature_progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal while the impact of features is computed; nothing where no person looks."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("feature impact", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def _inspect(args: argparse.Namespace) -> int:
    with Package.open(args.file) as package:
        manifest = package.manifest
        if args.json:
            _print(manifest_bytes(manifest).decode())
        else:
            _print("\n".join(_description(manifest, package.size)))
    return EXIT_OK


def _verify(args: argparse.Namespace) -> int:
    check = None
    if args.key is not None:
        check = TrustedKeys.read(args.key).check
    with Package.open(args.file, check_signature=check) as package:
        if check is not None:
            _print("signature  fits")
        package.verify_members()
        manifest = package.manifest
        _print(f"members    {len(manifest.members)} intact")
        golden = golden_from(package.member(manifest.golden), manifest)
        good = True
        if manifest.plan is None:
            _print(f"compiled   none: {manifest.not_compiled or 'the package holds no plan'}")
        else:
            good &= _replays("compiled", lambda: compiled_runtime(package), golden, package)
        good &= _replays(
            "estimator", lambda: estimator_runtime(package, pickle_allowed=args.allow_pickle), golden, package
        )
    return EXIT_OK if good else EXIT_REFUSED


def _report(args: argparse.Namespace) -> int:
    from model_repository.model_card import model_card
    from model_repository.repository import load_model

    page = model_card(load_model(args.file, pickle_allowed=args.allow_pickle))
    with replacing(args.output) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    _print(f"{args.output}: {len(page.encode(errors='replace')):,} bytes")
    return EXIT_OK


def _sign(args: argparse.Namespace) -> int:
    key = read_private_key(args.key)
    with Package.open(args.file) as package, replacing(args.file) as part:
        write_signed(part, package, signature_bytes(package.manifest_content, key))
    _print(f"{args.file}: signed with key {key_id(key.public_key().public_bytes_raw())}")
    return EXIT_OK


def _keygen(args: argparse.Namespace) -> int:
    private, public = new_key_pair()
    _write_new(args.private, private, 0o600)
    _write_new(args.public, public, 0o644)
    _print(f"{args.private}: keep it secret\n{args.public}: for PREDICTION_API_TRUSTED_KEYS")
    return EXIT_OK


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Never over a key that is there: what it signed could not be signed again."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:  # noqa: PTH123
        file.write(content)


def _replays(title: str, load: Callable[[], Runtime], golden: GoldenRows, package: Package) -> bool:
    """Whether a runtime gives the golden predictions; says so."""
    rows = len(golden.values)
    try:
        runtime = load()
        difference = replay(runtime, golden, package.manifest.schema)
        difference = max(difference, forecast_difference(package, runtime))
    except PackageError as exc:
        hint = "; here, --allow-pickle allows it" if str(exc) == PICKLE_REFUSED else ""
        _print(f"{title:10} not loaded: {exc}{hint}")
        return False
    except ServingError as exc:
        _print(f"{title:10} cannot score the {rows} golden rows: {exc}")
        return False
    good = difference <= TOLERANCE
    verdict = "equal" if good else "DIFFERENT"
    _print(f"{title:10} {verdict} on {rows} golden rows: largest difference {difference:.3g} (at most {TOLERANCE:g})")
    return good


def _estimator_from(path: Path) -> Any:
    """Reads a pickle, which runs its code: the help says so."""
    import joblib

    with path.open("rb"):  # the operating system's own words if it cannot be opened
        pass
    try:
        return joblib.load(path)
    except Exception as exc:
        raise _Unreadable(
            f"{path}: not an estimator written by joblib or pickle ({type(exc).__name__}: {exc})"
        ) from exc


def _sample_from(path: Path, dtypes: dict[str, str] | None = None) -> "pd.DataFrame":
    """*dtypes* are for columns that a CSV's reader would guess wrong, such as ``007``."""
    import pandas as pd

    with path.open("rb") as file:
        try:
            return pd.read_parquet(file) if path.suffix == ".parquet" else pd.read_csv(file, dtype=dtypes)
        except Exception as exc:
            raise _Unreadable(f"{path}: not a table in CSV or Parquet ({exc})") from exc


def _description(manifest: Manifest, size: int) -> list[str]:
    target = manifest.target
    lines = [
        f"name       {manifest.name}",
        f"model id   {manifest.model_id}",
        f"created    {manifest.created}",
        f"format     {manifest.format_version}, {size:,} bytes",
        f"target     {_target_line(target)}",
        f"serves by  {_path_line(manifest)}",
        f"estimator  {manifest.estimator.serializer}, takes {manifest.estimator.expects}",
        f"explains   {_reference_line(manifest)}",
        *([f"exposure   {manifest.exposure}"] if manifest.exposure is not None else []),
        f"made with  {', '.join(f'{library} {version}' for library, version in manifest.versions.items())}",
        *_series_lines(manifest.timeseries),
        "",
        f"{len(manifest.features)} features",
    ]
    width = max(len(feature.name) for feature in manifest.features)
    for feature in manifest.features:
        missing = "may be missing" if feature.missing_allowed else "required"
        lines.append(f"  {feature.name:{width}}  {feature.type:11} {feature.dtype:15} {missing}")
    lines += ["", f"{len(manifest.members)} members"]
    lines += [f"  {member.name:20} {member.size:>14,} bytes  sha256 {member.sha256}" for member in manifest.members]
    return lines


def _series_lines(spec: TimeSeries | None) -> Iterator[str]:
    if spec is None:
        return
    step = Calendar(spec).step_name
    yield (
        f"forecasts  {spec.forecast_start} to {spec.forecast_end} steps of one {step} ahead, from those "
        f"{spec.derivation_start} to {spec.derivation_end}"
    )
    yield f"takes      {', '.join(feature.name for feature in spec.inputs)}"


def _target_line(target: Target) -> str:
    line = f"{target.name}, {target.type}"
    if not target.class_labels:
        return line
    line += f" of {', '.join(map(repr, target.class_labels))}"
    return f"{line}; the first is positive, above {target.threshold:g}" if target.type == "Binary" else line


def _headline(manifest: Manifest) -> str:
    return f"{manifest.target.type} model of {manifest.target.name!r}, {len(manifest.features)} features"


def _reference_line(manifest: Manifest) -> str:
    if manifest.reference is not None:
        return f"with the reference rows of {manifest.reference}"
    return "nothing, or trees by SHAP alone: made with --no-reference"


def _path_line(manifest: Manifest) -> str:
    if manifest.plan is not None:
        return "compiled plan"
    return f"original estimator, not compiled: {manifest.not_compiled or 'the package holds no plan'}"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"prediction-api package: {message}\n")
    return code
