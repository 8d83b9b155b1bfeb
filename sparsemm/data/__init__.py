"""Data that ships with the package: the tiny model."""
