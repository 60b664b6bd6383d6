"""`upscaled serve` under supervisord (PyPI `supervisor`), in a container or on a machine.

`supervisord.conf` starts the server and the event listener `watch`; `pid1` runs supervisord.
"""
