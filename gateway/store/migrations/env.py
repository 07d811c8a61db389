"""Run migrations on the connection that `gateway.store.schema.migrate` passes, in its transaction."""

from alembic import context

from gateway.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
