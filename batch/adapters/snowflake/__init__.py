"""
Snowflake: rows straight through its connector, or by way of files in an external stage.

By way of a stage, COPY INTO unloads the source into files that are read with the adapter of the store behind the stage,
and result files are written there and loaded by COPY INTO. All that a job puts into a stage is removed in the end.
"""

from batch.adapters.snowflake.intake import open_intake, open_unload
from batch.adapters.snowflake.output import open_output

__all__ = ["open_intake", "open_output", "open_unload"]
