"""Names of span attributes and of metrics, all of them.

`GEN_AI_*` and `RPC_*` follow the OpenTelemetry semantic conventions 1.44.0, where the GenAI ones still have the status
"development": a change of theirs is a change of this file only. `RSTITCH_*` are ours. It does not know who sets them.
"""

from __future__ import annotations

from typing import Final

SEMCONV_SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# The generation, on its root span.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

# Ours, on its root span.
RSTITCH_SESSION_ID: Final = "rstitch.session_id"
RSTITCH_TENANT: Final = "rstitch.tenant"
RSTITCH_POLICY: Final = "rstitch.policy"
RSTITCH_TAU: Final = "rstitch.tau"
RSTITCH_EARLY_EXIT_THRESHOLD: Final = "rstitch.early_exit.threshold"
RSTITCH_GUARD_REASON: Final = "rstitch.guard.reason"
RSTITCH_EPOCH: Final = "rstitch.epoch"
RSTITCH_USAGE_SLM_TOKENS: Final = "rstitch.usage.slm_tokens"
RSTITCH_USAGE_LLM_TOKENS: Final = "rstitch.usage.llm_tokens"
RSTITCH_USAGE_DISCARDED_PROPOSALS: Final = "rstitch.usage.discarded_proposals"
RSTITCH_USAGE_SWITCHES: Final = "rstitch.usage.switches"
RSTITCH_USAGE_CATCH_UP_TOKENS: Final = "rstitch.usage.catch_up_tokens"
RSTITCH_USAGE_TRIALS: Final = "rstitch.usage.trials"
RSTITCH_USAGE_TIME_TO_FIRST_TOKEN_US: Final = "rstitch.usage.time_to_first_token_us"

# A segment: a run of tokens by one model. `from` is the model that wrote before (none for the first).
RSTITCH_SEGMENT_FROM: Final = "rstitch.segment.from"
RSTITCH_SEGMENT_TO: Final = "rstitch.segment.to"
RSTITCH_SEGMENT_MODEL: Final = "rstitch.segment.model"
RSTITCH_SEGMENT_REASON: Final = "rstitch.segment.reason"
RSTITCH_SEGMENT_ENTROPY: Final = "rstitch.segment.entropy"
RSTITCH_SEGMENT_TAU: Final = "rstitch.segment.tau"
RSTITCH_SEGMENT_WHY: Final = "rstitch.segment.why"
RSTITCH_SEGMENT_WORKER: Final = "rstitch.segment.worker"
RSTITCH_SEGMENT_POSITION: Final = "rstitch.segment.position"
RSTITCH_SEGMENT_NUM_TOKENS: Final = "rstitch.segment.num_tokens"
RSTITCH_SEGMENT_NUM_RUN_AHEAD_TOKENS: Final = "rstitch.segment.num_run_ahead_tokens"
RSTITCH_SEGMENT_NUM_CATCH_UP_TOKENS: Final = "rstitch.segment.num_catch_up_tokens"
RSTITCH_SEGMENT_QUEUE_US: Final = "rstitch.segment.queue_us"
RSTITCH_SEGMENT_FORWARD_US: Final = "rstitch.segment.forward_us"

# A group of segments, which are numbered from 1; what the SLM wrote ahead.
RSTITCH_GROUP_FIRST: Final = "rstitch.group.first"
RSTITCH_RUN_AHEAD_POSITION: Final = "rstitch.run_ahead.position"

# A trial answer of early exit.
RSTITCH_TRIAL_MODEL: Final = "rstitch.trial.model"
RSTITCH_TRIAL_POSITION: Final = "rstitch.trial.position"
RSTITCH_TRIAL_NUM_TOKENS: Final = "rstitch.trial.num_tokens"
RSTITCH_TRIAL_CONFIDENCE: Final = "rstitch.trial.confidence"
RSTITCH_TRIAL_TAKEN: Final = "rstitch.trial.taken"

# A run on a worker.
RSTITCH_RUN_POSITION: Final = "rstitch.run.position"
RSTITCH_RUN_NUM_TOKENS: Final = "rstitch.run.num_tokens"
RSTITCH_RUN_NUM_CACHED_TOKENS: Final = "rstitch.run.num_cached_tokens"
RSTITCH_RUN_REASON: Final = "rstitch.run.reason"
RSTITCH_RUN_QUEUE_US: Final = "rstitch.run.queue_us"
RSTITCH_RUN_FORWARD_US: Final = "rstitch.run.forward_us"

# An answer that is observed, in the router and on the SLM's worker.
RSTITCH_OBSERVE_TAU: Final = "rstitch.observe.tau"
RSTITCH_OBSERVE_POSITION: Final = "rstitch.observe.position"
RSTITCH_OBSERVE_NUM_POSITIONS: Final = "rstitch.observe.num_positions"
RSTITCH_OBSERVE_NUM_TOLD: Final = "rstitch.observe.num_told"

