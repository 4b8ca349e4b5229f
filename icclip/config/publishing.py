"""What is published on the hub, and how it is shown there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from icclip.config.base import Config
from icclip.config.declare import OUTPUT, PUBLICATION, argument, option

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig(Config):
    """What is published on the hub, and how it is shown there."""

    source: Path = argument("Run directory, or exported bundle.", complete="file")
    repository: str = argument("Repository on the hub: OWNER/NAME. It is created if it does not exist.")
    public: bool = option("Create the repository for everyone to see. Without it, a new repository is private.", False, panel=PUBLICATION)  # fmt: skip
    branch: str | None = option(
        "Branch to publish on. It is created if it does not exist.", None, panel=PUBLICATION, metavar="BRANCH",
        unset="main",
    )  # fmt: skip
    message: str | None = option("Message of the commit.", None, panel=PUBLICATION, metavar="TEXT", unset="names what is published")  # fmt: skip
    license: str | None = option(
        "Licence for the model card, as the hub writes it: apache-2.0, mit, cc-by-4.0, ...", None, panel=PUBLICATION,
        flags=("--license", "--licence"), metavar="NAME",
    )  # fmt: skip
    base_model: str | None = option(
        "Hub id of the model that this one was fine-tuned from.", None, panel=PUBLICATION, metavar="OWNER/NAME",
        unset="what the run or bundle records",
    )  # fmt: skip
    examples: tuple[str, ...] = option(
        "Picture for the widget on the hub and the labels to try on it; may be repeated. The picture is published "
        "with the model.",
        (), panel=PUBLICATION, flags=("--example",), metavar="IMAGE=LABEL,LABEL",
    )  # fmt: skip
    picture: bool = option(
        "Draw captions of the model's own test data with the images that it finds first, and publish the picture with "
        "the card. It shows images of your data.",
        False, panel=PUBLICATION,
    )  # fmt: skip
    logs: bool = option("Publish the TensorBoard logs too.", False, panel=PUBLICATION)
    dry_run: bool = option("List the files and their sizes, and publish nothing.", False, panel=OUTPUT)

    def problems(self) -> list[str]:
        """Names that the hub cannot have, and examples without a picture or labels."""
        found = []
        if not REPOSITORY.fullmatch(self.repository):
            found.append(
                f"{{repository}} is {self.repository!r}: write it as OWNER/NAME, in letters, digits, '-', '_' and '.'"
            )
        for example in self.examples:
            picture, _, labels = example.partition("=")
            if not picture or not labels:
                found.append(f"{{examples}} is {example!r}: write it as IMAGE=LABEL,LABEL")
            elif not Path(picture).is_file():
                found.append(f"{{examples}} names {picture}, and there is no such file")
        return found
