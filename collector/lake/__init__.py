"""Sealed hours in a store of objects that many collectors write and many readers read."""
