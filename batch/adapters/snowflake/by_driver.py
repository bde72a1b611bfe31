"""Straight by JDBC, for a job that brings Snowflake's own driver."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import cast

import msgspec

from batch.adapters.snowflake.statements import plain
from batch.databases import JdbcIntake, JdbcOutput, SnowflakeIntake, SnowflakeOutput
from batch.job import JdbcSettings
from batch.ports import Intake, Leftovers, TableIntake, TableOutput
from batch.settings import Credentials


def is_brought(connection: JdbcSettings) -> bool:
    """Whether there is a driver where the job says; without one the connector is used."""
    path = connection.driver_path
    return connection.class_name is not None and path is not None and Path(path).exists()


def open_intake(
    settings: SnowflakeIntake, connection: JdbcSettings, credentials: Credentials
) -> AbstractAsyncContextManager[Intake | TableIntake]:
    """As the JDBC adapter does it."""
    given = JdbcIntake(
        query=settings.query,
        table=_plain(settings.table),
        schema=_plain(settings.schema),
        catalog=_plain(settings.catalog),
    )
    opened = _jdbc().open_intake(given, connection, _user(credentials))
    return cast(AbstractAsyncContextManager[Intake | TableIntake], opened)


def open_output(
    settings: SnowflakeOutput, connection: JdbcSettings, credentials: Credentials, leftovers: Leftovers
) -> AbstractAsyncContextManager[TableOutput]:
    """As the JDBC adapter does it."""
    given = JdbcOutput(
        table=plain(settings.table),
        schema=_plain(settings.schema),
        catalog=_plain(settings.catalog),
        statement_type=settings.statement_type,
        create_table_if_not_exists=settings.create_table_if_not_exists,
    )
    opened = _jdbc().open_output(given, connection, _user(credentials), leftovers)
    return cast(AbstractAsyncContextManager[TableOutput], opened)


def _jdbc() -> ModuleType:
    from batch.adapters import jdbc  # not before: it needs Java, which the connector does not

    return jdbc


def _plain(name: str | None) -> str | None:
    return None if name is None else plain(name)


def _user(credentials: Credentials) -> Credentials:
    return msgspec.structs.replace(
        credentials, jdbc_username=credentials.snowflake_username, jdbc_password=credentials.snowflake_password
    )
