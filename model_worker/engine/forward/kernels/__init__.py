"""Kernels in Triton. They know tensors and tables, no model and no session.

Imported only where they are used (`availability.why_not`): torch's build for CPU comes without Triton, and a worker on
a CPU has no use for it. Triton's interpreter runs them on a CPU in tests.
"""
