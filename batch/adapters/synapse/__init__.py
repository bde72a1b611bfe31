"""
Azure Synapse: rows straight, or by way of files in the Blob storage behind an external data source.

By way of Blob storage, CREATE EXTERNAL TABLE AS SELECT unloads the source into files, and result files are loaded by
COPY INTO. All that a job puts there is removed in the end.
"""

from batch.adapters.synapse.intake import open_intake, open_unload
from batch.adapters.synapse.output import open_output

__all__ = ["open_intake", "open_output", "open_unload"]
