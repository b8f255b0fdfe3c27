"""Snapshots: what gateways decide by, built from the tables, signed, and told through Redis."""
