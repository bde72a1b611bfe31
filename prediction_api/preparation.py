"""
What happens before the workers are forked: the mode is decided, and all that they can share is loaded.

One package alone, as a file or in the root of a directory, is served as the single model; any other directory is a
repository of many, be it empty.
"""

import logging
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from model_repository.errors import InvalidKey, ModelUnavailable, PackageError, SettingsError
from model_repository.repository import find_single_package, load_model, verify_model
from model_repository.signing import TrustedKeys
from prediction_api.app import create_app
from prediction_api.monitoring import CounterBoard
from prediction_api.settings import PREFIX, Settings
from prediction_api.state import Prepared, ServerState

logger: Final = logging.getLogger(__name__)

PEM_BEGIN: Final = "-----BEGIN"
DEFAULT_PATH: Final = Settings().model_repository_path
"""Made where only its parent is there: the image leaves it out, so that a directory or a file can be mounted there."""


def prepare(settings: Settings) -> Prepared:
    """
    Load what is to be served.

    Raises:
        SettingsError: there is nothing at the path of the repository, or a key cannot be read.
        PackageError, ModelUnavailable: the single package cannot be served.
    """
    import_module("model_repository.arrow_csv")  # before the fork: the first large body should not wait for it
    path = settings.model_repository_path
    if path == DEFAULT_PATH:
        with suppress(OSError):  # then it says below what is missing
            path.mkdir()
    keys = trusted_keys(settings)
    try:
        package = find_single_package(path)
    except OSError as error:
        raise SettingsError(f"{PREFIX}MODEL_REPOSITORY_PATH={str(path)!r}: {error.strerror}") from error
    if package is not None:
        return _prepare_one(package, settings, keys)
    if path.is_dir():
        from prediction_api.many import prepare_many

        return prepare_many(path, settings, keys)
    problem = "not a .mlpkg file" if path.exists() else "there is no such file or directory"
    raise SettingsError(f"{PREFIX}MODEL_REPOSITORY_PATH={str(path)!r}: {problem}")


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """
    The keys of which one must have signed a package, if any.

    Raises:
        SettingsError: they cannot be read.
    """
    given = settings.trusted_keys
    if given is None:
        return None
    try:
        if given.startswith(PEM_BEGIN):
            return TrustedKeys.from_pem(given.replace("\\n", "\n").encode())
        return TrustedKeys.read(Path(given))
    except (InvalidKey, OSError) as error:
        raise SettingsError(f"{PREFIX}TRUSTED_KEYS: {error}") from error


def _prepare_one(package: Path, settings: Settings, keys: TrustedKeys | None) -> Prepared:
    began = time.perf_counter()
    try:
        model = load_model(package, pickle_allowed=settings.pickle_packages_enabled, verify=False, trusted_keys=keys)
    except OSError as error:
        raise ModelUnavailable(f"{package}: {error.strerror}") from error
    except PackageError as error:
        raise PackageError(f"{package}: {error}") from error
    seconds = time.perf_counter() - began
    counters = CounterBoard(settings.workers)
    counters.parent.model_loaded(seconds)
    logger.info("loaded %s in %.2f s: %s", package, seconds, model.path if model.reason is None else model.reason)

    def build_app(state: ServerState, slot: int) -> ASGIApp:
        return create_app(verify_model(model), settings, state=state, counters=counters.for_worker(slot))

    return Prepared(build_app)
