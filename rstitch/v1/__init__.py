"""Generated stubs of the contract in `protos/` (`make proto`). Messages stop in edge files such as `service.py`."""
