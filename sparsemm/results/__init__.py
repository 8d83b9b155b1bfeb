"""The store of results, and what is made from it: statistics, tables, figures, reports."""
