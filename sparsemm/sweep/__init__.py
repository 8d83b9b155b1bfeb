"""Grids of cells: composition, fingerprints, jobs, plan and status."""
