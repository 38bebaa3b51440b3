"""The pages of the dashboard: one module each with a function `page`, and `parts` that they share."""
