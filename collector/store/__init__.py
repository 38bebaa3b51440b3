"""Writes what a collector has to a store that many collectors and readers share."""
