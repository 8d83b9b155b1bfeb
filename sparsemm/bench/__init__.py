"""Speed and memory of the cache, methods side by side in one process."""
