"""Tools that evaluate models: ten questions of the tiny domain, asked by lm_eval and by Inspect as they ask anybody."""

from __future__ import annotations

import json
from pathlib import Path

from evals.clients.outcomes import Outcome
from evals.clients.suites.suite import first, place, write_questions

_INSPECT_TASK = Path(__file__).parent / "inspect_task.py"
_TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 256, temperature: 0}}
filter_list:
  - name: boxed
    filter:
      - {{function: regex, regex_pattern: 'boxed\\{{([^}}]*)\\}}'}}
      - {{function: take_first}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def lm_eval(http: str) -> Outcome:
    """Runs `lm_eval --model local-chat-completions`; passes if it ends well and finds answers right."""
    at = place(http, "lm-eval")
    questions = at.folder / "questions.jsonl"
    write_questions(questions)
    (at.folder / "tiny.yaml").write_text(_TASK.format(questions=questions))
    asked = f"model=rstitch,base_url={http}/v1/chat/completions,num_concurrent=2,tokenizer_backend=none"
    ran = at.run(
        [
            "lm_eval", "--model", "local-chat-completions", "--model_args", asked, "--apply_chat_template",
            "--tasks", str(at.folder / "tiny.yaml"), "--output_path", str(at.folder / "results.json"),
        ]
    )  # fmt: skip
    right = first(r"exact_match\s*\|[^|]*\|\s*([\d.]+)", ran.output)
    passed = ran.code == 0 and float(right or 0) > 0
    return at.outcome("lm_eval, ten questions", "lm_eval", ran, passed=passed, note=f"exact_match {right or '?'}")


def inspect(http: str) -> Outcome:
    """Runs `inspect eval` by its provider for compatible servers; passes if it ends well and finds answers right."""
    at = place(http, "inspect-ai")
    write_questions(at.folder / "questions.jsonl")
    (at.folder / "inspect_task.py").write_text(_INSPECT_TASK.read_text())
    env = {"TINY_API_KEY": "none", "TINY_BASE_URL": f"{http}/v1", "INSPECT_DISPLAY": "plain"}
    command = ["inspect", "eval", "inspect_task.py", "--model", "openai-api/tiny/rstitch", "--log-format", "json"]
    ran = at.run([*command, "--max-tokens", "256", "--temperature", "0", "--log-dir", str(at.folder / "logs")], **env)
    logs = sorted((at.folder / "logs").glob("*.json"), key=lambda path: path.stat().st_mtime)
    results = json.loads(logs[-1].read_text()).get("results") if logs and ran.code == 0 else None
    right = results["scores"][0]["metrics"]["accuracy"]["value"] if results else 0.0
    note = f"accuracy {right:g}"
    return at.outcome("Inspect, ten questions", "inspect-ai", ran, passed=ran.code == 0 and right > 0, note=note)
