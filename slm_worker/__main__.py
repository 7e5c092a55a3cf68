"""`python -m slm_worker --model DIR_OR_HUB_ID`: serves the small language model."""

from model_worker.entry import main
from model_worker.role import Role
from model_worker.settings import Listen, WorkerSettings
from rstitch.limits import SLM_ADDRESS
from rstitch.v1 import common_pb2


class Settings(WorkerSettings):
    """Serves the small language model behind gRPC."""

    listen: Listen = SLM_ADDRESS


if __name__ == "__main__":
    main(Role("slm", common_pb2.MODEL_SLM, Settings))
