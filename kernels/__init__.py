"""Operations of the cache, each beside its plain reference."""
