"""The tables: `schema.sql` and the landing of decoded batches."""
