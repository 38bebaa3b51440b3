"""The `tailbudget` command, the dashboard and the demo service."""
