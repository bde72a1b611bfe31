"""A job's intake and output, files or database alike."""

from contextlib import AbstractAsyncContextManager

from batch.adapters import adapter_for, database_for
from batch.job import Job
from batch.ports import NOTHING_LEFT, Intake, Leftovers, Output, StagedDatabase, TableIntake, TableOutput
from batch.settings import Credentials
from batch.unloads import NotedUnloads


def open_intake(
    job: Job, credentials: Credentials, unloads: NotedUnloads | None = None
) -> AbstractAsyncContextManager[Intake | TableIntake]:
    """
    What ``intake_settings`` name; raises as `Adapter.open_intake` does.

    Args:
        unloads: where the files of an unload are noted; None: nothing is unloaded, but read straight.
    """
    store = job.intake_settings
    if not store.is_database:
        return adapter_for(store.type).open_intake(store.settings, credentials)
    database = database_for(store.type)
    if unloads is None or not isinstance(database, StagedDatabase):
        return database.open_intake(store.settings, job.jdbc_settings, credentials)
    return database.open_unload(store.settings, job.jdbc_settings, credentials, unloads, continues=unloads.continues)


def open_output(
    job: Job, credentials: Credentials, leftovers: Leftovers = NOTHING_LEFT
) -> AbstractAsyncContextManager[Output | TableOutput]:
    """What ``output_settings`` name; raises as `Adapter.open_output` does."""
    store = job.output_settings
    if store.is_database:
        return database_for(store.type).open_output(store.settings, job.jdbc_settings, credentials, leftovers)
    return adapter_for(store.type).open_output(store.settings, credentials, leftovers)
