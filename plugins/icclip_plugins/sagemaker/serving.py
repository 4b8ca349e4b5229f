"""What SageMaker starts in a serving container: `icclip serve` over the bundle in `/opt/ml/model`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from icclip.bundles.manifest import is_bundle
from icclip.errors import EXIT_USAGE, UsageError
from icclip_plugins.sagemaker.handlers import BUNDLE

PORT = "8080"


def command(environment: Mapping[str, str]) -> list[str]:
    """`icclip serve` as the container needs it.

    Args:
        environment: SAGEMAKER_BASE_DIR and SAGEMAKER_BIND_TO_PORT are read.

    Raises:
        UsageError: there is no bundle.
    """
    model = Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml")) / "model"
    bundle = next((place for place in (model, model / BUNDLE) if is_bundle(place)), None)
    if bundle is None:
        raise UsageError(
            f"{model} holds no bundle: make one with `icclip export`, and pack it with `icclip sagemaker package`"
        )
    port = environment.get("SAGEMAKER_BIND_TO_PORT", PORT)
    # Nobody but SageMaker reaches a container's port, and it comes from another address.
    return [sys.executable, "-m", "icclip", "serve", str(bundle), "--host", "0.0.0.0", "--port", port]  # noqa: S104


def main() -> None:
    """Become the service, so that its signals are its own."""
    try:
        words = command(os.environ)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_USAGE) from error
    os.execv(words[0], words)  # noqa: S606 # no shell is wanted


if __name__ == "__main__":
    main()
