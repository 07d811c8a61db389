"""The worker: claim due deliveries, send them, decide what follows, settle."""
