"""The server of many models: what is made before the workers are forked, and the ASGI app of each of them."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from model_repository.deployments import Loaded, Repository
from model_repository.discovery import misplaced_packages
from model_repository.signing import TrustedKeys
from model_repository.uploads import Store
from model_repository.validation import Validator
from prediction_api.app import assembled
from prediction_api.deployments import Deployment
from prediction_api.forecasting import scorer_for
from prediction_api.gate import Gate
from prediction_api.management import Management
from prediction_api.monitoring import CounterBoard, Counters
from prediction_api.quarantine import Quarantine
from prediction_api.routes import Endpoints
from prediction_api.scoring import AssociationId, Lanes
from prediction_api.settings import PREFIX, Settings
from prediction_api.state import Prepared, ServerState

logger: Final = logging.getLogger(__name__)


def prepare_many(root: Path, settings: Settings, keys: TrustedKeys | None) -> Prepared:
    """
    A repository that all workers share, as far as processes can.

    Args:
        root: its directory; may be empty.
        keys: if given, one of them must have signed a package.
    """
    for warning in _warnings_about(settings, misplaced_packages(root)):
        logger.warning("%s", warning)
    store = _store(root, settings, keys) if settings.model_management_enabled else None
    deployer = Deployer(settings)
    quarantine = Quarantine(settings.workers)
    repository = Repository(
        root,
        build=deployer,
        places=settings.scoring_model_cache_maxsize,
        ttl=settings.deployed_model_resolver_cache_ttl_sec,
        pickle_allowed=settings.pickle_packages_enabled,
        trusted_keys=keys,
        store=store,
        patience=settings.request_timeout,
        watch=quarantine,
    )
    counters = CounterBoard(settings.workers)
    if settings.preload_models_enabled:
        _preload(repository, counters.parent)
    repository.read_ahead()
    logger.info("serving the deployments of %s", root)

    def build_app(state: ServerState, slot: int) -> ASGIApp:
        quarantine.enter(slot)
        if store is not None:
            store.sweep()  # of what a worker left that died, and that this one may replace
        repository.finish_preload()
        deployer.counters = counters.for_worker(slot)
        return create_app_of_many(repository, settings, state=state, counters=deployer.counters)

    return Prepared(build_app, () if store is None else store.validator.descriptors, quarantine.judge)


class Deployer:
    """Makes of a loaded model what is served; its products live and go with the model."""

    def __init__(self, settings: Settings) -> None:
        self._lanes = Lanes.for_worker(settings.workers)
        self._timeout = settings.request_timeout
        self.counters: Counters | None = None
        """Where loads are counted, once there is a worker to count them."""

    def __call__(self, loaded: Loaded) -> Deployment:
        """*loaded* under the rules of its own configuration."""
        if self.counters is not None:
            self.counters.model_loaded(loaded.seconds)
        rules = loaded.config.association_id_settings
        association = None
        if rules is not None and not rules.allow_missing_values:
            association = AssociationId(rules.column_name)
        return Deployment(
            model=loaded.model,
            scorer=scorer_for(
                loaded.model,
                self._lanes,
                association=association,
                timeout=self._timeout,
                intervals=loaded.config.prediction_intervals,
            ),
            model_id=loaded.model_id,
            deployment_id=loaded.config.deployment_id,
        )


def create_app_of_many(
    repository: Repository[Deployment],
    settings: Settings,
    *,
    state: ServerState | None = None,
    counters: Counters | None = None,
) -> ASGIApp:
    """
    The server of many models as an ASGI app, one per worker process; the arguments are as for `create_app`.

    Args:
        repository: its `build` should be a `Deployer`.
    """
    state = ServerState(ready=True) if state is None else state
    endpoints = Endpoints(repository, settings, state, CounterBoard().for_worker(0) if counters is None else counters)
    management = Management(repository, Gate(settings), settings, state)
    return assembled(endpoints, [*endpoints.routes_of_many(), *management.routes()])


def _store(root: Path, settings: Settings, keys: TrustedKeys | None) -> Store:
    store = Store(
        root,
        Validator(),
        trusted_keys=keys,
        max_bytes=settings.upload_max_bytes,
        max_deployments=settings.max_deployments,
    )
    store.sweep()
    return store


def _preload(repository: Repository[Deployment], counters: Counters) -> None:
    began = time.perf_counter()
    n_models = repository.preload()
    seconds = time.perf_counter() - began
    for _ in range(n_models):
        counters.model_loaded(seconds / n_models)
    logger.info("loaded %d models in %.2f s", n_models, seconds)


def _warnings_about(settings: Settings, misplaced: list[str]) -> Iterator[str]:
    if misplaced:
        yield (
            f"{', '.join(misplaced[:3])}: packages in the root of a repository of many models are not served; "
            "give each a directory"
        )
    if Gate(settings).exposure == "open":
        yield (
            f"whoever can reach {settings.host} can upload and delete models: set {PREFIX}MANAGEMENT_TOKEN or "
            f"{PREFIX}TRUSTED_KEYS, or {PREFIX}MODEL_MANAGEMENT_ENABLED=false"
        )
