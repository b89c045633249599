"""Steps: what a job runs, caches and shows."""
