"""Making the calls: one session of boto3, waiting with progress, and AWS's refusals in one line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from icclip.console import Reporter
from icclip.errors import MissingExtraError, UsageError, shorten
from icclip_plugins.sagemaker.calls import Call
from icclip_plugins.sagemaker.settings import INSTALL, Settings

POLL_SECONDS = 15.0
ENDED = {"InService": True, "Completed": True, "Failed": False, "Stopped": False, "OutOfService": False}
"""Status -> whether it is what was waited for."""


class Account:
    """The AWS account of the usual places: environment, profile, or the machine's role.

    Args:
        settings: its `region` wins over that of the profile.
        reporter: shows the progress of what is waited for.
        poll_seconds: between two looks at something that is waited for.

    Raises:
        MissingExtraError: boto3 is not installed.
    """

    def __init__(self, settings: Settings, reporter: Reporter, poll_seconds: float = POLL_SECONDS) -> None:
        try:
            import boto3
        except ModuleNotFoundError as error:
            raise MissingExtraError("icclip sagemaker", ["boto3"], INSTALL) from error
        with refusals("the session"):
            self.session = boto3.Session(region_name=settings.region)
        self.reporter, self.poll_seconds = reporter, poll_seconds
        self._clients: dict[str, Any] = {}

    def make(self, call: Call) -> Any:
        """Make a call; what it answers.

        Raises:
            UsageError: AWS refuses it, or cannot be reached.
        """
        with refusals(call.operation):
            if call.service not in self._clients:
                self._clients[call.service] = self.session.client(call.service)
            return getattr(self._clients[call.service], call.operation)(**call.parameters)

    def wait(self, look: Call, status: str, reason: str) -> None:
        """Wait until something has ended, and say each new status.

        Args:
            look: the call that describes it.
            status: the key of its status in the answer.
            reason: the key of why it failed.

        Raises:
            UsageError: it failed or was stopped.
        """
        seen = ""
        while True:
            answer = self.make(look)
            if answer[status] != seen:
                seen = answer[status]
                self.reporter.note(f"status: {seen}")
            if seen in ENDED:
                break
            time.sleep(self.poll_seconds)
        if not ENDED[seen]:
            raise UsageError(f"it ended as {seen}: {answer.get(reason) or 'AWS gives no reason'}")


@contextlib.contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn whatever boto3 raises into one line.

    Raises:
        UsageError: credentials or the region are missing, AWS refuses, or it cannot be reached.
    """
    from botocore import exceptions as aws

    try:
        yield
    except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
        raise UsageError(f"AWS does not know who you are ({error}): run `aws configure`, or set AWS_PROFILE") from error
    except aws.NoRegionError as error:
        raise UsageError("no AWS region is known: give --region, or set AWS_REGION") from error
    except aws.ClientError as error:
        said = error.response.get("Error", {})
        message = shorten(str(said.get("Message", error)))
        raise UsageError(f"AWS refuses {what} ({said.get('Code', 'no code')}): {message}") from error
    except aws.ParamValidationError as error:
        raise UsageError(f"{what} cannot be asked for like this: {shorten(str(error))}") from error
    except (aws.BotoCoreError, OSError) as error:
        raise UsageError(f"{what} did not get through to AWS: {shorten(str(error))}") from error
