"""What a service imports: spans per stage, budgets and streams."""
