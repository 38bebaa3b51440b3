"""What was acknowledged and has not landed yet, on disk."""
