#!/usr/bin/env bash
# OpenAI's API by hand: an answer, a stream, tokens, what is kept. Run: bash examples/curl.sh
set -euo pipefail
url=${RSTITCH_HTTP:-http://127.0.0.1:8000}
question='[{"role": "user", "content": "Mia has 47 shells. She finds 35 more. How many shells does she have?"}]'

ask() { # PATH BODY
    curl --silent --show-error --fail-with-body --no-buffer -H 'content-type: application/json' "$url$1" -d "$2"
}

echo "== an answer"
answer=$(ask /v1/chat/completions "{\"model\": \"rstitch:threshold:tau=0.02\", \"messages\": $question}")
echo "$answer"

echo "== as it is written"
ask /v1/chat/completions "{\"model\": \"rstitch\", \"messages\": $question, \"stream\": true, \"logprobs\": true}"

echo "== its prompt as tokens"
ask /tokenize "{\"messages\": $question, \"return_token_strs\": true}"

id=$(sed -E 's/^\{"id":"([^"]+)".*/\1/' <<< "$answer")
printf '\n== what is kept of the first, and no more\n'
curl --silent --show-error --fail-with-body "$url/v1/chat/completions/$id"
curl --silent --show-error --fail-with-body -X DELETE "$url/v1/chat/completions/$id"
echo