# Metrics of the router. Times in s, as the conventions want them.
GEN_AI_SERVER_REQUEST_DURATION: Final = "gen_ai.server.request.duration"
GEN_AI_SERVER_TIME_TO_FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"
GEN_AI_SERVER_TIME_PER_OUTPUT_TOKEN: Final = "gen_ai.server.time_per_output_token"
METRIC_ANSWERS: Final = "rstitch.answers"
METRIC_TOKENS: Final = "rstitch.tokens"
METRIC_SWITCHES: Final = "rstitch.switches"
METRIC_DISCARDED_PROPOSALS: Final = "rstitch.discarded_proposals"
METRIC_CATCH_UP_TOKENS: Final = "rstitch.catch_up_tokens"
METRIC_RUN_AHEAD_TOKENS: Final = "rstitch.run_ahead_tokens"
METRIC_TRIALS: Final = "rstitch.trials"
METRIC_RUNNING: Final = "rstitch.running"
METRIC_OBSERVED: Final = "rstitch.observed"
METRIC_OBSERVED_POSITIONS: Final = "rstitch.observed_positions"
METRIC_GUARD_LLM_ONLY: Final = "rstitch.guard.llm_only"
METRIC_GUARD_LOOKS: Final = "rstitch.guard.looks"
METRIC_GUARD_COST: Final = "rstitch.guard.cost"
METRIC_QUOTA_REFUSALS: Final = "rstitch.quota_refusals"
METRIC_READY: Final = "rstitch.ready"
METRIC_CONNECTED: Final = "rstitch.connected"
METRIC_FLEET_MEMBERS: Final = "rstitch.fleet.members"
METRIC_FLEET_MOVES: Final = "rstitch.fleet.moves"
METRIC_TAU: Final = "rstitch.tau"
METRIC_ENTROPY: Final = "rstitch.entropy"
METRIC_SEGMENT_LENGTH: Final = "rstitch.segment.length"
METRIC_REDIS_APPENDS: Final = "rstitch.redis.appends"
METRIC_REDIS_UNCONFIRMED: Final = "rstitch.redis.unconfirmed"
METRIC_REDIS_APPEND_DURATION: Final = "rstitch.redis.append.duration"

# Metrics of router and workers.
METRIC_REFUSALS: Final = "rstitch.refusals"
METRIC_CERTIFICATE_EXPIRY: Final = "rstitch.certificate.expiry"

# Of the gateway.
HTTP_ROUTE: Final = "http.route"
HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS: Final = "http.response.status_code"
METRIC_HTTP_DURATION: Final = "http.server.request.duration"
METRIC_HTTP_ACTIVE: Final = "http.server.active_requests"

# Metrics of a worker.
METRIC_WORKER_CACHED_TOKENS: Final = "rstitch.worker.cached_tokens"
METRIC_WORKER_CACHE_HITS: Final = "rstitch.worker.cache_hits"
METRIC_WORKER_CACHE_EVICTIONS: Final = "rstitch.worker.cache_evictions"
METRIC_WORKER_STEPS: Final = "rstitch.worker.steps"
METRIC_WORKER_COMPUTED_TOKENS: Final = "rstitch.worker.computed_tokens"
METRIC_WORKER_KEPT_TOKENS: Final = "rstitch.worker.kept_tokens"
METRIC_WORKER_OBSERVED_POSITIONS: Final = "rstitch.worker.observed_positions"
METRIC_WORKER_FORWARD_TIME: Final = "rstitch.worker.forward_time"
METRIC_WORKER_QUEUE_TIME: Final = "rstitch.worker.queue_time"
METRIC_WORKER_EVICTIONS: Final = "rstitch.worker.evictions"
METRIC_WORKER_REFUSALS: Final = "rstitch.worker.refusals"
METRIC_WORKER_GRAPH_STEPS: Final = "rstitch.worker.graph_steps"
METRIC_WORKER_GRAPH_MISSES: Final = "rstitch.worker.graph_misses"
METRIC_WORKER_DELAYED_STEPS: Final = "rstitch.worker.delayed_steps"
METRIC_WORKER_DELAYED_TIME: Final = "rstitch.worker.delayed_time"
METRIC_WORKER_PAGES: Final = "rstitch.worker.pages"
METRIC_WORKER_AVAILABLE_PAGES: Final = "rstitch.worker.available_pages"
METRIC_WORKER_WINDOW_PAGES: Final = "rstitch.worker.window_pages"
METRIC_WORKER_STATES: Final = "rstitch.worker.states"
METRIC_WORKER_SESSIONS: Final = "rstitch.worker.sessions"
METRIC_WORKER_RUNS: Final = "rstitch.worker.runs"
METRIC_WORKER_WAITING: Final = "rstitch.worker.waiting"
METRIC_WORKER_STEP_DURATION: Final = "rstitch.worker.step.duration"

# Attributes of metrics.
ERROR_TYPE: Final = "error.type"
RSTITCH_FINISH_REASON: Final = "rstitch.finish_reason"
RSTITCH_GUARDED: Final = "rstitch.guarded"
RSTITCH_MODEL: Final = "rstitch.model"
RSTITCH_KEPT: Final = "rstitch.kept"
RSTITCH_LOAD: Final = "rstitch.load"
RSTITCH_QUOTA: Final = "rstitch.quota"
RSTITCH_BATCH: Final = "rstitch.batch"
RSTITCH_STATE: Final = "rstitch.state"
RSTITCH_RUN_KIND: Final = "rstitch.run.kind"
RSTITCH_REASON: Final = "rstitch.reason"
RSTITCH_CERTIFICATE: Final = "rstitch.certificate"

# A gRPC call.
RPC_SYSTEM: Final = "rpc.system"
RPC_SERVICE: Final = "rpc.service"
RPC_METHOD: Final = "rpc.method"
RPC_GRPC_STATUS_CODE: Final = "rpc.grpc.status_code"
