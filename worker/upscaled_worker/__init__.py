"""The worker process: runs jobs in lanes and answers each exactly once."""
