"""How many entries every head gets; one idea per file."""
