"""Models as packages: made, read, trusted, and scored."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_repository.packaging import create_package

__all__ = ["create_package"]


def __getattr__(name: str) -> Any:
    if name == "create_package":  # imported when asked for: it needs scikit-learn, which serving a plan does not
        from model_repository.packaging import create_package

        return create_package
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
