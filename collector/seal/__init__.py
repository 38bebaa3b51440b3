"""Moves hours that are over from the data file to Parquet, and ends what is older than it is to be kept."""
