"""Audit: one row for every mutating operation."""
