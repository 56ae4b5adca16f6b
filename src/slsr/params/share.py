"""The block `share`: which DVC remote receives images and pictures of people."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from slsr.params.base import Block

RemoteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Sharing(Block):
    """The only DVC remote that receives what shows people; null is the default remote. dvc.yaml reads this."""

    prepared: RemoteName | None
    pictures: RemoteName | None
    generated: RemoteName | None

    @model_validator(mode="after")
    def what_shows_more_is_restricted_too(self) -> Self:
        """Refuse to restrict pictures while the images that they show go to the default remote."""
        for more, less in (("prepared", "pictures"), ("pictures", "generated")):
            allowed = getattr(self, less)
            if allowed is not None and getattr(self, more) is None:
                raise ValueError(
                    f"{more} null, while {less} go to {allowed} alone: {more} show as much; name a remote there too"
                )
        return self
