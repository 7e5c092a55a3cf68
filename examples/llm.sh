#!/usr/bin/env bash
# The command line `llm`, without a key or a plugin. Run: pip install llm; bash examples/llm.sh
set -euo pipefail
url=${RSTITCH_HTTP:-http://127.0.0.1:8000}/v1

llm openai endpoint "$url" -m rstitch:threshold:tau=0.02 "Mia has 47 shells. She finds 35 more. How many shells does she have?"
