"""The database's shape: roles, versions, and how they are applied."""
