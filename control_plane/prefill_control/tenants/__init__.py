"""Tenants: the paying accounts."""
