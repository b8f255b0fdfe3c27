"""Datacenters: where prefill happens, and what a tenant wishes and demands about it."""
