"""A model as it is served, and the port behind which the handlers find it."""

from dataclasses import dataclass
from typing import Final, Protocol

from model_repository.repository import Model
from prediction_api.forecasting import scorer_for
from prediction_api.scoring import AssociationId, Lanes, Scorer
from prediction_api.settings import Settings

THE_ONE: Final = ""
"""What handlers ask a server of one model for."""


@dataclass(frozen=True)
class Deployment:
    """A loaded model with what its server adds to it."""

    model: Model
    scorer: Scorer
    model_id: str
    deployment_id: str | None = None


class Found(Protocol):
    """What a source has under an id."""

    @property
    def deployment(self) -> Deployment:
        """Serves the whole request, whatever is deployed meanwhile."""
        ...

    @property
    def cache_hit(self) -> bool:
        """Whether it was loaded already."""
        ...


class DeploymentSource(Protocol):
    """Where handlers get their model from."""

    async def get(self, name: str, /) -> Found:
        """
        The deployment of that id.

        Raises:
            ModelNotFound: no such id.
            ModelUnavailable: it cannot be loaded, or not yet.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Always:
    deployment: Deployment
    cache_hit: bool = True


class SingleDeployment:
    """The source of a server that has one model, loaded before it starts."""

    def __init__(self, deployment: Deployment) -> None:
        self._found = _Always(deployment)

    async def get(self, _: str, /) -> Found:
        """The one, whatever it is called."""
        return self._found


def deployment_of(model: Model, settings: Settings, lanes: Lanes) -> Deployment:
    """*model* under the ids and rules that the settings give to a single model."""
    column = settings.mlops_association_id_column
    association = None
    if column and not settings.mlops_association_id_allow_missing_values:
        association = AssociationId(column)
    return Deployment(
        model=model,
        scorer=scorer_for(model, lanes, association=association, timeout=settings.request_timeout),
        model_id=settings.mlops_model_id or model.manifest.model_id,
        deployment_id=settings.mlops_deployment_id,
    )
