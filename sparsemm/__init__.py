"""SparseMM: compare KV-cache compression methods on vision-language models."""
