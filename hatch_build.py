"""Compiles the JDBC bridge into the wheel, where a Java compiler is at hand; without one it is compiled when needed."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there only while a wheel is built
    """Called by hatch."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make `batch/jdbc/bridge.jar`."""
        bridge = runpy.run_path(str(Path(self.root) / "batch/jdbc/bridge_jar.py"))
        try:
            bridge["compile_to"](bridge["JAR"])
        except bridge["NoCompiler"] as exc:
            self.app.display_warning(str(exc))
