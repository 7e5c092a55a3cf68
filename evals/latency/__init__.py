"""The latency model: what the calls of each model take, fitted on profiled calls of both workers (R-Stitch+).

`python -m evals.latency` profiles, fits and checks it; `LatencyModel.load` reads what it wrote.
"""

from evals.latency.calls import Run, Service, runs_of
from evals.latency.formulas import Decode, Fit, ModelLatency, Prefill, Serving
from evals.latency.model import LatencyModel

__all__ = ["Decode", "Fit", "LatencyModel", "ModelLatency", "Prefill", "Run", "Service", "Serving", "runs_of"]
