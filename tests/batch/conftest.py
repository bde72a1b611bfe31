"""Stores and servers for batch tests."""

from tests.batch.jobs import job_for, multiclass_server, regression_server, server, twin_server  # noqa: F401
from tests.databases import derby, h2, hsqldb, mariadb, mysql, postgresql  # noqa: F401
from tests.snowflake_stand_in import snowflake_server, started_account  # noqa: F401
from tests.stores import started_azurite, started_gcs, started_moto, started_nanio, started_web  # noqa: F401
from tests.tds_stand_in import pool  # noqa: F401
