"""Load on a service or an endpoint: planned traffic, what became of it, and the highest load that keeps objectives."""
