"""Which tokens of a layer matter; one idea per file."""
