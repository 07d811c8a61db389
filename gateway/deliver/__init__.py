"""Claim due deliveries, send them, decide what follows, settle."""
