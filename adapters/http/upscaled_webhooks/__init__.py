"""Signed messages to the URLs that jobs name, sent until the receiver has them or a day has passed.

The sidecar and the queue keep such messages in their own stores, and send them by this package.
"""
