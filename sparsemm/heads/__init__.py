"""Visual-head scores."""
