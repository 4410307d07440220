"""Asking clouds before a claim. Without Prefect: a plan asks too."""

from __future__ import annotations

from collections.abc import Sequence

from drivers import registry
from tasks.environment import environment
from vdc.claims.burst import Question
from vdc.errors import Refused, Unready, VdcError


def ask_clouds(questions: Sequence[Question]) -> dict[str, str]:
    """By cloud: empty where it answers and has the image, else what is wrong."""
    answers = {}
    for question in questions:
        try:
            registry.cloud(question.uri, environment().access).check_image(question.ami)
        except VdcError as error:
            answers[question.name] = str(error)
        else:
            answers[question.name] = ""
    return answers


def check_ami(uri: str, ami: str) -> None:
    """Raises Refused where the cloud does not answer, or has no such image."""
    try:
        registry.cloud(uri, environment().access).check_image(ami)
    except Refused:
        raise
    except VdcError as error:
        raise Unready(f"Image {ami} could not be looked up: {error}") from error
