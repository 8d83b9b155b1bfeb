"""Prefill once, decode every cell."""
