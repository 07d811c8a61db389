"""Tell operators what they should know.

A *notice* begins and ends (`gateway.store.notices`): a connection is paused, deliveries fail, a mapping fails, calls
are late. Most are written in the transaction that makes the change. `detect` finds the others by looking at the
database; `post` logs all of them and posts them to GATEWAY_ALERT_URL.
"""
