"""One file per claim: what it says and how its table is made; and how the tiny model was trained."""
