"""PostgreSQL and Redis from the binaries that their wheels carry, run as private services."""
