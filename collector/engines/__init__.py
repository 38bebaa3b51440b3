"""The same questions on other engines: one dialect in, ClickHouse's or Spark's out."""
