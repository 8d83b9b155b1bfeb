"""The families that have a small random model (sparsemm.models.small), which takes long to import."""

FAMILIES = ("llava_next_vicuna", "llava_next_mistral", "qwen2_vl", "qwen2_5_vl")
