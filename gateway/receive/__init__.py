"""POST /hooks/<source>: read, verify, translate and record a webhook, and only then answer 2xx."""
