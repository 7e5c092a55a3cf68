#!/usr/bin/env bash
# Measures every policy on the tiny pair anew and writes the tables of docs/results/*.md: about an hour on two cores.
#
#   make results                                  all of it
#   make results ARGS="latency programs"          these parts only
#   N=100 N_LATENCY=20 make results               on fewer problems
#   PYTHON=echo bash runs/results.sh              only says what it would run
#
# Runs are kept in $RUNS: a second call goes on where the first ended. What the figures say of the paper's claims is
# written by a person, and so is the summary: read docs/results.md again when they have changed.
set -euo pipefail
cd "$(dirname "$0")/.."

N=${N:-1000}                   # held-out problems; the second domain has half as many
N_LATENCY=${N_LATENCY:-200}    # of the run with one session at a time
RUNS=${RUNS:-.run/results}
PYTHON=${PYTHON:-.venv/bin/python}

PAGES=docs/results  # and the pictures
MODELLED="--latency-model $PAGES/latency.json"
evaluation="$PYTHON -m evals.evaluation"

# As many points as a line needs; the middle of each was looked for on the dev split.
ENTROPY=$(echo threshold:tau={0.001,0.005,0.02,0.05,0.1,0.2})
CONFIDENCE=$(echo confidence:threshold={0.6,0.8,0.95})
MARGIN=$(echo threshold:tau={0.1,0.3,0.6},signal=margin)
WINDOW=$(echo threshold:tau={0.005,0.01,0.03},signal=entropy_window,window=4)
# The first two have about the LLM's shares of tau 0.02 and 0.005.
RANDOM_ROUTING=$(echo random:slm_probability={0.965,0.94,0.8})
SPECULATIVE=speculative:draft_tokens=4
LEARNED="learned:name=tiny learned:name=tiny,tau=0.03"
# At threshold 1 no trial is ever kept: what trials cost.
EXIT="llm_only+early_exit:threshold=0.95 $(echo threshold:tau=0.02+early_exit:threshold={0.95,1})"
ALONE="llm_only slm_only"

report() {  # NAME [FLAGS OF THE REPORT [FLAGS OF THE PLOT]]: a run's tables and plots
    $evaluation report "$RUNS/$1.jsonl" ${2:-} --write "$PAGES/$1.md:$1"
    $evaluation plot "$RUNS/$1.jsonl" ${3:-} --out $PAGES --name "$1-"
}

# The latency model, checked on whole answers (3 minutes).
model() {
    $PYTHON -m evals.latency check --write
}

# Every policy, one session at a time, in turn (8 minutes).
latency() {
    $evaluation run --task tiny --n "$N_LATENCY" --out "$RUNS/latency.jsonl" --concurrency 1 --systems \
        $ALONE threshold:tau={0.005,0.02,0.05,0.1} confidence:threshold=0.8 threshold:tau=0.3,signal=margin \
        random:slm_probability=0.965 $SPECULATIVE $LEARNED $EXIT
    report latency "$MODELLED"
}

# Every signal and policy, many sessions at once; where switching hurts (30 minutes).
frontier() {
    $evaluation run --task tiny --n "$N" --out "$RUNS/frontier.jsonl" --concurrency 16 --order blocks --systems \
        $ALONE $ENTROPY $CONFIDENCE $MARGIN $WINDOW $RANDOM_ROUTING $SPECULATIVE $LEARNED $EXIT
    report frontier "$MODELLED --no-times" "$MODELLED"
    $evaluation hurt "$RUNS/frontier.jsonl" --systems threshold:tau=0.1 --write $PAGES/hurt.md:hurt
    $evaluation harmful "$RUNS/frontier.jsonl" --systems slm_only threshold:tau=0.1 --write $PAGES/hurt.md:harmful \
        --out $PAGES
}

# A second domain (10 minutes).
programs() {
    $evaluation run --task programs --n $(((N + 1) / 2)) --out "$RUNS/programs.jsonl" --concurrency 16 --order blocks \
        --slm models/tiny-programs-slm --llm models/tiny-programs-llm --systems \
        $ALONE $ENTROPY $SPECULATIVE random:slm_probability=0.9
    report programs --no-times --no-times
}

# The bundled heads beside thresholds (15 minutes).
heads() {
    $evaluation run --task tiny --n "$N" --out "$RUNS/heads-tiny.jsonl" --concurrency 16 --order blocks --systems \
        $ALONE threshold:tau={0.005,0.02} $LEARNED learned:name=tiny,price=2
    $evaluation report "$RUNS/heads-tiny.jsonl" $MODELLED --no-times --write "$PAGES/heads.md:heads-tiny"
    $evaluation run --task programs --n $(((N + 1) / 2)) --out "$RUNS/heads-programs.jsonl" --concurrency 16 \
        --order blocks --slm models/tiny-programs-slm --llm models/tiny-programs-llm --systems \
        $ALONE threshold:tau={0.001,0.02} learned:name=programs
    $evaluation report "$RUNS/heads-programs.jsonl" --latency-model $PAGES/latency-programs.json --no-times \
        --write "$PAGES/heads.md:heads-programs"
}

PARTS="model latency frontier programs heads"
for part in ${*:-$PARTS}; do
    [[ " $PARTS " == *" $part "* ]] || { echo "results: there is no part $part; choose of $PARTS" >&2; exit 2; }
done
mkdir -p "$RUNS"
for part in ${*:-$PARTS}; do
    echo "== $part"
    $part
done
