"""The history of the database's schema, run by Alembic over a connection that the caller has opened."""
