"""What operators do and are told: queries, replay, ingest, retention, alerts and metrics."""
