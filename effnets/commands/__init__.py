"""What `main` can do."""
