"""Queued jobs: machines that take them, and commands that give them.

Celery (Redis, RabbitMQ) and BullMQ are thin bindings around one `machine`, which owns the daemon,
and one `record`, which holds each job's one end.
"""
