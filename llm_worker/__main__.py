"""`python -m llm_worker --model DIR_OR_HUB_ID`: serves the large language model."""

from model_worker.entry import main
from model_worker.role import Role
from model_worker.settings import Listen, WorkerSettings
from rstitch.limits import LLM_ADDRESS
from rstitch.v1 import common_pb2


class Settings(WorkerSettings):
    """Serves the large language model behind gRPC."""

    listen: Listen = LLM_ADDRESS


if __name__ == "__main__":
    main(Role("llm", common_pb2.MODEL_LLM, Settings))
