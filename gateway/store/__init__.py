"""The only SQL: events, deliveries and connection states, on SQLite or PostgreSQL."""
