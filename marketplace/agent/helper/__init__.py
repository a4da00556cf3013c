"""What every job can import: `coulomb_job.py` is put into each sandbox, on PYTHONPATH."""
