"""What a worker is: one language model behind the gRPC contract. `slm_worker` and `llm_worker` both run it."""

import logging

# Where torchao is installed, transformers imports it, and what it says then is about neither us nor the model.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
