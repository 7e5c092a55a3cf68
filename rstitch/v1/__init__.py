"""Generated stubs of the contract in `protos/` (`make proto`). Messages stop in edge files: `service.py`, `workers.py`."""
