#!/usr/bin/env bash
# gRPC by hand; the router tells its contract itself, by reflection. Run: pip install buf-bin; bash examples/buf_curl.sh
set -euo pipefail
router=http://${RSTITCH_ROUTER:-127.0.0.1:50050}

call() { # METHOD [FLAG ...]
    buf curl --protocol grpc --http2-prior-knowledge "${@:2}" "$router/rstitch.v1.RouterService/$1"
}

call GetStatus -d '{}'
call Generate -d '{
    "chat": {"messages": [{"role": "user", "content": "Mia has 47 shells. She finds 35 more. How many shells does she have?"}]},
    "policy": {"threshold": {"tau": 0.02}}
}'
