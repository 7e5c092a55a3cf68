"""What a worker said, in the answer's ids. It knows a view's ids and a reply's fields, and no worker."""

from __future__ import annotations

from dataclasses import replace

from router_svc.text.views import View
from router_svc.trajectory.details import Alternatives
from router_svc.workers.runs import Reply


def in_answer_ids(reply: Reply, view: View) -> Reply:
    """Returns a reply with each of the model's own ids as the answer's, changed in place where the two differ."""
    if view.is_shared:
        return reply
    reply.tokens = view.to_answer(reply.tokens)
    reply.consultations = [
        replace(asked, proposal=view.to_answer([asked.proposal])[0]) for asked in reply.consultations
    ]
    reply.alternatives = [_translated(others, view) for others in reply.alternatives]
    if reply.finish is not None and reply.finish.proposal is not None:
        proposal = reply.finish.proposal
        token, others = view.to_answer([proposal.token])[0], _translated(proposal.alternatives, view)
        reply.finish = replace(reply.finish, proposal=replace(proposal, token=token, alternatives=others))
    return reply


def _translated(others: Alternatives, view: View) -> Alternatives:
    tokens = view.to_answer([token for token, _ in others])
    return tuple(zip(tokens, (logprob for _, logprob in others), strict=True))
