"""Run migrations on the connection that `gateway.database.migrate` hands over, in its transaction."""

from alembic import context

from gateway.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
