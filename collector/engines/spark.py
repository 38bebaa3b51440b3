"""Reads sealed Parquet with Spark: a cluster of its own, or one behind Spark Connect."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.reader import QueryError
from tailbudget.instrument.errors import UserError

from .catalog import catalog, conformed, reason

#: Which files there are is asked again after so long.
RENEWED_S: Final = 60.0
#: Divisions by nothing are null, as in DuckDB; instants are UTC.
SETTINGS: Final = {
    "spark.sql.ansi.enabled": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.legacy.timeParserPolicy": "CORRECTED",
}
#: DuckDB's type -> Spark's; of a list the type of its items.
TYPES: Final = {
    "VARCHAR": "string", "JSON": "string", "UUID": "string", "BOOLEAN": "boolean", "INTEGER": "int",
    "UINTEGER": "bigint", "BIGINT": "bigint", "UBIGINT": "decimal(20,0)", "DOUBLE": "double",
    "TIMESTAMP WITH TIME ZONE": "timestamp", "MAP(VARCHAR, DOUBLE)": "map<string,double>",
}  # fmt: skip


def connect(url: str) -> Any:
    """Return a session of the master at `url` (`spark://host:7077`, `local[2]`) or of Spark Connect (`sc://host:15002`).

    Raises UserError without the package, QueryError when nothing answers.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise UserError("Spark needs a package and a Java runtime: pip install 'tailbudget[scale]'") from error
    builder = SparkSession.builder.appName("tailbudget")
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)  # what fails is said by QueryError
    if url.startswith("sc://"):
        builder = builder.remote(url)
    else:
        builder = builder.master(url).config("spark.ui.enabled", "false")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def spark_type(kind: str) -> str:
    """Return Spark's type for one of DuckDB's."""
    return f"array<{spark_type(kind.removesuffix('[]'))}>" if kind.endswith("[]") else TYPES.get(kind, kind.lower())


class SparkReader:
    """Answers questions over sealed files; threads may share it.

    `listed` returns, by table, the paths or addresses of its Parquet files; it is asked again now and then.
    """

    def __init__(self, url: str, listed: Callable[[], Mapping[str, list[str]]]) -> None:
        self.session = connect(url)
        self._listed = listed
        self._files: Mapping[str, list[str]] | None = None
        self._asked_s = 0.0
        self._lock = threading.Lock()
        self._renew()

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return the rows of `sql`, as DuckDB would name and type them; raises QueryError."""
        from pyspark.errors import PySparkException

        from .translate import asks_catalog, translate  # sqlglot is of the extra `scale`

        shape = catalog().shape(sql, params)
        if asks_catalog(sql):
            return shape
        text = translate(sql, params, "spark")
        if time.monotonic() > self._asked_s + RENEWED_S:
            self._renew()
        try:
            try:
                found = self.session.sql(text).toArrow()
            except PySparkException:
                if not self._renew():  # an hour that changed is another file, and the one before is deleted
                    raise
                found = self.session.sql(text).toArrow()
        except PySparkException as error:
            raise QueryError(f"Spark cannot answer this: {reason(error)}") from error
        return conformed(found, shape.schema)

    def _renew(self) -> bool:
        """Read from now on what is listed now; return whether that is something else."""
        with self._lock:
            files, before = self._listed(), self._files
            self._asked_s = time.monotonic()
            for table, columns in catalog().columns().items():
                if before is None or files.get(table) != before.get(table):
                    self._view(table, columns, files.get(table, []))
            self._files = files
            return files != before

    def _view(self, table: str, columns: Mapping[str, tuple[str, bool]], paths: list[str]) -> None:
        schema = ", ".join(f"`{name}` {spark_type(kind)}" for name, (kind, _) in columns.items())
        rows = self.session.read.schema(schema).parquet(*paths) if paths else self.session.createDataFrame([], schema)
        rows.createOrReplaceTempView(table)
