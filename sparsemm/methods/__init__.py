"""Compression methods: pure tensor functions."""
