"""`cq_runworker`: a supervisor, and the processes that it keeps running."""
